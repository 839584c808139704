"""specs/api/rest-endpoints.md names every route, parameter, field, header and code, and no code that is gone."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from backend.api import cors, field_errors, problems
from backend.api.routers.batch import Batch, BatchResults
from backend.api.schemas import Move
from backend.models.task import TaskBase, TaskCreate
from tests.contract.document import DOCUMENT, OPERATIONS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "specs/api/rest-endpoints.md").read_text()
BODIES = [
    DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for operation in OPERATIONS.values()
    for schema in [operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")]
    if schema is not None
]
CODE_POSITIONS = {
    "FieldError": 2,
    "PydanticCustomError": 0,
    "RuleBroken": 1,
    "_matching": 2,
    "_refused": 1,
    "_refused_token": 0,
}
"""What makes an error that points at a field, and which of its arguments is the code."""


def words(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))


def row(key: str) -> str:
    rows = [line for line in TEXT.splitlines() if line.startswith(f"| `{key}` |")]
    assert len(rows) == 1, f"{key} must have a row, and one only"
    return rows[0]


def table(heading: str, column: int) -> set[str]:
    """The words in a column of the table under a line that begins so."""
    rows = TEXT.partition(heading)[2].partition("\n| ")[2].partition("\n\n")[0].splitlines()[2:]
    return {word for line in rows for word in words(line.split("|")[column])}


def field_codes() -> set[str]:
    errors: list[dict[str, Any]] = [
        {"loc": ("body",), "type": "float_type"},
        {"loc": ("body",), "type": "literal_error", "ctx": {"expected": "'true' or 'false'"}},
        {"loc": ("body",), "type": "literal_error", "ctx": {"expected": "'first' or 'last'"}},
    ]
    found = {each.code for each in field_errors.field_errors(errors)}
    found |= {code for code, _ in (*field_errors._RULES.values(), *field_errors._BOUNDS.values())}
    for folder in ("api", "models", "services"):
        for path in (ROOT / "backend" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CODE_POSITIONS:
                    code = node.args[CODE_POSITIONS[node.func.id]]
                    found |= {code.value} if isinstance(code, ast.Constant) and isinstance(code.value, str) else set()
    return found


@pytest.mark.parametrize(("name", "operation"), OPERATIONS.items())
def test_a_route_has_a_row_with_its_parameters_and_its_own_problems(name: str, operation: dict[str, Any]) -> None:
    line = row(name)
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "query":
            assert re.search(rf"`{parameter['name']}(=\w+)?`", line), parameter["name"]
            assert parameter["name"] in table("## Query parameters", 1)
    for status, response in operation["responses"].items():
        if status in {"404", "409", "410", "412", "422"}:
            examples = response["content"][problems.MEDIA_TYPE]["examples"]
            assert set(examples) - {"validation_error"} <= words(line)


@pytest.mark.parametrize("schema", BODIES, ids=lambda schema: schema["title"])
def test_a_field_of_a_body_is_named(schema: dict[str, Any]) -> None:
    named = words(TEXT.partition("## Bodies")[2].partition("## Headers")[0])
    assert set(schema["properties"]) - set(TaskBase.model_fields) <= named  # see test_fields.py for a task's


def test_the_problems_are_those_that_there_are() -> None:
    assert table("A problem never holds", 2) == set(problems.PROBLEM_TYPES)


@pytest.mark.parametrize("code", problems.PROBLEM_TYPES)
def test_a_problem_has_its_status(code: str) -> None:
    assert f"| {problems.PROBLEM_TYPES[code].status} | `{code}` |" in TEXT


def test_the_codes_of_fields_are_those_that_there_are() -> None:
    assert table("The codes in `errors`", 1) == field_codes()


def test_the_headers_of_a_response_have_a_row() -> None:
    documented = {
        name
        for operation in OPERATIONS.values()
        for response in operation["responses"].values()
        for name in response.get("headers", {})
    }
    assert documented | set(cors.EXPOSED.decode().split(", ")) <= table("## Headers of responses", 1)


def test_what_cors_allows_and_exposes_is_what_is_sent() -> None:
    for value in (cors.METHODS, cors.HEADERS, cors.EXPOSED.decode(), str(cors.MAX_AGE)):
        assert f": {value}\n" in TEXT


def test_the_examples_of_bodies_are_accepted() -> None:
    task, move, batch, results = re.findall(r"```json\n(.*?)```", TEXT.partition("## Bodies")[2], re.DOTALL)[:4]
    TaskCreate.model_validate(json.loads(task))
    Move.model_validate(json.loads(move))
    operations = Batch.model_validate(json.loads(batch)).operations
    assert len(json.loads(results)["results"]) == len(operations)
    assert set(json.loads(results)) == set(BatchResults.__annotations__)
