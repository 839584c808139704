"""Load by wrk, and what it costs the service that bears it."""

import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
from uuid_utils.compat import uuid7

from tests.performance.servers import Request, Service, database_cpu, database_url, token_of

SCRIPTS = Path(__file__).parent
POOL_SIZE = 5
"""Connections that are kept, where any are."""
USERS = 200
TASKS = 50
"""Tasks of each user before a run."""

Figures = dict[str, float]


def run_wrk(target: Service, script: str, *arguments: str, path: str = "", connections: int, seconds: int) -> Figures:
    """Run wrk with a script of this folder; return what the script says, and the CPU that it cost the service."""
    url = f"http://127.0.0.1:{target.port}{path}"
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout=10s",
        "-s",
        script,
        url,
        "--",
        *arguments,
    ]
    before = target.cpu()
    output = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=True).stdout
    cpu = target.cpu() - before
    said = next(line for line in output.splitlines() if line.startswith("RESULT")).split()[1:]
    figures = {name: float(value) for name, _, value in (field.partition("=") for field in said)}
    assert figures["failed"] == 0, f"{target.name}: {figures['failed']:.0f} requests failed"
    return {**figures, "cpu": cpu}


def load(target: Service, request: Request, connections: int, seconds: int, database_port: int) -> Figures:
    """Load a service with one request; return what each cost, the PostgreSQL of that port included."""
    target.respond(request)  # it is what it should be
    before = database_cpu(database_port)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script_of(request))
        file.flush()
        figures = run_wrk(target, file.name, path=request.path, connections=connections, seconds=seconds)
    database = database_cpu(database_port) - before
    return {**each(figures), "database_us": database / figures["requests"] * 1e6}


def script_of(request: Request) -> str:
    """Return what wrk runs to make a request over and over, as its users in turns."""
    lines = ['dofile("result.lua")', f'wrk.method = "{request.method}"']
    lines += [f"wrk.headers['{name}'] = '{value}'" for name, value in request.headers().items()]
    if request.body is not None:
        lines.append(f"wrk.body = [[{json.dumps(request.body)}]]")
    if len(request.users) > 1:
        tokens = ", ".join(f"'{token_of(user)}'" for user in request.users)
        lines += [f"local tokens, n = {{{tokens}}}, 0", "request = function()", "n = n % #tokens + 1"]
        lines += ["wrk.headers['Authorization'] = 'Bearer ' .. tokens[n]", "return wrk.format()", "end"]
    return "\n".join(lines)


def load_mixed(target: Service, users: "Users", connections: int, seconds: int) -> Figures:
    """Load a service with what its users do; return what each request cost."""
    return each(run_mixed(target, users, connections, seconds))


def run_mixed(target: Service, users: "Users", connections: int, seconds: int) -> Figures:
    """Load a service with what its users do; return what all of it came to."""
    return run_wrk(target, "mixed.lua", users.file, connections=connections, seconds=seconds)


def each(figures: Figures) -> Figures:
    """Return what one request cost, and how many there were in a second."""
    requests = figures["requests"]
    assert requests, "no response in all that time: ask for longer rounds"
    return {
        "cpu_us": figures["cpu"] / requests * 1e6,
        "p50_us": figures["p50_us"],
        "p99_us": figures["p99_us"],
        "per_second": requests / figures["seconds"],
    }


def medians(samples: list[Figures]) -> Figures:
    """Return the median of every figure."""
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}


class Users:
    """People with tokens and tasks of their own. `file` is for the scripts."""

    def __init__(self, file: str, database_port: int) -> None:
        self.file = file
        self._url = database_url(database_port)
        self._tasks = {f"user-{number}": [uuid7() for _ in range(TASKS)] for number in range(USERS)}
        lines = [" ".join([token_of(user), *map(str, ids)]) for user, ids in self._tasks.items()]
        Path(file).write_text("\n".join(lines) + "\n")

    async def reset(self) -> None:
        """Give everybody the same tasks as before the first run, so that all runs find the same table."""
        now = datetime.now(UTC)
        rows = [
            (user, task_id, f"Task {number}", "As tasks are", False, now, now)
            for user, ids in self._tasks.items()
            for number, task_id in enumerate(ids)
        ]
        columns = ["user_id", "id", "title", "description", "completed", "created_at", "updated_at"]
        connection = await asyncpg.connect(self._url)
        await connection.execute("TRUNCATE tasks")
        await connection.copy_records_to_table("tasks", records=rows, columns=columns)
        for statement in ("VACUUM ANALYZE tasks", "CHECKPOINT"):
            await connection.execute(statement)
        await connection.close()


@contextmanager
def users_of(database_port: int) -> Iterator[Users]:
    """Make users of a database for as long as the block lasts."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        yield Users(file.name, database_port)
