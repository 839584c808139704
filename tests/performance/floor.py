"""The floor: what the language and the libraries cost when nothing else is done.

Bare ASGI, asyncpg with its own pool and statement cache, python-jose, json; the same bytes in a response. No
framework, no validation, no revisions, no problem documents: nobody could live in it.
"""

import json
import os
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2s
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

import asyncpg
from jose import jwk, jwt
from uuid_utils.compat import uuid7

from tests.performance.queries import CLAUSES

KEY = jwk.construct(os.environ["BETTER_AUTH_SECRET"], "HS256")
COLUMNS = (
    "id, title, description, completed, priority, due_date, due_time, remind_at, tags, recurrence, position, "
    "completed_at, revision, created_at, updated_at"
)
NAMES = COLUMNS.replace("revision", "etag").split(", ")
GET = f"SELECT {COLUMNS} FROM tasks WHERE user_id = $1 AND id = $2"
LIST = f"SELECT {COLUMNS} FROM tasks WHERE user_id = $1 "
NEWEST_FIRST = "ORDER BY id DESC"
CREATE = (
    "INSERT INTO tasks (id, title, description, completed, created_at, updated_at, user_id) "
    f"VALUES ($1, $2, $3, $4, $5, $5, $6) RETURNING {COLUMNS}"
)
PATCH = f"UPDATE tasks SET title = $3, updated_at = $4 WHERE user_id = $1 AND id = $2 RETURNING {COLUMNS}"
TOGGLE = (
    f"UPDATE tasks SET completed = NOT completed, updated_at = $3 WHERE user_id = $1 AND id = $2 RETURNING {COLUMNS}"
)
MOVE = (
    "UPDATE tasks SET position = (SELECT position - 1 FROM tasks WHERE user_id = $1 AND id = $3), updated_at = $4 "
    f"WHERE user_id = $1 AND id = $2 RETURNING {COLUMNS}"
)
REVISION = "SELECT revision FROM owners WHERE user_id = $1"
CHANGES = f"SELECT {COLUMNS} FROM tasks WHERE user_id = $1 AND revision > $2 ORDER BY revision LIMIT $3"
BATCH = (
    "UPDATE tasks SET title = new.title, updated_at = $4 FROM unnest($2::uuid[], $3::text[]) AS new (task_id, title) "
    f"WHERE user_id = $1 AND id = task_id RETURNING {COLUMNS.replace(' title', ' tasks.title')}"
)
pool: Any = None


def default(value: Any) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


@cache
def tag_of(user: str) -> str:
    return blake2s(user.encode(), digest_size=6).hexdigest()


def task(row: Any, tag: str) -> dict[str, Any]:
    found = dict(zip(NAMES, row, strict=True))
    found["tags"] = json.loads(found["tags"])
    found["etag"] = f"{found['etag']}-{tag}"
    return found


async def read(receive: Any) -> Any:
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message.get("more_body"):
            return json.loads(body)


def written(value: Any) -> bytes:
    return json.dumps(value, default=default, separators=(",", ":"), ensure_ascii=False).encode()


async def respond(scope: Any, receive: Any) -> tuple[int, Any]:
    headers = dict(scope["headers"])
    user = jwt.decode(headers[b"authorization"][7:].decode(), KEY, algorithms=["HS256"])["sub"]
    tag = tag_of(user)
    method, path = scope["method"], scope["path"].split("/")[3:]
    now = datetime.now(UTC)
    if known := headers.get(b"if-none-match"):
        revision = await pool.fetchval(REVISION, user)
        assert known == f'W/"{revision}-{tag}"'.encode()
        return 304, None
    if not path and method == "POST":
        body = await read(receive)
        row = await pool.fetchrow(CREATE, uuid7(), body["title"], body.get("description"), False, now, user)
        return 201, task(row, tag)
    if not path:
        query = scope["query_string"].decode()
        limit = int(dict(parse_qsl(query)).get("limit", 100))
        rows = await pool.fetch(f"{LIST}{CLAUSES.get(query, NEWEST_FIRST)} LIMIT $2", user, limit)
        return 200, [task(row, tag) for row in rows]
    if path == ["changes"]:
        rows = await pool.fetch(CHANGES, user, 0, int(dict(parse_qsl(scope["query_string"].decode()))["limit"]))
        changes = [task(row, tag) for row in rows]
        return 200, {"changes": changes, "checkpoint": changes[-1]["etag"], "more": True}
    if path == ["batch"]:
        operations = (await read(receive))["operations"]
        ids, titles = [each["id"] for each in operations], [each["task"]["title"] for each in operations]
        tasks = [task(row, tag) for row in await pool.fetch(BATCH, user, ids, titles, now)]
        return 200, {"results": [{"id": each["id"], "status": 200, "task": each} for each in tasks]}
    task_id = UUID(path[0])
    if method == "GET":
        row = await pool.fetchrow(GET, user, task_id)
    elif method == "PATCH":
        row = await pool.fetchrow(PATCH, user, task_id, (await read(receive))["title"], now)
    elif path[1] == "move":
        row = await pool.fetchrow(MOVE, user, task_id, UUID((await read(receive))["before"]), now)
    else:
        row = await pool.fetchrow(TOGGLE, user, task_id, now)
    return 200, task(row, tag)


async def app(scope: Any, receive: Any, send: Any) -> None:
    global pool  # noqa: PLW0603 # a measurement's whole state
    if scope["type"] == "lifespan":
        while True:
            if (await receive())["type"] == "lifespan.startup":
                size = int(os.environ["DATABASE_POOL_SIZE"])
                pool = await asyncpg.create_pool(
                    os.environ["FLOOR_DATABASE_URL"],
                    ssl=os.environ.get("BASELINE_SSL", "require"),
                    min_size=size,
                    max_size=size,
                    reset=no_reset,
                )
                await send({"type": "lifespan.startup.complete"})
            else:
                await pool.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
    status, value = (200, {"status": "ok"}) if scope["path"] == "/health" else await respond(scope, receive)
    content = b""
    headers = []
    if status != 304:
        content = written(value)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def no_reset(_connection: Any) -> None:
    """Leave a connection as it is: each statement stands alone."""
