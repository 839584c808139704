"""The admin port: metrics and probes for the operator, apart from the port that clients reach."""

import http.client
import io
import logging
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FORWARDED = frozenset({"/health", "/health/ready"})
PROBE_TIMEOUT = 5.0
"""Seconds for a request to arrive, for its response to be read, and for the service to respond to a probe."""
PLACES = 16
"""Requests that are served at once, a thread each; others wait until they are accepted."""
FOLDER = "todo-metrics-"
"""What the names of the folders of metrics begin with; the number of the process follows."""
_FOLDER_OF_PROCESS = re.compile(rf"{FOLDER}([1-9][0-9]{{0,8}})-")


def prepare_metrics() -> None:
    """Have every process that is started from now on measure. Raises `OSError` where no file can be written.

    What it writes is removed by the next start: a process that a signal ends, as uvicorn's does, removes nothing. In a
    container the next one may have its number.
    """
    made = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
    for folder in made.parent.glob(f"{FOLDER}*"):  # where everybody may make some, of any name
        named = _FOLDER_OF_PROCESS.match(folder.name)
        if named is None or folder == made:
            continue
        pid = int(named[1])
        if (pid == os.getpid() or not _is_running(pid)) and _is_folder_of_same_owner(folder, made):
            shutil.rmtree(folder, ignore_errors=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(made)


def _is_folder_of_same_owner(folder: Path, ours: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:  # another start has removed it
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == ours.stat().st_uid


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
        def setup(self) -> None:
            super().setup()
            self.rfile = io.BufferedReader(_Arriving(self.connection))

        def do_GET(self) -> None:  # http.server's name
            path = self.path.partition("?")[0]
            if path == "/metrics":
                forget_ended_processes()
                registry = CollectorRegistry()
                MultiProcessCollector(registry)
                try:
                    encoder, media_type = choose_encoder(self.headers.get("Accept", ""))
                except (TypeError, ValueError):  # it names a version that is none
                    encoder, media_type = choose_encoder("")
                self.respond(HTTPStatus.OK, media_type, encoder(registry))
            elif path in FORWARDED:
                self.respond(*ask(service, path))
            else:
                self.respond(HTTPStatus.NOT_FOUND, "text/plain", b"/metrics, /health, /health/ready\n")

        def respond(self, status: int, media_type: str, body: bytes) -> None:
            self.connection.settimeout(PROBE_TIMEOUT)
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_arguments: object) -> None:  # noqa: A002 # http.server's name
            """Leave scrapes out of the log."""

    class Server(_Server):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    threading.Thread(target=Server((host, port), Handler).serve_forever, daemon=True).start()


class _Arriving(io.RawIOBase):
    """What a client sends. All of it must be there in time, or `TimeoutError` is raised, however it drips."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._end = time.monotonic() + PROBE_TIMEOUT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(max(0.001, self._end - time.monotonic()))
        return self._connection.recv_into(buffer)


class _Server(ThreadingHTTPServer):
    def __init__(self, *arguments: Any) -> None:
        self._places = threading.BoundedSemaphore(PLACES)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._places.acquire()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._places.release()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        error = sys.exception()
        level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR  # it went away, or read nothing
        logger.log(level, "a request to the admin port failed", exc_info=error)


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
