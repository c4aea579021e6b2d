"""What the AutoGen adapter puts in place of an agent's workbenches, model and code executor.

Nothing here raises while a run is on: an exception that escapes a workbench makes the run hang.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autogen_agentchat.agents import AssistantAgent, CodeExecutorAgent
from autogen_core.code_executor import CodeResult
from autogen_core.models import ChatCompletionClient, CreateResult, RequestUsage
from autogen_core.tools import (
    FunctionTool,
    StaticStreamWorkbench,
    StaticWorkbench,
    TextResultContent,
    ToolResult,
    Workbench,
)

from zta._arguments import snapshot
from zta._calls import Call, CodeExecution, Delegation, ModelCall, Outcome, ToolCall
from zta._denials import adapter_failed
from zta._errors import ConfigurationError
from zta._messages import Decision, Session, refused
from zta._permitted import offered
from zta._sessions import Link
from zta.integrations._autogen_members import members, static_tools, stranger

if TYPE_CHECKING:
    from zta._guard import Guard

_CODE_TOOL = "PythonCodeExecutionTool"
_NOT_GUARDED = "the other agent is not under this guard"


@dataclass(frozen=True)
class Asker:
    """Asks for one agent."""

    guard: Guard
    agent: str
    session: Session | None
    mcp_servers: Mapping[Any, str]
    only_permitted: bool = False
    names: AbstractSet[str] = frozenset()
    """The agents that the guard was put before, also those without an identity."""

    async def decide(self, call: Call) -> Decision:
        """Decide one call of the agent."""
        return await self.guard.decide_async(self.agent, call, session=self.session)

    async def delegate(self, to: str, origin: str, name: str, *, hand_over: bool = False) -> Any:
        """Decide whether the agent may call another or hand control to it."""
        call = Delegation(to, framework="autogen", visible_name=name, origin=origin)
        return await self.guard.decide_delegation_async(
            self.agent, call, session=self.session, hand_over=hand_over
        )


def refuse_to_dump(_self: Any) -> Any:
    """Stand in for `dump_component`."""
    raise ConfigurationError("a guarded component cannot be dumped: its guard would be lost")


class GuardedWorkbench(Workbench):
    """One agent's way to a workbench, which other agents may share."""

    component_type = "workbench"

    def __init__(self, inner: Any, asker: Asker) -> None:
        """Let `asker` decide what reaches `inner`."""
        self._inner, self._asker = inner, asker

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: Any = None,
        call_id: str | None = None,
    ) -> ToolResult:
        """Decide, then call with a copy of exactly what was decided on."""
        arguments = snapshot(arguments or {})
        original = getattr(self._inner, "_override_name_to_original", {}).get(name, name)
        call, decision, links = await self._decide(original, name, arguments)
        if not decision.allowed:
            return _refusal(name, decision)
        began, result = time.monotonic(), None
        try:
            with self._asker.guard.sessions.on_behalf(*links):
                done: ToolResult = await self._inner.call_tool(
                    name, arguments, cancellation_token, call_id
                )
            result = done
            return done
        finally:
            self._report(call, decision, began, result)

    async def _decide(
        self, original: str, name: str, arguments: Any
    ) -> tuple[Call, Decision, list[Link]]:
        call, links = self._describe(original, name, arguments), list[Link]()
        asker = self._asker
        try:
            tool = _tool(self._inner, original)
            _keep_context(tool)
            runs = getattr(tool, "_task_runner", None)
            if runs is not None and stranger(asker.guard, runs):
                return call, refused(_NOT_GUARDED, "NO_IDENTITY"), links
            if isinstance(call, Delegation):
                decision, link = await asker.delegate(call.to, call.origin or "", name)
                return call, decision, [link]
            decision = await asker.decide(call)
            for peer in members(runs) if runs is not None else ():
                if decision.allowed:
                    decision, link = await asker.delegate(peer.name, call.origin or "", name)
                    links.append(link)
            return call, decision, links
        except Exception as error:  # noqa: BLE001 - an exception would make the run hang
            return call, adapter_failed(asker.agent, error), links

    def _describe(self, original: str, name: str, arguments: Any) -> Call:
        try:
            return describe(self._inner, self._asker, original, name, arguments)
        except Exception as error:  # noqa: BLE001 - AutoGen has changed
            adapter_failed(self._asker.agent, error)
            return ToolCall("", {"": object()})  # has no canonical form, so it is denied

    def _report(self, call: Call, decision: Decision, began: float, result: Any) -> None:
        text = "" if result is None else result.to_text()
        ok = result is not None and not result.is_error
        size = len(text.encode("utf-8", "replace"))
        outcome = Outcome(ok, (time.monotonic() - began) * 1000, size)
        self._asker.guard.report(self._asker.agent, call, decision, outcome)

    async def list_tools(self) -> Any:
        """The tools, or those of them that are permitted; each call is decided all the same."""
        tools = await self._inner.list_tools()
        if not self._asker.only_permitted:
            return tools
        return await asyncio.to_thread(self._permitted, tools)

    def _permitted(self, tools: Any) -> list[Any]:
        overrides = getattr(self._inner, "_override_name_to_original", {})
        calls = {}
        for tool in tools:
            name = tool["name"]
            calls[name] = self._describe(overrides.get(name, name), name, {})
        asker = self._asker
        ids = [call.resource for call in calls.values() if isinstance(call, ToolCall)]
        known = offered(asker.guard, asker.agent, ids, asker.session)
        return [
            tool
            for tool in tools
            if isinstance(calls[tool["name"]], Delegation) or calls[tool["name"]].resource in known
        ]

    async def start(self) -> None:
        """Start the workbench behind."""
        await self._inner.start()

    async def stop(self) -> None:
        """Stop the workbench behind."""
        await self._inner.stop()

    async def reset(self) -> None:
        """Reset the workbench behind."""
        await self._inner.reset()

    async def save_state(self) -> Mapping[str, Any]:
        """The state of the workbench behind."""
        state: Mapping[str, Any] = await self._inner.save_state()
        return state

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Set the state of the workbench behind."""
        await self._inner.load_state(state)

    dump_component = refuse_to_dump


class GuardedStreamWorkbench(GuardedWorkbench, StaticStreamWorkbench):
    """AutoGen streams from workbenches of the class StaticStreamWorkbench, and only from those."""

    def __init__(self, inner: Any, asker: Asker) -> None:
        """Let `asker` decide what reaches `inner`."""
        GuardedWorkbench.__init__(self, inner, asker)
        self._tools = static_tools(inner)

    async def call_tool_stream(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: Any = None,
        call_id: str | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Decide, then stream."""
        arguments = snapshot(arguments or {})
        # Streaming finds a tool by its own name only; an override is not looked at.
        call, decision, links = await self._decide(name, name, arguments)
        if not decision.allowed:
            yield _refusal(name, decision)
            return
        began, last = time.monotonic(), None
        stream = self._inner.call_tool_stream(name, arguments, cancellation_token, call_id)
        try:
            async for event in self._asker.guard.sessions.each_on_behalf(stream, *links):
                last = event if isinstance(event, ToolResult) else None
                yield event
        finally:
            self._report(call, decision, began, last)


class GuardedModel(ChatCompletionClient):
    """One agent's way to a model. A refusal is what the model says."""

    component_type = "model"

    def __init__(self, inner: Any, asker: Asker, says: str | None = None) -> None:
        """Let `asker` decide each call of `inner`; a denied one says `says` if it is given."""
        self._inner, self._asker, self._says = inner, asker, says

    async def _decide(self) -> Decision:
        try:
            return await self._asker.decide(describe_model(self._inner))
        except Exception as error:  # noqa: BLE001 - AutoGen has changed
            return adapter_failed(self._asker.agent, error)

    def _unsaid(self, decision: Decision) -> CreateResult:
        usage = RequestUsage(prompt_tokens=0, completion_tokens=0)
        text = f"DENIED: {decision.message}" if self._says is None else self._says
        return CreateResult(finish_reason="stop", content=text, usage=usage, cached=False)

    async def create(self, *args: Any, **options: Any) -> CreateResult:
        """Decide, then ask the model."""
        decision = await self._decide()
        if not decision.allowed:
            return self._unsaid(decision)
        result: CreateResult = await self._inner.create(*args, **options)
        return result

    async def create_stream(
        self, *args: Any, **options: Any
    ) -> AsyncGenerator[str | CreateResult, None]:
        """Decide, then let the model stream."""
        decision = await self._decide()
        if not decision.allowed:
            yield self._unsaid(decision)
            return
        async for event in self._inner.create_stream(*args, **options):
            yield event

    async def close(self) -> None:
        """Close the client behind."""
        await self._inner.close()

    def actual_usage(self) -> RequestUsage:
        """The usage of the client behind."""
        return self._inner.actual_usage()  # type: ignore[no-any-return]

    def total_usage(self) -> RequestUsage:
        """The usage of the client behind."""
        return self._inner.total_usage()  # type: ignore[no-any-return]

    def count_tokens(self, *args: Any, **options: Any) -> int:
        """Count as the client behind does."""
        return self._inner.count_tokens(*args, **options)  # type: ignore[no-any-return]

    def remaining_tokens(self, *args: Any, **options: Any) -> int:
        """Count as the client behind does."""
        return self._inner.remaining_tokens(*args, **options)  # type: ignore[no-any-return]

    @property
    def capabilities(self) -> Any:
        """What the model behind can do."""
        return self._inner.capabilities

    @property
    def model_info(self) -> Any:
        """What the model behind can do."""
        return self._inner.model_info

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_inner"], name)

    dump_component = refuse_to_dump


class GuardedExecutor:
    """One agent's way to a code executor. All blocks of a message run, or none."""

    def __init__(self, inner: Any, asker: Asker) -> None:
        """Let `asker` decide on each block for `inner`."""
        self._inner, self._asker = inner, asker

    async def execute_code_blocks(
        self, code_blocks: Sequence[Any], cancellation_token: Any
    ) -> CodeResult:
        """Decide on every block, then execute."""
        calls, decision = [], None
        origin = f"class:{type(self._inner).__module__}:{type(self._inner).__qualname__}"
        for block in code_blocks:
            code = {"language": str(block.language), "code": str(block.code)}
            calls.append(CodeExecution("code", code, framework="autogen", origin=origin))
            decision = await self._asker.decide(calls[-1])
            if not decision.allowed:
                return CodeResult(exit_code=1, output=decision.refusal)
        began, result = time.monotonic(), None
        try:
            done: CodeResult = await self._inner.execute_code_blocks(
                code_blocks, cancellation_token
            )
            result = done
            return done
        finally:
            ok = result is not None and result.exit_code == 0
            outcome = Outcome(ok, (time.monotonic() - began) * 1000)
            for call in calls:
                if decision is not None:
                    self._asker.guard.report(self._asker.agent, call, decision, outcome)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_inner"], name)

    dump_component = refuse_to_dump


def guarded_workbench(workbench: Any, asker: Asker) -> Any:
    """The guarded way to a workbench, of the class that AutoGen streams from where it does."""
    stream = isinstance(workbench, StaticStreamWorkbench)
    return (GuardedStreamWorkbench if stream else GuardedWorkbench)(workbench, asker)


def describe(workbench: Any, asker: Asker, original: str, name: str, arguments: Any) -> Call:
    """The call as the guard asks about it, under the tool's original name."""
    tool = _tool(workbench, original)
    function = getattr(tool, "_func", None)
    resource = original
    if not isinstance(workbench, StaticWorkbench):
        server = asker.mcp_servers.get(workbench, "mcp")
        resource, origin = f"{server}/{original}", f"mcp:{server}"
    elif function is not None and hasattr(function, "__qualname__"):
        origin = f"function:{function.__module__}:{function.__qualname__}"
    else:
        origin = f"class:{type(tool).__module__}:{type(tool).__qualname__}"
    called = getattr(tool, "_task_runner", None)
    if isinstance(called, (AssistantAgent, CodeExecutorAgent)):
        return Delegation(called.name, framework="autogen", visible_name=name, origin=origin)
    code = _runs_code(tool) or resource in asker.guard.code_tools
    kind = CodeExecution if code else ToolCall
    return kind(resource, arguments, framework="autogen", visible_name=name, origin=origin)


def describe_model(client: Any) -> ModelCall:
    """The call of a model, under the name that it was created with or that of its class."""
    known = next(_model_names(client), type(client).__name__)
    origin = f"class:{type(client).__module__}:{type(client).__qualname__}"
    return ModelCall(str(known), framework="autogen", origin=origin)


def _model_names(client: Any) -> Iterator[str]:
    for place in ("_create_args", "_raw_config"):
        found = getattr(client, place, None)
        if isinstance(found, Mapping) and found.get("model"):
            yield found["model"]


def _tool(workbench: Any, original: str) -> Any:
    return next((tool for tool in static_tools(workbench) if tool.name == original), None)


def _keep_context(tool: Any) -> None:
    """Let a synchronous function see the context variables of its call.

    AutoGen runs it in a thread without them: agents that it runs would act for nobody.
    """
    if not isinstance(tool, FunctionTool) or asyncio.iscoroutinefunction(tool._func):
        return
    function = tool._func

    @functools.wraps(function)
    async def in_thread(*args: Any, **options: Any) -> Any:
        return await asyncio.to_thread(function, *args, **options)

    tool._func = in_thread


def _runs_code(tool: Any) -> bool:
    return any(kind.__name__ == _CODE_TOOL for kind in type(tool).__mro__)


def _refusal(name: str, decision: Decision) -> ToolResult:
    content = TextResultContent(content=decision.refusal)
    return ToolResult(name=name, result=[content], is_error=True)
