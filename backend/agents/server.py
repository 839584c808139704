"""The tools over the Model Context Protocol, by its official SDK: for HTTP, and for standard input and output.

The SDK's low-level server is used: the one on top of it coerces arguments, repeats them in errors, and offers what is
not served (specs/decisions/0018-agents.md).
"""

import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import anyio
import mcp_types as protocol
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from backend import __version__, strict_json
from backend.agents.tools import TOOLS, ToolFailed
from backend.api.body import MAX_BATCH
from backend.api.deps import tasks_of
from backend.api.incidents import log_error
from backend.api.problems import Problem, detail_of, problem_of
from backend.errors import TodoError
from backend.observation import observation
from backend.services.tasks import TaskService

INSTRUCTIONS = (
    "The tasks of one user. Dates are YYYY-MM-DD and times HH:MM, in the user's own zone, which the server does not "
    "know: ask the user what today is. Name a task by its id, or by a part of its title that no other title has. "
    "A deleted task goes to the trash, from where the user can bring it back; to overwrite a text cannot be undone."
)

# The SDK's lines can hold what users wrote. What goes wrong is in the request's own line.
logging.getLogger("mcp").setLevel(logging.CRITICAL + 1)

TasksOf = Callable[[Any], Awaitable[TaskService]]
"""From a call's HTTP request, None where there is none, to the tasks of its user."""


def make_server(tasks_of_call: TasksOf) -> Server[Any]:
    """Make the server that lists the tools and runs them."""
    listed = [
        protocol.Tool(
            name=tool.name,
            description=tool.description,
            input_schema=tool.input_schema,
            output_schema=tool.output_schema,
            annotations=protocol.ToolAnnotations(
                read_only_hint=tool.read_only,
                destructive_hint=tool.destructive,
                idempotent_hint=tool.idempotent or tool.read_only,
                open_world_hint=False,
            ),
        )
        for tool in TOOLS.values()
    ]

    async def list_tools(_context: Any, _params: Any) -> protocol.ListToolsResult:
        return protocol.ListToolsResult(tools=listed)

    async def call_tool(context: Any, params: protocol.CallToolRequestParams) -> protocol.CallToolResult:
        tool = TOOLS.get(params.name)
        if tool is None:
            raise MCPError(protocol.INVALID_PARAMS, "Unknown tool")
        request = context.request
        try:
            result = await tool.run(await tasks_of_call(request), params.arguments or {})
        except (ToolFailed, Problem, TodoError) as error:
            return _content(_failure(error, request), is_error=True)
        except Exception as error:  # noqa: BLE001 # an older protocol's clients would get the exception's text
            _failure(error, request)
            raise MCPError(protocol.INTERNAL_ERROR, "Internal error") from None
        return _content(json.dumps(result, ensure_ascii=False), structured=result)

    server = Server(
        "todo-backend",
        version=__version__,
        instructions=INSTRUCTIONS,
        get_tool_input_schema=lambda name: TOOLS[name].input_schema if name in TOOLS else None,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    server.middleware.clear()  # the SDK's own telemetry, which would put tools' names into spans
    return server


def _content(text: str, *, structured: Any = None, is_error: bool = False) -> protocol.CallToolResult:
    return protocol.CallToolResult(
        content=[protocol.TextContent(type="text", text=text)], structured_content=structured, is_error=is_error
    )


def _failure(error: Exception, request: Any) -> str:
    """Return what the agent is told of a tool that failed; note it for the request's line."""
    failed = error if isinstance(error, ToolFailed) else None
    if failed is None:
        problem = problem_of(error)
        log_error(error, problem, request.scope["request_id"] if request is not None else "stdio")
        failed = ToolFailed(problem.type.code, detail_of(problem), problem.errors)
    observation.get().code = failed.code
    return failed.text()


def http_application() -> Callable[[Any, Any, Any], Awaitable[None]]:
    """Return the ASGI application of one request to `/mcp`, which the guard and the route have let pass.

    The SDK's manager lives for one request: there are no sessions, and it needs no lifespan.
    """

    async def tasks_of_request(request: Any) -> TaskService:
        return tasks_of(request)

    server = make_server(tasks_of_request)

    async def handle(scope: Any, receive: Any, send: Any) -> None:
        manager = StreamableHTTPSessionManager(
            server, json_response=True, stateless=True, max_request_body_size=MAX_BATCH
        )
        async with manager.run():
            await manager.handle_request(scope, receive, send)

    return handle


async def serve_stdio(tasks_of_call: TasksOf, grace: float) -> None:
    """Serve over standard input and output until the input ends; calls under way then have `grace` seconds.

    The SDK would drop them, and it would be silent on a line that is no message: whoever sent it would wait.
    """
    server = make_server(tasks_of_call)
    messages, checked = anyio.create_memory_object_stream[SessionMessage | Exception]()
    responses, sent = anyio.create_memory_object_stream[SessionMessage]()
    under_way: set[str] = set()  # as the SDK compares them: 1 and "1" are one
    answered = anyio.Condition()
    lines = cast("anyio.AsyncFile[str]", _strict_lines())  # the SDK only iterates over it

    async def respond() -> None:
        async with outgoing, sent:
            async for response in sent:
                await outgoing.send(response)
                async with answered:
                    under_way.discard(str(getattr(response.message, "id", None)))
                    answered.notify_all()

    async with stdio_server(lines) as (incoming, outgoing), anyio.create_task_group() as group, messages:
        group.start_soon(server.run, checked, responses, server.create_initialization_options())
        group.start_soon(respond)
        async for message in incoming:
            if isinstance(message, ValidationError):
                await outgoing.send(SessionMessage(_refusal(message)))
                continue
            if isinstance(message, SessionMessage):
                if isinstance(message.message, protocol.JSONRPCRequest):
                    under_way.add(str(message.message.id))
                elif isinstance(message.message, protocol.JSONRPCNotification):
                    under_way.discard(str(cancelled_request_id_from_params(message.message.params)))
            await messages.send(message)
        with anyio.move_on_after(grace):
            async with answered:
                while under_way:
                    await answered.wait()


async def _strict_lines() -> AsyncIterator[str]:
    """Yield the lines of standard input. What is no strict JSON becomes a line that the SDK cannot read either."""
    async for line in anyio.wrap_file(sys.stdin.buffer):
        try:
            strict_json.loads(line)
        except (ValueError, RecursionError):
            yield "\n"
        else:
            yield line.decode()


def _refusal(error: ValidationError) -> protocol.JSONRPCError:
    if error.errors(include_input=False)[0]["type"] == "json_invalid":
        reason = protocol.ErrorData(code=protocol.PARSE_ERROR, message="Send strict JSON in UTF-8, one message a line.")
    else:
        reason = protocol.ErrorData(
            code=protocol.INVALID_REQUEST, message="Send one JSON-RPC 2.0 request or notification."
        )
    return protocol.JSONRPCError(jsonrpc="2.0", id=None, error=reason)
