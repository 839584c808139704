"""The admin port: metrics and probes for the operator, apart from the port that clients reach."""

import http.client
import os
import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FORWARDED = frozenset({"/health", "/health/ready"})
PROBE_TIMEOUT = 5.0
FOLDER = "todo-metrics-"
"""What the names of the folders of metrics begin with; the number of the process follows."""


def prepare_metrics() -> None:
    """Have every process that is started from now on measure. Raises `OSError` where no file can be written.

    What it writes is removed by the next start: a process that a signal ends, as uvicorn's does, removes nothing. In a
    container the next one may have its number.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}[0-9]*-*"):
        pid = folder.name.split("-")[2]
        if pid.isdecimal() and (int(pid) == os.getpid() or not _is_running(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)  # another user's stays
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    return True


def start_admin_server(host: str, port: int, service: tuple[str, int]) -> None:
    """Serve `/metrics`, and `/health` and `/health/ready` as `service` does, in a thread. Raises `OSError`."""
    # Imported here, so that who has no admin port needs no prometheus_client.
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector

    class Handler(BaseHTTPRequestHandler):
        timeout = PROBE_TIMEOUT

        def do_GET(self) -> None:  # http.server's name
            path = self.path.partition("?")[0]
            if path == "/metrics":
                forget_ended_processes()
                registry = CollectorRegistry()
                MultiProcessCollector(registry)
                encoder, media_type = choose_encoder(self.headers.get("Accept", ""))
                self.respond(HTTPStatus.OK, media_type, encoder(registry))
            elif path in FORWARDED:
                self.respond(*ask(service, path))
            else:
                self.respond(HTTPStatus.NOT_FOUND, "text/plain", b"/metrics, /health, /health/ready\n")

        def respond(self, status: int, media_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_arguments: object) -> None:  # noqa: A002 # http.server's name
            """Leave scrapes out of the log."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    threading.Thread(target=Server((host, port), Handler).serve_forever, daemon=True).start()


def ask(service: tuple[str, int], path: str) -> tuple[int, str, bytes]:
    """Return the service's response; 503 where there is none."""
    connection = http.client.HTTPConnection(*service, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers.get("Content-Type", "text/plain"), response.read()
    except (OSError, http.client.HTTPException):
        return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"the service does not respond\n"
    finally:
        connection.close()


def forget_ended_processes() -> None:
    """Drop the states of processes that have ended: what they counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not _is_running(pid):
            with suppress(FileNotFoundError):
                mark_process_dead(pid)
