"""The floor: what the language and the libraries cost when nothing else is done.

Bare ASGI, asyncpg with its own pool and statement cache, python-jose, json; the same answer bytes. No framework, no
validation, no problem answers: nobody could live in it.
"""

import json
import os
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

import asyncpg
from jose import jwk, jwt
from uuid_utils.compat import uuid7

KEY = jwk.construct(os.environ["BETTER_AUTH_SECRET"], "HS256")
COLUMNS = "id, title, description, completed, created_at, updated_at"
NAMES = COLUMNS.split(", ")
GET = f"SELECT {COLUMNS} FROM tasks WHERE user_id = $1 AND id = $2"
LIST = f"SELECT {COLUMNS} FROM tasks WHERE user_id = $1 ORDER BY id DESC LIMIT $2"
CREATE = f"INSERT INTO tasks ({COLUMNS}, user_id) VALUES ($1, $2, $3, $4, $5, $5, $6) RETURNING {COLUMNS}"
PATCH = f"UPDATE tasks SET title = $3, updated_at = $4 WHERE user_id = $1 AND id = $2 RETURNING {COLUMNS}"
TOGGLE = (
    f"UPDATE tasks SET completed = NOT completed, updated_at = $3 WHERE user_id = $1 AND id = $2 RETURNING {COLUMNS}"
)
pool: Any = None


def default(value: Any) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


def task(row: Any) -> dict[str, Any]:
    return dict(zip(NAMES, row, strict=True))


async def read(receive: Any) -> Any:
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message.get("more_body"):
            return json.loads(body)


async def answer(scope: Any, receive: Any) -> tuple[int, Any]:
    token = dict(scope["headers"])[b"authorization"][7:].decode()
    user = jwt.decode(token, KEY, algorithms=["HS256"])["sub"]
    method, path = scope["method"], scope["path"].split("/")[3:]
    now = datetime.now(UTC)
    if not path:
        if method == "POST":
            body = await read(receive)
            row = await pool.fetchrow(CREATE, uuid7(), body["title"], body.get("description"), False, now, user)
            return 201, task(row)
        limit = int(dict(parse_qsl(scope["query_string"].decode())).get("limit", 100))
        return 200, [task(row) for row in await pool.fetch(LIST, user, limit)]
    task_id = UUID(path[0])
    if method == "PATCH":
        return 200, task(await pool.fetchrow(PATCH, user, task_id, (await read(receive))["title"], now))
    if method == "POST":
        return 200, task(await pool.fetchrow(TOGGLE, user, task_id, now))
    return 200, task(await pool.fetchrow(GET, user, task_id))


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
    status, value = (200, {"status": "ok"}) if scope["path"] == "/health" else await answer(scope, receive)
    content = json.dumps(value, default=default, separators=(",", ":"), ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def no_reset(_connection: Any) -> None:
    """Leave a connection as it is: each statement stands alone."""
