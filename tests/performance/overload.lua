-- The mixed load by callers of whom some are refused. wrk takes all answers' times together and does not tell a script
-- whose an answer is, so each caller is a thread of its own here, and measures for itself.
-- With `patient` on the command line a refused caller waits for as long as Retry-After says; else it asks again at once.

dofile("mixed.lua")

local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds, nanoseconds; } moment; int clock_gettime(int, moment *);")
local MONOTONIC = 1
local moment = ffi.new("moment")

local function now() -- in µs
  ffi.C.clock_gettime(MONOTONIC, moment)
  return tonumber(moment.seconds) * 1e6 + tonumber(moment.nanoseconds) / 1e3
end

-- Of each answer: when it came, how long it took, and its status. Global, because `done` asks the threads for them.
came, took, statuses = {}, {}, {}
began = nil
local threads = {}
local asked, pause = 0, 0

setup = function(thread)
  table.insert(threads, thread)
  thread:set("seed", #threads)
end

local read_users = init
init = function(arguments)
  read_users(arguments)
  if arguments[2] == "patient" then
    delay = function() return pause end
  end
end

local draw = request
request = function()
  local bytes = draw()
  asked = now()
  began = began or asked
  return bytes
end

response = function(status, headers)
  local at = now()
  table.insert(came, at)
  table.insert(took, at - asked)
  table.insert(statuses, status)
  local seconds = status == 503 and (headers["Retry-After"] or headers["retry-after"]) or 0
  pause = tonumber(seconds) * 1000
end

local function percentile(values, share)
  table.sort(values)
  return values[math.ceil(#values * share)] or 0
end

done = function(summary)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.timeout
  local first, last = 0, 0 -- wrk starts its threads one after the other: what counts begins with the last of them
  for _, thread in ipairs(threads) do first = math.max(first, thread:get("began")) end
  local accepted, refused = {}, {}
  for _, thread in ipairs(threads) do
    local came, took, statuses = thread:get("came"), thread:get("took"), thread:get("statuses")
    for i, at in ipairs(came) do
      if statuses[i] ~= 503 and statuses[i] >= 300 then failed = failed + 1 end
      if at >= first then table.insert(statuses[i] == 503 and refused or accepted, took[i]) end
      last = math.max(last, at)
    end
  end
  io.write(string.format(
    "RESULT failed=%d seconds=%f accepted=%d accepted_p50_us=%d accepted_p99_us=%d refused=%d refused_p99_us=%d\n",
    failed, (last - first) / 1e6, #accepted, percentile(accepted, 0.5), percentile(accepted, 0.99),
    #refused, percentile(refused, 0.99)))
end
