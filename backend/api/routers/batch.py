"""`/api/tasks/batch`: several operations in one request, all or nothing, or each for itself."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

from fastapi import APIRouter
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic cannot read typing.TypedDict before Python 3.12

from backend.api.deps import CanonicalUUID, CanonicalUUID7, is_uuid, tasks_of
from backend.api.field_errors import field_errors
from backend.api.openapi import TASK_EXAMPLE, documented
from backend.api.paths import TASKS
from backend.api.problems import Problem, problem_document, relocated
from backend.api.requests import StrictRoute
from backend.api.responses import json_response
from backend.errors import TodoError
from backend.models.task import AddressedTask, TaskPublic, TaskPut, TaskUpdate, drop_defaults
from backend.services.batch import MAX_OPERATIONS, Operation, OperationFailed, Outcome
from backend.services.tasks import TaskService


class _Operation(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_defaults)

    if_match: StrictStr | None = Field(None, description="The task's `etag`, as it must be.")


def _check_id(task: AddressedTask, task_id: UUID) -> None:
    if not task.names(task_id):
        raise PydanticCustomError("id_mismatch", "must be the operation's id")


class PutOperation(_Operation):
    """Create the task, or change the fields that are sent."""

    op: Literal["put"]
    id: CanonicalUUID7
    task: TaskPut
    if_none_match: Literal["*"] | None = Field(None, description="`*`: create only.")

    @model_validator(mode="after")
    def _fits(self) -> "PutOperation":
        if self.if_none_match is not None and self.if_match is not None:
            raise PydanticCustomError("conflict", "if_match excludes if_none_match")
        _check_id(self.task, self.id)
        return self


class PatchOperation(_Operation):
    """Change the fields that are sent."""

    op: Literal["patch"]
    id: CanonicalUUID
    task: TaskUpdate

    @model_validator(mode="after")
    def _fits(self) -> "PatchOperation":
        _check_id(self.task, self.id)
        return self


class PlainOperation(_Operation):
    """Delete, toggle, or restore the task."""

    op: Literal["delete", "toggle", "restore"]
    id: CanonicalUUID


@dataclass(frozen=True, slots=True)
class BrokenOperation:
    """An operation of a batch that is not atomic, which breaks a rule by itself."""

    id: Any
    errors: list[Any]


def _stands_alone(value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    try:
        return validate(value)
    except ValidationError as error:
        if info.data.get("atomic") is not False:
            raise
        sent = value.get("id") if isinstance(value, dict) else None
        return BrokenOperation(sent if is_uuid(sent) else None, error.errors(include_url=False))


SoundOperation = PutOperation | PatchOperation | PlainOperation
AnyOperation = Annotated[Annotated[SoundOperation, Field(discriminator="op")], WrapValidator(_stands_alone)]


class Batch(BaseModel):
    """Operations, in order."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_defaults)

    # Before the operations, whose rules it decides about.
    atomic: StrictBool = Field(True, description="All or nothing; otherwise each operation stands alone.")
    operations: Annotated[list[AnyOperation], Field(min_length=1, max_length=MAX_OPERATIONS)]
    dry_run: StrictBool = Field(False, description="Do all of it, and undo it. With `atomic` only.")

    @model_validator(mode="after")
    def _fits(self) -> "Batch":
        if self.dry_run and not self.atomic:
            raise PydanticCustomError("conflict", "dry_run needs atomic")
        return self


class Result(TypedDict):
    """What came of an operation."""

    id: Annotated[UUID | None, Field(description="Null where the operation had none.")]
    status: Annotated[int, Field(description="As the operation alone would have it.")]
    task: NotRequired[TaskPublic | None]
    successor: NotRequired[Annotated[UUID, Field(description="The next task of a recurring one that was completed.")]]
    problem: NotRequired[Annotated[dict[str, Any] | None, Field(description="Why it failed, where it did.")]]


class BatchResults(TypedDict):  # not Results: openapi-python-client would have two things of one name
    """What came of each operation, in their order."""

    results: list[Result]


router = APIRouter(prefix=TASKS, tags=["tasks"], route_class=StrictRoute)

_CHANGED_BEFORE = "An operation before this one changes the task; nothing was written."

CODES = ("task_not_found", "precondition_failed", "task_deleted", "too_many_tasks")


@router.post(
    "/batch",
    response_model=BatchResults,
    **documented({"results": [{"id": TASK_EXAMPLE["id"], "status": 200, "task": TASK_EXAMPLE}]}, *CODES),
)
async def run_batch(request: Request, batch: Batch) -> Response:
    """Run up to 100 operations in order: all or nothing, or, with `atomic: false`, each for itself."""
    tasks = tasks_of(request)
    operations = [_operation(each, tasks) for each in batch.operations if not isinstance(each, BrokenOperation)]
    try:
        outcomes = await tasks.batch(operations, atomic=batch.atomic, dry_run=batch.dry_run) if operations else []
    except OperationFailed as failed:
        detail = _CHANGED_BEFORE if failed.changed_before else None
        raise _located(failed.number, failed.error, detail) from failed.error
    done = zip(operations, outcomes, strict=True)
    results = [
        _broken(request, number, each) if isinstance(each, BrokenOperation) else _result(request, number, *next(done))
        for number, each in enumerate(batch.operations)
    ]
    return json_response({"results": results})


def _operation(sent: SoundOperation, tasks: TaskService) -> Operation:
    changes = {} if isinstance(sent, PlainOperation) else sent.task.changes()
    match = None if sent.if_match is None else tasks.revisions([sent.if_match.strip('"')])
    create_only = isinstance(sent, PutOperation) and sent.if_none_match is not None
    return Operation(sent.op, sent.id, changes, match, create_only=create_only)


def _broken(request: Request, number: int, operation: BrokenOperation) -> dict[str, Any]:
    problem = Problem("validation_error", field_errors(operation.errors, "body", "operations", number))
    return _failed(request, operation.id, problem)


def _failed(request: Request, task_id: Any, problem: Problem) -> dict[str, Any]:
    document = problem_document(problem, request.scope, request.scope["request_id"])
    return {"id": task_id, "status": problem.type.status, "problem": document}


def _located(number: int, error: TodoError, detail: str | None = None) -> Problem:
    operation = f"/operations/{number}"
    return relocated(error, lambda field: f"{operation}/task{field}" if field else operation, detail)


def _result(request: Request, number: int, operation: Operation, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, TodoError):
        return _failed(request, operation.task_id, _located(number, outcome))
    if operation.op == "delete":
        return {"id": operation.task_id, "status": 204}
    result = {"id": operation.task_id, "status": 201 if outcome.created else 200, "task": outcome.task}
    if outcome.successor is not None:
        result["successor"] = outcome.successor
    return result
