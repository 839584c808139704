"""What runs the services' statements: anything with SQLModel's `AsyncSession.exec`.

`db/executors.py` and `db/sqlite.py` have the two that requests use. A plain `AsyncSession` is one, too, so a script can
use a service in a transaction of its own.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, cast

from sqlalchemy.ext.asyncio import AsyncSession

Params = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Executor(Protocol):
    """Runs one statement, and returns its rows as SQLAlchemy's `Result`."""

    async def exec(self, statement: Any, *, params: Params | None = None) -> Any:
        """Run a statement. `params` are its parameters by name, or a list of such for many rows."""


class RollBack(Exception):
    """Raised in a block of `transaction` to end it without a commit: the block is left, and no error goes on."""


@asynccontextmanager
async def transaction(executor: Executor) -> AsyncIterator[Executor]:
    """Run the block's statements in one transaction, committed at the end of the block, rolled back on an error.

    A session, or such a block, has a transaction already, which whoever made it commits: there this one is a savepoint.
    """
    begin = getattr(executor, "transaction", None)
    with suppress(RollBack):
        if begin is None:
            async with cast(AsyncSession, executor).begin_nested():
                yield executor
        else:
            async with begin() as within:
                yield within
