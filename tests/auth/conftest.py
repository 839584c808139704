"""What tests of tokens share."""

from collections.abc import AsyncIterator

import pytest

from tests.auth.issuer import Issuer, running_issuer


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """The issuer of one test, which may have it publish something else."""
    async with running_issuer() as issuer:
        yield issuer
