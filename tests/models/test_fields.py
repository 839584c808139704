"""What a person may write into a task: each rule with what it takes and what it refuses, and by which code."""

from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from backend.models.fields import POSITION_MAX
from backend.models.task import TaskCreate, TaskPut, TaskUpdate

GREATEST = "A" * 199 + "\U0001f600"
ID = "0192f0c1-2345-7abc-8def-0123456789ab"

GOOD: list[tuple[str, Any, Any]] = [
    ("title", " Buy milk\n", "Buy milk"),
    ("title", "  " + GREATEST + "\u3000", GREATEST),
    ("title", "\u200b.", "\u200b."),
    ("title", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f468\u200d\U0001f469\u200d\U0001f467"),
    ("title", "\u0967", "\u0967"),
    ("description", "", ""),
    ("description", " as sent\r\n ", " as sent\r\n "),
    ("description", "\u00e9" * 2000, "\u00e9" * 2000),
    ("description", None, None),
    ("completed", True, True),
    ("priority", "urgent", "urgent"),
    ("priority", None, None),
    ("due_date", "1900-01-01", "1900-01-01"),
    ("due_date", "9999-12-31", "9999-12-31"),
    ("due_date", "2028-02-29", "2028-02-29"),
    ("due_date", None, None),
    ("due_time", "00:00", "00:00"),
    ("due_time", "23:59", "23:59"),
    ("due_time", None, None),
    ("remind_at", "1900-01-01T00:00", "1900-01-01T00:00"),
    ("remind_at", "9999-12-31T23:59", "9999-12-31T23:59"),
    ("remind_at", None, None),
    ("tags", [], []),
    ("tags", [" home ", "Home", "home", "50%", "a" * 50], ["home", "Home", "50%", "a" * 50]),
    ("tags", [str(number % 20) for number in range(40)], [str(number) for number in range(20)]),
    ("position", 0, 0),
    ("position", POSITION_MAX, POSITION_MAX),
    ("position", -POSITION_MAX, -POSITION_MAX),
    ("recurrence", None, None),
    ("title", "\u2027", "\u2027"),
    ("tags", ["\u200b", "\u2027"], ["\u200b", "\u2027"]),
    ("recurrence", "FREQ=DAILY", "FREQ=DAILY"),
    ("recurrence", " RRULE:freq=weekly;byday=mo,we ", "FREQ=WEEKLY;BYDAY=MO,WE"),
    ("recurrence", "FREQ=MONTHLY;BYDAY=2MO,-1FR", "FREQ=MONTHLY;BYDAY=2MO,-1FR"),
    ("recurrence", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;INTERVAL=4", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;INTERVAL=4"),
    ("recurrence", "FREQ=MONTHLY;BYMONTHDAY=-1;UNTIL=20301231", "FREQ=MONTHLY;BYMONTHDAY=-1;UNTIL=20301231"),
    ("recurrence", "INTERVAL=999;FREQ=DAILY;COUNT=999", "INTERVAL=999;FREQ=DAILY;COUNT=999"),
]

BAD: list[tuple[str, str, list[Any]]] = [
    (
        "title",
        "blank",
        ["", " ", "\n\t", "\u200b", "\u200b \ufeff", "\u2060\u00ad", "\u3164", "\u2800", "\u200e\u202e", "\u2028"],
    ),
    ("title", "blank", ["\ufff9", "\U000e0001\U000e0020", "\U000e0100", "\U0001d173", "\U0001bca0", "\U00013430"]),
    ("title", "string_too_long", [GREATEST + "a", "a" * 100_000]),
    ("title", "invalid_character", ["a\0", "\ud83d", "a\udfff"]),
    ("title", "string_type", [None, 1, True, [], {}, ["a"]]),
    ("description", "string_too_long", ["\u00e9" * 2001]),
    ("description", "invalid_character", ["\0", "\udc00"]),
    ("description", "string_type", [1, False, []]),
    ("completed", "bool_type", ["yes", "true", 1, 0, None, []]),
    ("priority", "literal_error", ["", "High", "HIGH", "none", "critical", 1, True, []]),
    (
        "due_date",
        "not_a_date",
        [
            "2026-12-01T00:00:00Z",
            "2026-12-01T00:00",
            "2026-12-01 ",
            "2026-12-1",
            "20261201",
            "2026-W49-2",
            "2026-335",
            "1899-12-31",
            "0000-01-01",
            "10000-01-01",
            "2026-02-29",
            "2026-13-01",
            "2026-00-01",
            "01/12/2026",
            "tomorrow",
            "",
            "\u0662\u0660\u0662\u0666-12-01",
            "2026-12-01\n",
            20261201,
            1795996800,
            1.5,
            True,
            [],
            {},
        ],
    ),
    (
        "due_time",
        "not_a_time",
        ["24:00", "9:30", "09:60", "09:30:00", "09:30Z", "T09:30", "", "0930", "09:3\u0660", 930, True, []],
    ),
    (
        "remind_at",
        "not_a_wall_clock_time",
        [
            "2026-12-01T09:30:00",
            "2026-12-01T09:30Z",
            "2026-12-01T09:30+01:00",
            "2026-12-01 09:30",
            "2026-12-01",
            "1899-12-31T23:59",
            "2026-02-30T00:00",
            "2026-12-01T24:00",
            "2026-12-01T09:3\u0660",
            "",
            0,
            [],
        ],
    ),
    ("tags", "blank", [[""], [" "], ["\u2003\u3000"], ["home", "\n"]]),
    ("tags", "comma", [["a,b"], [","]]),
    ("tags", "string_too_long", [["a" * 51]]),
    ("tags", "invalid_character", [["\0"], ["\ud800"]]),
    ("tags", "string_type", [[1], [None], [["home"]]]),
    ("tags", "list_type", [None, "home", {"home": 1}, 1]),
    ("tags", "too_long", [[str(number) for number in range(21)]]),
    ("tags", "too_long", [["home"] * 501]),
    ("position", "int_type", ["0", 1.5, True, None, []]),
    ("position", "less_than_equal", [POSITION_MAX + 1, 10**100]),
    ("position", "greater_than_equal", [-POSITION_MAX - 1, -(10**100)]),
    ("recurrence", "string_type", [1, True, ["FREQ=DAILY"], {}]),
    (
        "recurrence",
        "unsupported_recurrence",
        [
            "",
            "daily",
            "INTERVAL=2",
            "FREQ=HOURLY",
            "FREQ=SECONDLY",
            "FREQ=DAILY;INTERVAL=0",
            "FREQ=DAILY;INTERVAL=1000",
            "FREQ=DAILY;INTERVAL=-1",
            "FREQ=DAILY;COUNT=0",
            "FREQ=DAILY;COUNT=1000",
            "FREQ=DAILY;COUNT=2;UNTIL=20301231",
            "FREQ=DAILY;UNTIL=20301301",
            "FREQ=DAILY;UNTIL=20301231T000000Z",
            "FREQ=DAILY;UNTIL=2030-12-31",
            "FREQ=DAILY;FREQ=DAILY",
            "FREQ=DAILY;",
            "FREQ=DAILY;BYHOUR=9",
            "FREQ=DAILY;BYSETPOS=1",
            "FREQ=YEARLY;BYEASTER=0",
            "FREQ=YEARLY;BYWEEKNO=1",
            "FREQ=YEARLY;BYYEARDAY=1",
            "FREQ=WEEKLY;WKST=SU",
            "FREQ=WEEKLY;BYDAY=XX",
            "FREQ=WEEKLY;BYDAY=2MO",
            "FREQ=DAILY;BYDAY=-1FR",
            "FREQ=WEEKLY;BYMONTHDAY=1",
            "FREQ=MONTHLY;BYDAY=0MO",
            "FREQ=MONTHLY;BYDAY=54MO",
            "FREQ=MONTHLY;BYMONTHDAY=32",
            "FREQ=MONTHLY;BYMONTHDAY=0",
            "FREQ=YEARLY;BYMONTH=13",
            "FREQ=YEARLY;BYMONTH=0",
            "DTSTART:20260101\nRRULE:FREQ=DAILY",
            "RRULE:FREQ=DAILY\nEXDATE:20260101",
            "FREQ=DAILY;BYDAY=" + ",".join(["MO"] * 500),
            " " * 500 + "FREQ=DAILY",
            "FREQ=DA\u0130LY",
            "FREQ=da\u0131ly",
            "FREQ=WEEKLY;BYDAY=\u017fu",
            "FREQ=DAILY\u00a0",
            "FREQ=DAILY;INTERVAL=\u0662",
            "FREQ=DAILY;UNTIL=2030123\u0661",
        ],
    ),
]


def others(field: str) -> dict[str, Any]:
    return {"title": "x", "due_date": "2026-12-01"} if field in {"due_time", "recurrence"} else {"title": "x"}


@pytest.mark.parametrize("model", [TaskCreate, TaskUpdate, TaskPut])
def test_what_is_right_is_taken(model: type[TaskCreate]) -> None:
    for field, value, expected in GOOD:
        task = model.model_validate({**others(field), field: value})
        assert getattr(task, field) == expected, (field, value)
        assert task.changes()[field] == expected


@pytest.mark.parametrize("model", [TaskCreate, TaskUpdate, TaskPut])
@pytest.mark.parametrize(("field", "code", "values"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_wrong_is_refused_with_its_code(
    model: type[TaskCreate], field: str, code: str, values: list[Any]
) -> None:
    for value in values:
        with pytest.raises(ValidationError) as raised:
            model.model_validate({**others(field), field: value})
        [error] = raised.value.errors()
        assert (error["loc"][0], error["type"]) == (field, code), value


@pytest.mark.parametrize(
    ("model", "task", "refused"),
    [
        (TaskCreate, {"due_time": "09:30"}, "due_time"),
        (TaskCreate, {"recurrence": "FREQ=DAILY"}, "recurrence"),
        (TaskCreate, {"due_date": None, "due_time": "09:30"}, "due_time"),
        (TaskCreate, {"due_date": None, "recurrence": "FREQ=DAILY"}, "recurrence"),
        (TaskCreate, {"due_date": "2026-12-01", "due_time": "09:30", "recurrence": "FREQ=DAILY"}, None),
        (TaskCreate, {"due_time": None, "recurrence": None}, None),
        (TaskUpdate, {"due_date": None, "due_time": "09:30"}, "due_time"),
        (TaskUpdate, {"due_date": None, "recurrence": "FREQ=DAILY"}, "recurrence"),
        (TaskUpdate, {"due_time": "09:30"}, None),
        (TaskPut, {"due_date": None, "due_time": "09:30"}, "due_time"),
        (TaskPut, {"recurrence": "FREQ=DAILY"}, None),
    ],
)
def test_a_time_and_a_rule_need_a_date(model: type[TaskCreate], task: dict[str, Any], refused: str | None) -> None:
    """Where the body says nothing of a date, that of the stored task decides, which the model does not know."""
    if refused is None:
        model.model_validate({"title": "x", **task})
        return
    with pytest.raises(ValidationError) as raised:
        model.model_validate({"title": "x", **task})
    assert [(error["loc"], error["type"]) for error in raised.value.errors()] == [((refused,), "needs_due_date")]


def test_clearing_the_date_clears_what_needs_it() -> None:
    changes = TaskUpdate.model_validate({"due_date": None}).changes()
    assert changes == {"due_date": None, "due_time": None, "recurrence": None}


@pytest.mark.parametrize("model", [TaskCreate, TaskUpdate, TaskPut])
def test_what_the_server_sets_may_be_sent_back_and_is_ignored(model: type[TaskCreate]) -> None:
    values: list[Any] = ["2026-12-01T00:00:00Z", None, 1, {"a": []}, "x"]
    for value in values:
        read = dict.fromkeys(("created_at", "updated_at", "completed_at", "deleted_at", "etag"), value)
        assert model.model_validate({"title": "x", **read}).changes() == {"title": "x"}
    assert TaskUpdate.model_validate({"etag": "x", "created_at": None}).changes() == {}


@pytest.mark.parametrize("field", ["user_id", "owner", "revision", "position_", "title_folded", "Title", ""])
def test_no_other_field_is_taken(field: str) -> None:
    for model in (TaskCreate, TaskUpdate, TaskPut):
        with pytest.raises(ValidationError) as raised:
            model.model_validate({"title": "x", field: "y"})
        assert [error["type"] for error in raised.value.errors()] == ["extra_forbidden"]


def test_a_new_task_has_no_id() -> None:
    with pytest.raises(ValidationError):
        TaskCreate.model_validate({"title": "x", "id": ID})


@pytest.mark.parametrize("model", [TaskUpdate, TaskPut])
@pytest.mark.parametrize(
    ("value", "named"), [(ID, True), (ID.upper(), True), (ID[:-1] + "c", False), (None, False), (1, False), ("", False)]
)
def test_an_addressed_task_may_hold_its_own_id(model: type[TaskPut], value: Any, named: bool) -> None:
    body = model.model_validate({"title": "x", "id": value})
    assert body.names(UUID(ID)) is named
    assert body.changes() == {"title": "x"}
    assert model.model_validate({"title": "x"}).names(UUID(ID))
