"""Traces: a collector gets a span for each request, and nothing that a client wrote."""

import http.server
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.network import free_port
from tests.processes import DEADLINE, SCRIPT, backend, environment, serving
from tests.settings import SECRET, settings_of

pytest.importorskip("opentelemetry.sdk")
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"


class Collector(http.server.ThreadingHTTPServer):
    """What receives spans, and keeps them as they came."""

    daemon_threads = True

    def __init__(self) -> None:
        self.received: list[bytes] = []
        received = self.received

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                received.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def spans(self) -> list[dict[str, Any]]:
        """Every span's name, trace and attributes."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        found = []
        for content in self.received:
            for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        attributes = {
                            each.key: each.value.string_value or each.value.int_value for each in span.attributes
                        }
                        known = {"name": span.name, "trace": span.trace_id.hex(), "parent": span.parent_span_id.hex()}
                        found.append({**known, **attributes})
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector
        collector.shutdown()


def traced_to(endpoint: str, folder: Path) -> dict[str, str]:
    return settings_of(folder, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_BSP_SCHEDULE_DELAY="50")


def test_a_span_has_the_route_and_nothing_that_the_client_wrote(collector: Collector, tmp_path: Path) -> None:
    settings = traced_to(f"http://127.0.0.1:{collector.server_port}/", tmp_path)
    assert backend("migrate", cwd=tmp_path, **settings).returncode == 0
    token = backend("token", "--user", "zebra", cwd=tmp_path, **settings).stdout.strip()
    headers = {
        "Authorization": f"Bearer {token}",
        "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01",
        "tracestate": "zebra=zebra",
        "baggage": "zebra=zebra,zebra",
    }
    task_id = str(uuid.uuid4())
    with serving([SCRIPT, "serve", "--host", "127.0.0.1"], tmp_path, **settings) as server:
        with httpx.Client(base_url=server.url, headers=headers) as client:
            assert client.post("/api/tasks", json={"title": "zebra"}).status_code == 201
            assert client.get("/api/tasks?search=zebra&limit=1&zebra=1").status_code == 422
            assert client.get(f"/api/tasks/{task_id}").status_code == 404
            assert client.get("/api/tasks/zebra/zebra?zebra").status_code == 404
            assert client.request("ZEBRA", "/api/tasks").status_code in {400, 405}
            assert client.get("/health", headers={"tracestate": "zebra", "traceparent": TRACE_ID}).status_code == 200
        server.process.terminate()
        assert server.process.wait(DEADLINE) == -signal.SIGTERM
        log = server.stderr
    spans = {span["name"]: span for span in collector.spans() if "/health" not in span["name"]}
    assert spans["POST /api/tasks"] | {"server.port": 0} == {
        "name": "POST /api/tasks",
        "trace": TRACE_ID,
        "parent": PARENT_ID,
        "url.scheme": "http",
        "url.path": "/api/tasks",
        "http.request.method": "POST",
        "http.response.status_code": 201,
        "http.route": "/api/tasks",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": 0,
    }
    assert spans["GET /api/tasks"]["url.query"] == "search=*&limit=*"
    assert spans["GET /api/tasks/{id}"]["url.path"] == "/api/tasks/*"
    assert spans["GET"]["url.path"] == "/api/tasks/*/*"
    assert f"trace_id={TRACE_ID}" in log
    assert "zebra" not in log.lower()
    everything = b"".join(collector.received)
    for secret in (b"zebra", b"ZEBRA", task_id.encode(), token.encode(), SECRET.encode()):
        assert secret not in everything


def test_a_collector_that_does_not_respond_holds_nothing_up(tmp_path: Path) -> None:
    settings = traced_to(f"http://127.0.0.1:{free_port()}", tmp_path)
    with serving([SCRIPT, "serve", "--host", "127.0.0.1"], tmp_path, **settings) as server:
        for _ in range(20):
            assert httpx.get(f"{server.url}/health").status_code == 200
        server.process.terminate()
        assert server.process.wait(DEADLINE) == -signal.SIGTERM


def test_without_an_endpoint_nothing_is_imported(tmp_path: Path) -> None:
    program = "import sys, backend.main; print('opentelemetry.sdk' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(BETTER_AUTH_SECRET=SECRET),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "False\n"
