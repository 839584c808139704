"""Requests that arrive at a fixed rate, whatever becomes of those before: an open loop. A program of its own.

    python -m tests.performance.arrivals PORT USERS RATE SECONDS

wrk's clients wait for their responses, so it asks a slow service for less. Here request n is due n / RATE seconds after
the beginning, and leaves then, on the connection that has been idle the longest or on a new one: each might be another
person's. Its time counts from when it was due, so what this program is late is in it. Plain sockets and no asyncio,
because it has one core at most, and shares it with PostgreSQL.
"""

import errno
import gc
import json
import random
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path

CLIENTS = 2_000
"""Connections at the beginning: many, because the service does not read from a refused one for a tenth of a second."""
MAX_CLIENTS = 10_000
PATIENCE = 10.0
"""Seconds after the last arrival in which responses are still waited for."""

Figures = dict[str, float]


class Client:
    """A connection, and the request that it has under way."""

    __slots__ = ("content", "due", "socket", "status", "unsent", "wanted")

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = self.socket.connect_ex(("127.0.0.1", port))
        assert code in (0, errno.EINPROGRESS), errno.errorcode[code]
        self.due = 0.0
        self.unsent: bytes | None = None  # until it is connected
        self.status = 0
        self.content = self.wanted = 0

    def send(self, request: bytes, due: float) -> bool:
        """Send a request; tell whether it left, or waits for the connection."""
        self.due, self.status, self.content = due, 0, 0
        try:
            self.socket.send(request)  # a small one goes as a whole
        except BlockingIOError:
            self.unsent = request
            return False
        return True

    def receive(self) -> bool:
        """Take what has come; tell whether it ends the response. Raises `OSError`."""
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionResetError
        if not self.status:
            head, end, _ = data.partition(b"\r\n\r\n")  # the head comes in one packet
            assert end, data
            self.status = int(head[9:12])
            length = head.lower().partition(b"content-length: ")[2]
            self.wanted = len(head) + 4 + int(length.partition(b"\r")[0])
        self.content += len(data)
        return self.content >= self.wanted


class OpenLoop:
    """The whole of a run."""

    def __init__(self, port: int, requests: "Requests", rate: float, seconds: float) -> None:
        self._port, self._requests, self._rate = port, requests, rate
        self._seconds = seconds
        self._poll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._idle: deque[Client] = deque()
        self._late: list[float] = []
        self._responses: list[tuple[int, float, float]] = []
        self._broken = 0

    def run(self) -> Figures:
        """Let all requests arrive, and wait for the responses; return what became of them."""
        for _ in range(CLIENTS):  # not at once: the service would look at the times of all of them at once, too
            self._idle.append(self._connect())
            time.sleep(1 / CLIENTS)
        began, cpu = time.perf_counter(), time.process_time()
        number, total = 0, int(self._rate * self._seconds)
        end = began + self._seconds
        could_send = began
        while True:
            now = time.perf_counter()
            while number < total and (due := began + number / self._rate) <= now:
                if not self._idle and len(self._clients) >= MAX_CLIENTS:
                    could_send = now  # what waits for that, the generator is not to blame for
                    break
                self._late.append(now - max(due, could_send))
                self._send(due)
                number += 1
                now = time.perf_counter()
            if now > end and (len(self._idle) == len(self._clients) or now > end + PATIENCE):
                break
            next_due = began + number / self._rate if number < total else now + 0.01
            # epoll's own timeout counts milliseconds, select's microseconds.
            select.select([self._poll.fileno()], [], [], max(0, next_due - now))
            self._take()
            if now < end:
                busy = time.process_time() - cpu
        return self._figures(began, end, total, busy / self._seconds)

    def _connect(self) -> Client:
        client = Client(self._port)
        self._clients[client.socket.fileno()] = client
        self._poll.register(client.socket.fileno(), select.EPOLLIN)
        return client

    def _send(self, due: float) -> None:
        client = self._idle.popleft() if self._idle else self._connect()
        try:
            if not client.send(self._requests.next(), due):
                self._poll.modify(client.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            self._give_up(client)

    def _take(self) -> None:
        for descriptor, event in self._poll.poll(0):
            client = self._clients[descriptor]
            try:
                if client.unsent is not None and event & select.EPOLLOUT:
                    self._poll.modify(descriptor, select.EPOLLIN)
                    client.socket.send(client.unsent)
                    client.unsent = None
                elif client.receive():
                    now = time.perf_counter()
                    self._responses.append((client.status, now - client.due, now))
                    self._idle.append(client)
            except OSError:
                self._give_up(client)

    def _give_up(self, client: Client) -> None:
        # One that was idle is not broken: servers close such connections.
        if client in self._idle:
            self._idle.remove(client)
        else:
            self._broken += 1
        del self._clients[client.socket.fileno()]
        client.socket.close()

    def _figures(self, began: float, end: float, total: int, busy: float) -> Figures:
        accepted = [took for status, took, _ in self._responses if 200 <= status < 300]
        refused = [took for status, took, _ in self._responses if status in (429, 503)]
        in_time = sum(1 for status, _, at in self._responses if 200 <= status < 300 and at <= end)
        return {
            "arrived": total,
            "failed": len(self._responses) - len(accepted) - len(refused),
            "unanswered": total - len(self._responses),
            "broken": self._broken,
            "accepted_per_second": in_time / self._seconds,
            "accepted_p50_us": percentile(accepted, 0.5),
            "accepted_p99_us": percentile(accepted, 0.99),
            "refused_per_second": len(refused) / self._seconds,
            "refused_p50_us": percentile(refused, 0.5),
            "refused_p99_us": percentile(refused, 0.99),
            "late_p99_us": percentile(self._late, 0.99),
            "generator_busy": busy,
            "connections": len(self._clients),
        }


def percentile(seconds: list[float], share: float) -> float:
    """Return a percentile in µs; 0 of nothing."""
    return sorted(seconds)[min(int(len(seconds) * share), len(seconds) - 1)] * 1e6 if seconds else 0


class Requests:
    """The mixed load (`mixed.lua`), from a file that has a line for each user: a token, and the ids of the tasks."""

    def __init__(self, file: Path) -> None:
        self._random = random.Random(1)  # every run makes the same requests
        self._users = [line.split() for line in file.read_text().splitlines()]

    def next(self) -> bytes:
        """Return the next request's bytes."""
        draw = self._random.random
        token, *tasks = self._users[int(draw() * len(self._users))]
        task = tasks[int(draw() * len(tasks))]
        dice = draw() * 30
        if dice < 12:
            return _request("GET", f"/api/tasks/{task}", token)
        if dice < 24:
            return _request("GET", "/api/tasks?limit=20", token)
        if dice < 26:
            return _request("POST", "/api/tasks", token, '{"title": "Buy milk"}')
        if dice < 28:
            return _request("PATCH", f"/api/tasks/{task}", token, '{"title": "Buy more milk"}')
        return _request("POST", f"/api/tasks/{task}/toggle", token)


def _request(method: str, path: str, token: str, body: str = "") -> bytes:
    more = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
    return f"{head}{body}".encode()


def main() -> None:
    """Run, and print the figures as JSON."""
    port, file, rate, seconds = sys.argv[1:]
    loop = OpenLoop(int(port), Requests(Path(file)), float(rate), float(seconds))
    gc.disable()  # a pause would be taken for the service's
    print(json.dumps(loop.run()))


if __name__ == "__main__":
    main()
