"""A field of a task is in every place that names the fields and cannot be made of the model.

Whoever adds one is led through them: a failure names the place to edit.
"""

import re
from pathlib import Path

import pytest

from backend.api.openapi import TASK_EXAMPLE
from backend.models.task import ListedTask, TaskBase, TaskPublic
from backend.services.rows import NEW_TASK, tasks

ROOT = Path(__file__).parents[2]
WRITTEN = set(TaskBase.model_fields)
SHOWN = set(TaskPublic.__annotations__) | WRITTEN
MADE_BY_THE_SERVER = set(ListedTask.__annotations__) - WRITTEN

CELL = r"^\| (`[^|]+`) \|"
PROPERTY = r"^  (\w+)\??:"
PLACES = [
    # A file, the text before the names, that after them, what stands between as a name, and the names.
    ("backend/models/task.py", "class TaskPublic(", "class ", r"^    (\w+):", SHOWN),
    ("backend/static/tasks.ts", "interface TaskFields {", "}", PROPERTY, WRITTEN),
    ("backend/static/tasks.ts", "interface Task extends", "}", PROPERTY, MADE_BY_THE_SERVER),
    ("backend/static/replica.js", "const BLANK = {", "}", r"\b(\w+):", set(NEW_TASK)),
    ("tests/e2e/offline/rxdb.ts", "const FIELDS =", ";", r"\w+", SHOWN - {"id"}),
    ("tests/e2e/offline/offline.test.ts", "const BLANK = {", "}", r"\b(\w+):", SHOWN - {"id", "title"}),
    ("specs/features/task-crud.md", "| field |", "\n\n", CELL, SHOWN),
    ("specs/database/schema.md", "| column |", "\n\n", CELL, set(tasks.c.keys())),
]


@pytest.mark.parametrize(("path", "before", "after", "pattern", "names"), PLACES, ids=[place[0] for place in PLACES])
def test_a_place_names_the_fields_that_there_are(
    path: str, before: str, after: str, pattern: str, names: set[str]
) -> None:
    text = (ROOT / path).read_text().partition(before)[2].partition(after)[0]
    named = set(re.findall(r"\w+", " ".join(re.findall(pattern, text, re.MULTILINE))))
    missing, unknown = sorted(names - named), sorted(named - names)
    assert named == names, f"{path}, behind {before!r}: add {missing}, remove {unknown}"


@pytest.mark.parametrize("name", TASK_EXAMPLE)
def test_a_field_has_an_example_that_is_not_what_a_new_task_has(name: str) -> None:
    assert TASK_EXAMPLE[name] not in (None, NEW_TASK.get(name)), f"give {name}'s schema in models/fields.py `examples`"
