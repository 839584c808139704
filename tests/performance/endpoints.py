"""What else a client asks: filters, orders, search, what it knows already, changes, batches, among 10,000 tasks."""

import asyncio
import json
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from tests.performance.load import POOL_SIZE, Figures, load, medians
from tests.performance.queries import LISTS
from tests.performance.servers import Request, Service, database_url, databases, service

TASKS = 10_000
READER = ("reader",)
WRITER = ("writer",)
BATCH = 100
PAGE = "list 100"
GOALS = {"list, known: 304": (0.9, "get")} | dict.fromkeys(LISTS, (20.0, PAGE))
"""Times the CPU of another request, that of the database included for the lists."""


async def fill(database_port: int) -> dict[str, list[UUID]]:
    """Give reader and writer their tasks, as the service would have stored them; return the ids."""
    random = Random(1)  # every run finds the same tasks
    ids: dict[str, list[UUID]] = {}
    connection = await asyncpg.connect(database_url(database_port))
    for user in (*READER, *WRITER):
        ids[user] = [uuid7() for _ in range(TASKS)]
        rows = [_row(random, user, task_id, number) for number, task_id in enumerate(ids[user], 1)]
        await connection.copy_records_to_table("tasks", records=[tuple(row.values()) for row in rows], columns=rows[0])
        await connection.execute("INSERT INTO owners (user_id, revision) VALUES ($1, $2)", user, TASKS)
    for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
        await connection.execute(statement)
    await connection.close()
    return ids


def _row(random: Random, user: str, task_id: UUID, number: int) -> dict[str, Any]:
    now = datetime.now(UTC)
    title = f"{random.choice(['Buy', 'Bring', 'Sell', 'Find'])} {random.choice(WORDS)} {number}"
    description = f"For the {random.choice(WORDS)}, as always"
    tags = random.sample(["home", "work", "errand", "later", "phone"], random.choice([0, 0, 1, 2]))
    dated = random.random() < 0.5
    return {
        "user_id": user,
        "id": task_id,
        "title": title,
        "title_folded": title.casefold(),
        "description": description,
        "description_folded": description.casefold(),
        "completed": random.random() < 0.5,
        "priority": random.choice([None, None, "low", "medium", "high", "urgent"]),
        "due_date": str(date(2026, 10, 1) + timedelta(random.randrange(180))) if dated else None,
        "due_time": f"{random.randrange(24):02}:00" if dated and random.random() < 0.5 else None,
        "tags": json.dumps(tags, separators=(",", ":")),
        "tags_folded": "\n".join(tags),
        "position": random.randrange(10**9),
        "revision": number,
        "created_at": now,
        "updated_at": now,
    }


WORDS = ["milk", "bread", "paper", "garden", "kitchen", "letters", "bicycle", "lamp", "coffee", "window"]


def endpoints(target: Service, ids: dict[str, list[UUID]]) -> dict[str, Request]:
    """The requests that are measured. Reader's tasks stay as they are, so its tags and checkpoints do."""
    task_id, other, *_ = ids["writer"]
    operations = [
        {"op": "patch", "id": str(each), "task": {"title": "Buy more milk"}} for each in ids["writer"][-BATCH:]
    ]
    changes = "/api/tasks/changes"
    checkpoint, more = "", True
    while more:
        _, content = target.respond(Request("GET", f"{changes}?limit=500{checkpoint}", users=READER))
        page = json.loads(content)
        checkpoint, more = f"&since={page['checkpoint']}", page["more"]
    idle = f"{changes}?limit=100{checkpoint}"
    tags = {path: target.respond(Request("GET", path, users=READER))[0]["ETag"] for path in ("/api/tasks", idle)}
    return {
        "get": Request("GET", f"/api/tasks/{ids['reader'][0]}", users=READER),
        PAGE: Request("GET", "/api/tasks", users=READER),
        **{name: Request("GET", f"/api/tasks?{query}", users=READER) for name, (query, _) in LISTS.items()},
        "list, known: 304": Request("GET", "/api/tasks", users=READER, known=tags["/api/tasks"], status=304),
        "changes, known: 304": Request("GET", idle, users=READER, known=tags[idle], status=304),
        "changes, 100": Request("GET", f"{changes}?limit=100", users=READER),
        "move": Request("POST", f"/api/tasks/{task_id}/move", {"before": str(other)}, WRITER),
        f"batch of {BATCH}": Request("POST", "/api/tasks/batch", {"operations": operations}, WRITER),
    }


def measure_endpoints(rounds: int, seconds: int) -> list[dict[str, Any]]:
    """Measure each request on service and floor, one client at a time, and what it costs the database."""
    samples: dict[tuple[str, str], list[Figures]] = {}
    with databases() as (direct, _), ExitStack() as stack:
        ids = asyncio.run(fill(direct))
        targets = [stack.enter_context(service(name, direct, POOL_SIZE)) for name in ("floor", "service")]
        wanted = endpoints(targets[1], ids)
        for _ in range(rounds):
            for name, request in wanted.items():
                for target in targets:
                    samples.setdefault((name, target.name), []).append(load(target, request, 1, seconds, direct))
    return [{"request": name, "service": who, **medians(values)} for (name, who), values in samples.items()]


def print_endpoints(found: list[dict[str, Any]]) -> None:
    """Print what `measure_endpoints` has found."""
    print(f"\n{TASKS:,} tasks of a user, 1 client: CPU µs a request, and of the database (p50, p99 in µs)\n")
    rows = {(row["request"], row["service"]): row for row in found}
    for name in dict.fromkeys(row["request"] for row in found):
        floor, own = rows[name, "floor"], rows[name, "service"]
        cells = [
            f"{row['service']} {row['cpu_us']:5.0f} + {row['database_us']:5.0f} "
            f"({row['p50_us']:.0f}, {row['p99_us']:.0f})"
            for row in (floor, own)
        ]
        print(f"{name:30}  {'   '.join(cells)}   / floor {own['cpu_us'] / floor['cpu_us']:.2f}{_goal(name, rows)}")


def _goal(name: str, rows: dict[tuple[str, str], dict[str, Any]]) -> str:
    if name not in GOALS:
        return ""
    goal, other = GOALS[name]
    figures = ["cpu_us", "database_us"] if other == PAGE else ["cpu_us"]
    one, two = (sum(rows[each, "service"][figure] for figure in figures) for each in (name, other))
    return f"   / {other} {one / two:.2f} (goal {goal:g})"
