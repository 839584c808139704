"""`serve --admin-port`: metrics of all workers, added up, and nothing in them that a client chose."""

import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from backend.serving.admin import FOLDER, PLACES, prepare_metrics
from tests.network import free_port, need
from tests.processes import DEADLINE, FORKED, SCRIPT, Server, backend, eventually, serving
from tests.settings import settings_of

pytest.importorskip("prometheus_client")


@dataclass
class Service:
    """A service of several workers, and its admin port."""

    server: Server
    admin_port: int
    token: str

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.admin_port}{path}")

    def sums(self) -> dict[str, float]:
        """Every figure by its name and labels."""
        lines = [line for line in self.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def counted(self, **labels: str) -> float:
        """How many requests of these labels were counted."""
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        return sum(
            value
            for name, value in self.sums().items()
            if name.startswith("todo_request_duration_seconds_count") and all(label in name for label in wanted)
        )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("admin")
    settings = settings_of(folder)
    assert backend("migrate", cwd=folder, **settings).returncode == 0
    token = backend("token", "--user", "alice", cwd=folder, **settings).stdout.strip()
    port = free_port()
    command = [SCRIPT, "serve", "--host", "127.0.0.1", "--workers", "2", "--admin-port", str(port)]
    with serving(command, folder, **settings) as server:
        yield Service(server, port, token)


def test_requests_of_all_workers_are_added_up_and_outlive_them(service: Service) -> None:
    url, headers = service.server.url, {"Authorization": f"Bearer {service.token}"}
    task = uuid.uuid4()
    for _ in range(10):
        assert httpx.get(f"{url}/api/tasks", headers=headers).status_code == 200  # a new connection each: both workers
        assert httpx.get(f"{url}/api/tasks/{task}", headers=headers).status_code == 404
        assert httpx.get(f"{url}/api/tasks").status_code == 401
        httpx.get(f"{url}/{uuid.uuid4()}")
        httpx.request(f"X{uuid.uuid4().hex[:8]}", f"{url}/health")
    expected = {
        ("GET", "/api/tasks", "200"): 10,
        ("GET", "/api/tasks/{id}", "404"): 10,
        ("GET", "/api/tasks", "401"): 10,
        ("GET", "other", "404"): 10,
    }

    def counted() -> dict[tuple[str, str, str], float]:
        return {
            (method, route, status): service.counted(method=method, route=route, status=status)
            for method, route, status in expected
        }

    eventually(lambda: counted() == expected, "each is counted, which it is a moment after its response")
    text = service.get("/metrics").text
    assert str(task) not in text
    assert "alice" not in text
    assert set(re.findall(r'method="(\w+)"', text)) <= {"GET", "other"}
    assert eventually(lambda: service.sums().get("todo_places_taken") == 0, "the state is looked at")
    assert eventually(lambda: service.sums().get("todo_log_lines_dropped_total") == 0, "the log is looked at")
    assert eventually(
        lambda: service.sums().get("todo_token_cache_hits_total", 0) >= 18, "of each worker, but for its first"
    )
    (worker, _) = [
        each
        for each in psutil.Process(service.server.process.pid).children()
        if "spawn_main" in " ".join(each.cmdline())
    ]
    worker.send_signal(signal.SIGKILL)
    worker.wait(DEADLINE)
    assert service.counted(method="GET", route="/api/tasks", status="200") == 10
    assert service.sums()['todo_problems_total{code="task_not_found"}'] == 10


def test_probes_are_there_and_scrapes_are_not_counted(service: Service) -> None:
    assert (service.get("/health").status_code, service.get("/nowhere").status_code) == (200, 404)
    before = service.counted()
    service.get("/metrics")
    assert service.counted() == before
    assert "/metrics" not in service.server.stderr


def test_an_address_that_others_reach_is_warned_about_and_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    port = free_port()
    command = [FORKED, "serve", "--admin-port", str(port), "--admin-host", "0.0.0.0"]
    with serving(command, tmp_path, **settings) as server:
        assert "whoever reaches it" in server.stderr
        again = backend("serve", "--admin-port", str(port), cwd=tmp_path, **settings, PORT=str(free_port()))
        assert (again.returncode, len(again.stderr.splitlines())) == (1, 1)
        assert str(port) in again.stderr


def test_the_admin_port_can_be_on_an_address_of_ipv6(tmp_path: Path) -> None:
    need("::1")
    port = free_port()
    command = [FORKED, "serve", "--admin-port", str(port), "--admin-host", "::1"]
    with serving(command, tmp_path, **settings_of(tmp_path)) as server:
        assert httpx.get(f"http://[::1]:{port}/health").status_code == 200
        assert "whoever reaches it" not in server.stderr


def test_a_start_removes_what_ended_services_have_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        pass
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    # In a container the service is process 1 again and again.
    left = [f"{FOLDER}{ended.pid}-left", f"{FOLDER}{os.getpid()}-left"]
    # Everybody may make folders there, of any name.
    kept = [f"{FOLDER}{os.getppid()}-in_use", f"{FOLDER}of-others", f"{FOLDER}{'9' * 20}-x", f"{FOLDER}0-x", FOLDER]
    for name in left + kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "counter_1.db").touch()
    link = tmp_path / f"{FOLDER}{ended.pid}-link"
    link.symlink_to(tmp_path / kept[1])
    prepare_metrics()
    made = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    assert set(tmp_path.iterdir()) == {made, link, *(tmp_path / name for name in kept)}
    assert all((tmp_path / name / "counter_1.db").exists() for name in kept)


@pytest.mark.root  # who alone can give a folder away
def test_a_start_removes_nothing_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    others = tmp_path / f"{FOLDER}{os.getpid()}-x"
    others.mkdir()
    os.chown(others, 65534, -1)
    prepare_metrics()
    assert others.exists()


@pytest.mark.parametrize("version", ["abc", "", "1.x.0", "\xff"])
def test_a_scraper_that_names_no_version_gets_the_metrics(service: Service, version: str) -> None:
    accept = f"application/openmetrics-text; version={version}".encode("latin-1")
    response = httpx.get(f"http://127.0.0.1:{service.admin_port}/metrics", headers={b"Accept": accept})
    assert (response.status_code, "todo_build_info" in response.text) == (200, True)


def test_a_scraper_that_goes_away_leaves_no_traceback(service: Service) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", service.admin_port)) as scraper:
            scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # to be reset
            scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    assert service.get("/metrics").status_code == 200
    assert "Traceback" not in service.server.stderr


def test_requests_that_drip_have_few_threads_and_are_closed(service: Service) -> None:
    process = psutil.Process(service.server.process.pid)
    threads = process.num_threads()
    with ExitStack() as stack:
        dripping = []
        for _ in range(PLACES + 4):
            dripping.append(stack.enter_context(socket.create_connection(("127.0.0.1", service.admin_port))))
            dripping[-1].sendall(b"GET / HTTP/1.1\r\nX: ")

        def all_closed() -> bool:
            for client in dripping.copy():
                try:
                    client.sendall(b"x")
                except OSError:
                    dripping.remove(client)
            assert process.num_threads() <= threads + PLACES
            return not dripping

        eventually(all_closed, "none may go on for ever")
    assert service.get("/health").status_code == 200
