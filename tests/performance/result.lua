-- What a run came to, on one line for the program that started it.

done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT requests=%d failed=%d seconds=%f p50_us=%d p99_us=%d\n",
    summary.requests, errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50), latency:percentile(99)))
end
