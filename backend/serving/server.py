"""uvicorn's server and its supervisor, with an end that loses no request (specs/decisions/0015-the-end.md).

A load balancer needs a while to see that a process is about to end. For that there is the drain, from SIGTERM to the
end: `/health/ready` and `/health/db` are 503, every request is served, and every response closes its connection.
"""

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess
from uvicorn.supervisors.statreload import StatReload

from backend.config import load_settings
from backend.log import logging_in_background
from backend.serving.listeners import hear, keep_out

logger = logging.getLogger(__name__)

LET_IN_AT_ONCE = 20
"""Connections that are accepted in a turn of the event loop, where many wait."""
LAST_CALLS = 1
"""Seconds at the end for which an open connection is kept: a request may be on its way."""
MAX_CONNECTIONS = 10_000
"""Connections that a process has open, unless told otherwise: some 20 KiB each, and 64 KiB more of a
client that sends slowly or reads nothing; the longer responses of one user are bounded by its requests under way."""
SPARE_FILES = 32
"""Open files that are left for all else, or a quarter of them: connections of the database, its files, the log."""
GARBAGE_THRESHOLDS = (10_000, 10, 10)
"""When Python searches for garbage. Its defaults begin with 700 new objects; with 2,000 connections these searches took
a fifth of the CPU, and 5 ms of the slowest requests. Memory grows no more with these."""
LAST_ARRIVALS = 0.1
"""Seconds at the end in which who is being let in arrives, and the supervisor closes its own listeners."""


class Config(uvicorn.Config):
    """uvicorn's options, the seconds of the drain, and of an idle connection where the setting does not count."""

    max_connections: int

    def __init__(self, app: str, *, drain: float = 0, keep_alive: float | None = None, **options: Any) -> None:
        super().__init__(app, **options)
        self.drain = drain
        self._keep_alive = keep_alive

    def load(self) -> None:
        """Import the application, with the settings as they are by now: a worker may be started long after the rest."""
        settings = load_settings()
        idle = settings.keep_alive if self._keep_alive is None else self._keep_alive
        self.timeout_keep_alive = idle  # type: ignore[assignment] # uvicorn takes a float, too
        self.max_connections = min(_possible_connections(), settings.max_connections or MAX_CONNECTIONS)
        super().load()


def _possible_connections() -> int:
    """Raise the limit of open files as far as this user may, and return what it leaves for connections."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource  # which Windows does not have

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has a limit of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(1, soft - max(SPARE_FILES, soft // 4))


class Server(uvicorn.Server):
    """One process that serves. `request.state.draining` is set from the first SIGTERM on."""

    config: Config
    _drained_at: float | None = None
    _told_again = False

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._parent = os.getppid()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain on SIGTERM. Another signal ends the drain; without a drain it is uvicorn's to handle."""
        is_worker = _is_worker()
        if sig == signal.SIGINT and is_worker and self.should_exit and not self._told_again:
            self._told_again = True  # the supervisor repeats the SIGTERM; only a further one forces the end
            return
        if sig == signal.SIGTERM and self.config.drain and self.started and not self.should_exit:
            if self._drained_at is None:
                self.lifespan.state["draining"] = True
                self._drained_at = time.monotonic() + self.config.drain
                return
            if is_worker:
                return  # the supervisor repeats a signal that was sent to the whole group, as systemd does
        super().handle_exit(sig, frame)

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve. From the first line on the log is written by a thread: a worker may start when nobody reads it."""
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which a worker has waited with: see its start
        if not self.config.loaded:
            self.config.load()
        with logging_in_background():
            await super()._serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start. What is in memory by then stays, so it is not searched for garbage, some 50 ms in a request's time."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        self._listeners = sockets or []

    async def on_tick(self, counter: int) -> bool:
        """Tell whether to end, ten times a second. A worker ends with its supervisor, however that has ended.

        Let in who waits: libuv accepts one connection in a turn of the event loop, and many connections make it long.
        """
        # No more than the protocol makes room for, or the newest of them would close each other; and a few in a turn,
        # or those who keep their connection would wait for the first requests of all.
        left = self.config.max_connections // 10
        while left > 0 and (waiting := self._take_waiting(min(left, LET_IN_AT_ONCE))):
            left -= len(waiting)
            await self._let_in(waiting)
        if self._drained_at is not None and time.monotonic() >= self._drained_at and not self.should_exit:
            super().handle_exit(signal.SIGTERM, None)
        if _is_worker() and os.getppid() != self._parent:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: take what is on its way, finish what is under way."""
        self.lifespan.state["draining"] = True
        if not _is_worker():  # of several it is the supervisor who knows whether all of them end
            keep_out(self._listeners)
        await asyncio.sleep(LAST_ARRIVALS)
        await self._let_in(self._close_listeners())
        for connection in self.server_state.connections:
            hear(connection.transport.get_extra_info("socket"))
        end = time.monotonic() + LAST_CALLS
        while self.server_state.connections and time.monotonic() < end:  # noqa: ASYNC110 # uvicorn sets no event
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    def _close_listeners(self) -> list[socket.socket]:
        """Take every connection that waits to be accepted, and close the listeners in the same step.

        What the kernel has let in and nobody has accepted it would reset. From now on it refuses, or lets others in.
        """
        waiting = self._take_waiting()
        for server in self.servers:
            server.close()
        for listener in self._listeners:
            listener.close()
        return waiting

    def _take_waiting(self, most: int = sys.maxsize) -> list[socket.socket]:
        waiting: list[socket.socket] = []
        for listener in self._listeners:
            with suppress(OSError):  # nobody waits any more
                while len(waiting) < most:
                    waiting.append(listener.accept()[0])
        return waiting

    async def _let_in(self, waiting: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        accepted = [loop.connect_accepted_socket(self._make_protocol, each) for each in waiting]
        await asyncio.gather(*accepted, return_exceptions=True)  # of some the client has gone

    def _make_protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg] # as uvicorn does
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def _is_worker() -> bool:
    return multiprocessing.parent_process() is not None


class Worker(multiprocess.Process):
    """One of several processes that serve."""

    config: Config
    _told = False

    @cached_property
    def server(self) -> Server:
        """The server, made in the process that runs it."""
        return Server(self.config)

    def start(self) -> None:
        """Start it. What tells the supervisor to replace workers ends none of them, to whomever it is sent."""
        if sys.platform == "win32":
            super().start()
            return
        # A process inherits what is blocked, but no handler. SIGINT waits until there is one.
        blocked = {signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGINT}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def drain(self) -> None:
        """Have it drain, and then end."""
        super().terminate()

    def terminate(self) -> None:
        """Have it end. It is told once: told again, it would cut off its requests."""
        if self.process.exitcode is None and self.process.pid is not None and not self._told:
            self._told = True
            os.kill(self.process.pid, signal.SIGINT)


multiprocess.Process = Worker  # type: ignore[misc] # uvicorn has no other way to say which server the workers run


class Supervisor(multiprocess.Multiprocess):
    """The process that watches the workers."""

    config: Config
    processes: list[Worker]  # type: ignore[assignment] # uvicorn's, of which ours are made

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._ending: list[int] = []
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, self._end)

    def _end(self, sig: int, _frame: FrameType | None) -> None:
        # At once, where uvicorn looks twice a second: if the signal went to the whole group, as systemd's and a
        # terminal's do, the workers are ending already, and whoever is let in from now on would wait for nobody.
        self._ending.append(sig)
        self.should_exit.set()

    def restart_all(self) -> None:
        """Replace the workers one by one. If all shall end meanwhile, the old one and the new one end with them."""
        for index, old in enumerate(self.processes.copy()):
            new = Worker(self.config, self.sockets)
            new.start()
            is_ready = new.wait_until_ready(self.config.timeout_worker_healthcheck, self.should_exit)
            if self.should_exit.is_set():
                self.processes.append(new)  # it may have a request by now
                return
            if not is_ready:
                new.kill()
                new.join()
                logger.error("a new worker did not start: the old ones stay, and those that have started")
                return
            self.processes[index] = new
            if not self._retire(old):
                return

    def handle_ttou(self) -> None:
        """Have one worker less, if it is not the last."""
        if self.processes_num > 1:
            self.processes_num -= 1
            self._retire(self.processes.pop())

    def _retire(self, worker: Worker) -> bool:
        """Have a worker end, and tell whether it has. If all shall end meanwhile, it is waited for like them."""
        worker.terminate()
        while worker.process.is_alive():
            if self.should_exit.wait(0.05):
                self.processes.append(worker)
                return False
        return True

    def terminate_all(self) -> None:
        """Have the workers drain, where they should; then close our copy of the listeners, and have them end."""
        if self.config.drain and self._ending == [signal.SIGTERM]:
            self._drain()
        keep_out(self.sockets)
        for listener in self.sockets:
            listener.close()  # first: what only we still listened for, nobody would accept
        super().terminate_all()

    def _drain(self) -> None:
        # Our copy is closed a moment before the workers' own drains are over.
        end = time.monotonic() + self.config.drain - LAST_ARRIVALS
        for worker in self.processes:
            worker.drain()
        while time.monotonic() < end and len(self._ending) == 1:
            if not any(worker.process.is_alive() for worker in self.processes):
                return
            time.sleep(0.05)


class Reloader(StatReload):
    """The process that starts the server anew when the code changes, or a file with settings."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], settings_file: Path) -> None:
        super().__init__(config, uvicorn.Server(config).run, sockets)
        self._settings_file = settings_file

    def iter_py_files(self) -> Iterator[Path]:
        """Yield the files to look at."""
        yield from super().iter_py_files()
        yield self._settings_file


def run_with_reload(config: uvicorn.Config, sockets: list[socket.socket], settings_file: Path) -> None:
    """Serve for development until a signal comes."""
    with suppress(KeyboardInterrupt):
        Reloader(config, sockets, settings_file).run()


def run(config: Config, sockets: list[socket.socket]) -> None:
    """Serve until a signal comes, in one process or in several. Exits with status 3 where it cannot start."""
    with suppress(KeyboardInterrupt):  # which is how a server ends that SIGINT has ended
        if config.workers > 1:
            Supervisor(config, sockets=sockets).run()
            return
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # with workers it replaces them one by one; here it is nothing
        config.load_app()
        server = Server(config)
        server.run(sockets)
        if not server.started:
            sys.exit(STARTUP_FAILURE)
