"""Query parameters that break the rules, of the list above all."""

import httpx
import pytest

from tests.api.shared import assert_problem, create, on_one_engine, tasks_of

# limit and skip: what no whole number within the bounds is written like.
NO_NUMBERS = ["", "x", "1.0", "1e2", "0x10", "+1", " 1", "1 ", "01", "1_000", "-0", "--1", "NaN", "Infinity", "null"]
NO_NUMBERS += ["\u0661", "\uff11", "\u00b2", "1\0", "\0", "true", "[1]", "1,2"]
OUT_OF_RANGE = [-1, -(2**31), 2**31, 2**32, 2**63 - 1]
LONG = [-(2**63), 2**63, 2**64, 10**19, 10**400]


@on_one_engine
@pytest.mark.parametrize("name", ["limit", "skip"])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=ascii)
async def test_a_number_is_written_in_digits(alice: httpx.AsyncClient, name: str, value: str) -> None:
    await create(alice)
    response = await alice.get("/api/tasks", params={name: value})
    assert_problem(response, 422, "validation_error", ("query", f"/{name}", "not_an_integer"))


@on_one_engine
@pytest.mark.parametrize("name", ["limit", "skip"])
@pytest.mark.parametrize("value", [*OUT_OF_RANGE, *LONG], ids=lambda value: str(value)[:20])
async def test_a_number_out_of_range_is_422(alice: httpx.AsyncClient, name: str, value: int) -> None:
    response = await alice.get("/api/tasks", params={name: value})
    document = assert_problem(response, 422, "validation_error")
    assert [(each["source"], each["pointer"]) for each in document["errors"]] == [("query", f"/{name}")]
    assert document["errors"][0]["code"] in {"out_of_range", "not_an_integer"}
    assert str(value) not in response.text


@on_one_engine
async def test_5000_digits_are_422(alice: httpx.AsyncClient) -> None:
    for name in ("limit", "skip"):
        response = await alice.get("/api/tasks", params={name: "7" * 5000})
        assert_problem(response, 422, "validation_error", ("query", f"/{name}", "not_an_integer"))


@pytest.mark.parametrize(
    ("query", "status"), [("limit=0", 422), ("limit=1", 200), ("limit=500", 200), ("limit=501", 422)]
)
async def test_the_limit_is_1_to_500(alice: httpx.AsyncClient, query: str, status: int) -> None:
    assert (await alice.get(f"/api/tasks?{query}")).status_code == status


@pytest.mark.parametrize(("skip", "status"), [(0, 200), (10_000, 200), (10_001, 422)])
async def test_the_most_that_can_be_skipped_is_10000(alice: httpx.AsyncClient, skip: int, status: int) -> None:
    assert (await alice.get(f"/api/tasks?skip={skip}&limit=500")).status_code == status


@on_one_engine
@pytest.mark.parametrize(
    "value",
    ["", "True", "TRUE", "FALSE", "1", "0", "yes", "no", "on", "t", "null", " true", "true ", "true\0", "\0"],
    ids=ascii,
)
async def test_a_boolean_is_exactly_true_or_false(alice: httpx.AsyncClient, value: str) -> None:
    response = await alice.get("/api/tasks", params={"completed": value})
    assert_problem(response, 422, "validation_error", ("query", "/completed", "not_a_boolean"))


@on_one_engine
@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=1&limit=1", "/limit"),
        ("limit=1&limit=2", "/limit"),
        ("search=&search=", "/search"),
        ("skip=0&skip=0", "/skip"),
        ("completed=true&completed=false", "/completed"),
        ("completed=true&limit=1&completed=true", "/completed"),
        ("limit=1&l%69mit=2", "/limit"),
    ],
)
async def test_a_repeated_parameter_is_422(alice: httpx.AsyncClient, query: str, pointer: str) -> None:
    response = await alice.get(f"/api/tasks?{query}")
    assert_problem(response, 422, "validation_error", ("query", pointer, "repeated"))


@on_one_engine
@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("user_id=zebra-canary", "/user_id"),
        ("offset=1", "/offset"),
        ("Limit=1", "/Limit"),
        ("limit%5B%5D=1", ""),
        ("zebra-canary", ""),
        ("=zebra-canary", ""),
        ("%00=1", ""),
        ("%ED%A0%80=1", ""),
        ("%FF=1", ""),
        ("%0Alimit=1", ""),
        (f"{'zebra_canary' * 6}=1", ""),
        ("limit=1;skip=1", "/limit"),
        ("?limit=1", ""),
    ],
)
async def test_an_unknown_parameter_is_422(alice: httpx.AsyncClient, query: str, pointer: str) -> None:
    response = await alice.get(f"/api/tasks?{query}")
    document = assert_problem(response, 422, "validation_error")
    assert [(each["source"], each["pointer"]) for each in document["errors"]] == [("query", pointer)]
    assert "zebra" not in response.text


@on_one_engine
@pytest.mark.parametrize("value", ["%FF", "a%E4", "%C3", "%ED%A0%80", "%F4%90%80%80", "%C0%AF"])
async def test_bytes_that_are_no_utf_8_are_422(alice: httpx.AsyncClient, value: str) -> None:
    for name in ("search", "tag", "tag_any", "priority", "due_from", "sort", "cursor", "completed", "limit"):
        document = assert_problem(await alice.get(f"/api/tasks?{name}={value}"), 422, "validation_error")
        assert document["errors"][0]["pointer"].startswith(f"/{name}")


@on_one_engine
@pytest.mark.parametrize("count", [101, 5000])
async def test_very_many_parameters_are_422(alice: httpx.AsyncClient, count: int) -> None:
    response = await alice.get("/api/tasks?" + "&".join(f"f{number}=1" for number in range(count)))
    assert len(assert_problem(response, 422, "validation_error")["errors"]) <= 20


async def test_wildcards_and_quotes_in_a_filter_are_no_sql(alice: httpx.AsyncClient) -> None:
    task = await create(alice)
    for value in ("%", "_", "\\", "' OR 1=1 --", "true'; DROP TABLE tasks; --"):
        assert_problem(await alice.get("/api/tasks", params={"completed": value}), 422, "validation_error")
    assert await tasks_of(alice) == [task]
