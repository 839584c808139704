"""The OpenAPI document: committed as it is generated, complete, and as strict as the service."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, TypeAdapter

from backend.api.cursors import decode_cursor
from backend.api.openapi import TASK_EXAMPLE
from backend.api.problems import PROBLEM_TYPES
from backend.api.queries import search_text
from backend.models.fields import Description, Recurrence, Tag, Title, is_visible
from backend.models.task import ListedTask, TaskCreate, TaskPublic
from tests.contract.document import DOCUMENT, OPERATIONS

COMMITTED = Path(__file__).parents[2] / "specs/openapi.json"

ANY = {400, 405, 408, 413, 431, 500}
COMMON = ANY | {200, 401, 422, 429, 503}
EXPECTED: dict[str, set[int]] = {
    "GET /api/tasks": COMMON | {304},
    "POST /api/tasks": COMMON - {200} | {201, 409, 415},
    "DELETE /api/tasks": COMMON,
    "GET /api/tasks/stats": COMMON | {304},
    "GET /api/tasks/tags": COMMON | {304},
    "GET /api/tasks/changes": COMMON | {304, 410},
    "POST /api/tasks/batch": COMMON | {404, 409, 410, 412, 415},
    "POST /api/tasks/bulk-complete": COMMON | {415},
    "POST /api/tasks/transfer": COMMON | {409, 415},
    "GET /api/tasks/{id}": COMMON | {304, 404},
    "PUT /api/tasks/{id}": COMMON | {201, 409, 410, 412, 415},
    "PATCH /api/tasks/{id}": COMMON | {404, 412, 415},
    "DELETE /api/tasks/{id}": COMMON - {200} | {204, 404, 412},
    "POST /api/tasks/{id}/toggle": COMMON | {404, 412},
    "POST /api/tasks/{id}/restore": COMMON | {404, 412},
    "POST /api/tasks/{id}/move": COMMON | {404, 412, 415},
    "GET /": ANY | {200, 503},
    "GET /health": ANY | {200},
    "GET /health/ready": ANY | {200, 503},
    "GET /health/db": ANY | {200, 404, 503},
}
"""What each route can respond with, of its own or through the guard."""


def test_the_committed_document_is_the_generated_one() -> None:
    assert json.loads(COMMITTED.read_text()) == DOCUMENT, "write it anew: make openapi"


def test_every_route_is_documented() -> None:
    assert set(OPERATIONS) == set(EXPECTED)


@pytest.mark.parametrize("operation", EXPECTED)
def test_every_status_that_a_route_can_respond_with_is_documented_and_no_other(operation: str) -> None:
    documented = {int(status) for status in OPERATIONS[operation]["responses"]}
    assert documented == EXPECTED[operation]


@pytest.mark.parametrize("operation", EXPECTED)
def test_every_problem_is_documented_as_one(operation: str) -> None:
    for status, response in OPERATIONS[operation]["responses"].items():
        if int(status) < 400:
            continue
        content = response["content"]
        assert list(content) == ["application/problem+json"]
        assert content["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
        for code, example in content["application/problem+json"]["examples"].items():
            assert PROBLEM_TYPES[code].status == int(status)
            assert example["value"]["code"] == code


@pytest.mark.parametrize("operation", EXPECTED)
def test_every_response_with_a_body_has_an_example(operation: str) -> None:
    for status, response in OPERATIONS[operation]["responses"].items():
        for media in response.get("content", {}).values():
            assert "example" in media or "examples" in media, f"{operation} {status}"


@pytest.mark.parametrize("operation", EXPECTED)
def test_the_bearer_scheme_is_asked_for_where_it_is_needed(operation: str) -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert {name: (each["type"], each["scheme"]) for name, each in schemes.items()} == dict.fromkeys(
        ("Bearer", "Probe"), ("http", "bearer")
    )
    expected: list[Any] = [{"Bearer": []}] if "/api/" in operation else []
    if operation == "GET /health/db":
        expected = [{}, {"Probe": []}]  # only where HEALTH_DB_TOKEN is set
    assert OPERATIONS[operation].get("security") == expected


def test_every_reference_leads_somewhere() -> None:
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT)):
        assert name in DOCUMENT["components"]["schemas"]


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("operation", EXPECTED)
def test_a_body_is_documented_as_json_and_without_defaults(operation: str) -> None:
    """Generators take two media types for two bodies, and demand fields that have a default."""
    content = OPERATIONS[operation].get("requestBody", {"content": {"application/json": {}}})["content"]
    assert list(content) == ["application/json"]
    name = content["application/json"].get("schema", {}).get("$ref", "/").rpartition("/")[2]
    fields = DOCUMENT["components"]["schemas"][name]["properties"].values() if name else []
    assert not any("default" in field for field in fields)


@pytest.mark.parametrize("operation", EXPECTED)
def test_every_summary_is_a_sentence(operation: str) -> None:
    assert re.fullmatch(r"[A-Z][^.]+ [^.]+\.", OPERATIONS[operation]["summary"])


def test_no_input_has_an_owner() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for name in ("TaskCreate", "TaskUpdate", "BulkComplete", "TaskPublic"):
        assert not {"user_id", "owner"} & set(schemas[name]["properties"])
        if name != "TaskPublic":
            assert schemas[name]["additionalProperties"] is False


def test_a_body_may_be_a_task_as_it_was_read() -> None:
    for name in ("TaskUpdate", "TaskPut", "TaskCreate"):
        schema = DOCUMENT["components"]["schemas"][name]
        assert schema["additionalProperties"] is False
        refused = set(ListedTask.__annotations__) - set(schema["properties"])
        assert refused == ({"id"} if name == "TaskCreate" else set())
        for example in schema["examples"]:
            TaskCreate.model_validate(example)


def test_a_response_has_the_headers_and_types_that_it_can_have() -> None:
    put = OPERATIONS["PUT /api/tasks/{id}"]["responses"]
    assert "X-Successor" in put["200"]["headers"]
    assert "X-Successor" not in put["201"]["headers"]  # a new task has completed nothing
    for operation in OPERATIONS.values():
        for status, response in operation["responses"].items():
            for name, only in (("RateLimit", "429"), ("Accept-Encoding", "415"), ("Allow", "405")):
                assert (name in response.get("headers", {})) == (status == only)
    assert set(OPERATIONS["GET /"]["responses"]["200"]["content"]) == {"application/json", "text/html"}


# Texts: JSON Schema and the service agree, character by character.

TITLE: dict[str, Any] = DOCUMENT["components"]["schemas"]["TaskCreate"]["properties"]["title"]
DESCRIPTION: dict[str, Any] = DOCUMENT["components"]["schemas"]["TaskCreate"]["properties"]["description"]["anyOf"][0]
TAG: dict[str, Any] = DOCUMENT["components"]["schemas"]["TaskCreate"]["properties"]["tags"]["items"]
RECURRENCE: dict[str, Any] = DOCUMENT["components"]["schemas"]["TaskCreate"]["properties"]["recurrence"]["anyOf"][0]
SEARCH: dict[str, Any] = next(
    each["schema"] for each in DOCUMENT["paths"]["/api/tasks"]["get"]["parameters"] if each["name"] == "search"
)
A_TITLE: TypeAdapter[Any] = TypeAdapter(Title)
A_DESCRIPTION: TypeAdapter[Any] = TypeAdapter(Description)
A_RECURRENCE: TypeAdapter[Any] = TypeAdapter(Recurrence)

ECMA_SPACES = r"\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
"""What ECMA 262 takes for `\\s`; Python takes others."""


def matches(schema: dict[str, Any], text: str) -> bool:
    """Whether a text is one of the schema; it must be the same in Python and in JavaScript."""
    pattern = schema["pattern"].removesuffix("$") + r"\Z"  # ECMA's `$` is the very end
    readings = {re.search(each, text) is not None for each in (pattern, pattern.replace(r"\s", ECMA_SPACES))}
    assert len(readings) == 1, f"languages read {pattern} in different ways"
    return schema.get("minLength", 0) <= len(text) <= schema["maxLength"] and True in readings


def accepted(kind: TypeAdapter[Any], value: Any) -> bool:
    try:
        kind.validate_python(value)
    except ValueError:
        return False
    return True


SPACES = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000"
NEARLY_SPACES = "\0\u200b\u2027\u2060\ufeff\u180e\x08\x1b"
# What no pattern can say in every language is left out (models/fields.py): what shows nothing past U+FFFF.
characters = st.sampled_from(SPACES + NEARLY_SPACES + "ab") | st.characters(exclude_categories=["Cs"]).filter(
    lambda character: ord(character) < 0x10000 or is_visible(character)
)
CHARACTERS = [*map(chr, range(0x3300)), *map(chr, range(0xFE00, 0x10000)), "\U0001f600", "\U0010ffff"]


def test_the_patterns_use_nothing_that_languages_read_in_different_ways() -> None:
    for schema in (TITLE, DESCRIPTION, TAG, RECURRENCE, SEARCH):
        assert not re.search(r"\\[wdSWDbBZzAh]", schema["pattern"])  # of `\s` see `matches`


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        pytest.param(TITLE, A_TITLE, id="title"),
        pytest.param(DESCRIPTION, A_DESCRIPTION, id="description"),
        pytest.param(TAG, TypeAdapter(Tag), id="tag"),
        pytest.param(SEARCH, TypeAdapter(Annotated[str, AfterValidator(search_text)]), id="search"),
    ],
)
def test_a_text_is_accepted_where_its_schema_matches_whatever_the_character(
    schema: dict[str, Any], kind: TypeAdapter[Any]
) -> None:
    for character in CHARACTERS:
        for text in (character, f"a{character}a", f" {character}"):
            assert accepted(kind, text) is matches(schema, text), ascii(text)


@given(st.text(characters, max_size=8))
def test_a_short_title_is_accepted_where_its_schema_matches(title: str) -> None:
    assert accepted(A_TITLE, title) is matches(TITLE, title)


@given(st.integers(195, 205), characters)
def test_a_long_title_is_accepted_where_its_schema_matches(length: int, character: str) -> None:
    title = "a" + character * (length - 2) + "b"
    assert accepted(A_TITLE, title) is matches(TITLE, title)


@given(st.text(characters, max_size=8) | st.builds(str.__mul__, characters, st.integers(1995, 2005)))
def test_a_description_is_accepted_where_its_schema_matches(description: str) -> None:
    assert accepted(A_DESCRIPTION, description) is matches(DESCRIPTION, description)


rules = st.sampled_from(["FREQ=DAILY", "FREQ=MONTHLY;BYDAY=-1FR,+2MO;COUNT=3", "INTERVAL=2;FREQ=YEARLY;UNTIL=20301231"])


@given(
    written=st.tuples(st.sampled_from(["", " ", "\x1c\t"]), st.sampled_from(["", "RRULE:"]), rules, st.just("\n")),
    lower=st.booleans(),
    place=st.integers(0, 60),
    inserted=st.sampled_from(["", " ", "RRULE:", ";", ",", "1", "-", "\0", "\x85"]) | characters,
)
def test_a_rule_that_is_accepted_matches_the_schema(
    written: tuple[str, ...], lower: bool, place: int, inserted: str
) -> None:
    rule = "".join(written)
    assert matches(RECURRENCE, rule)
    rule = rule[:place] + inserted + rule[place:]
    rule = rule.lower() if lower else rule
    assert matches(RECURRENCE, rule) or not accepted(A_RECURRENCE, rule)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(title=st.text(characters, max_size=6))
async def test_the_api_itself_agrees_with_the_schema(alice: httpx.AsyncClient, title: str) -> None:
    response = await alice.post("/api/tasks", json={"title": title})
    assert response.status_code == (201 if matches(TITLE, title) else 422)


@pytest.mark.parametrize("operation", EXPECTED)
def test_every_example_of_a_task_is_one(operation: str) -> None:
    for response in OPERATIONS[operation]["responses"].values():
        example = response.get("content", {}).get("application/json", {}).get("example")
        for task in example if isinstance(example, list) else [example]:
            if isinstance(task, dict) and "title" in task:
                assert set(task) == set(TaskPublic.__annotations__)


def test_the_example_of_a_next_page_is_one() -> None:
    example = OPERATIONS["GET /api/tasks"]["responses"]["200"]["headers"]["Link"]["example"]
    cursor = example.partition("cursor=")[2].partition(">")[0]
    assert str(decode_cursor(cursor, (), "").task_id) == TASK_EXAMPLE["id"]
