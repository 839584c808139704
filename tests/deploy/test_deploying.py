"""What specs/deploying.md tells an operator to run."""

import re
from pathlib import Path

import pytest

from backend.check import check_all
from tests.databases import connect, create_tables, new_postgres_database
from tests.processes import DEADLINE
from tests.settings import make_settings

TEXT = (Path(__file__).parents[2] / "specs/deploying.md").read_text()
POLICY = "CREATE POLICY todo_app ON tasks TO todo_app USING (true) WITH CHECK (true)"


@pytest.mark.parametrize("row_security", [False, True])
async def test_the_least_role_is_enough(row_security: bool, postgres_server_url: str) -> None:
    statements = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
    assert len(statements) == 1
    async with new_postgres_database(postgres_server_url) as url:
        owner = await connect(url)
        try:
            await owner.execute(statements[0])  # before the tables: the default privileges must do
            await create_tables(url)
            if row_security:
                assert POLICY in TEXT
                for table in ("tasks", "owners"):
                    if await owner.fetchval("SELECT to_regclass($1)", table):
                        await owner.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
                        await owner.execute(POLICY.replace("ON tasks", f"ON {table}"))
            report = await check_all(make_settings(f"{url}&user=todo_app&password=change%20me"), limit=DEADLINE)
            assert report.ok, report.lines()
        finally:
            await owner.execute("DROP OWNED BY todo_app; DROP ROLE todo_app")
            await owner.close()
