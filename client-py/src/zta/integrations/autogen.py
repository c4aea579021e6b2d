"""AutoGen 0.7: guards agents and teams in place, at their workbenches and hand-offs.

AutoGen has no hook for tool calls, and an exception that escapes a workbench or a hand-off tool
makes the run hang for ever. So nothing here raises while a run is on. A hand-off happens by the
mere name of its call, whatever its tool returns; a denied one is taken out before AutoGen looks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autogen_agentchat.agents import (
    AssistantAgent,
    MessageFilterAgent,
    SocietyOfMindAgent,
    UserProxyAgent,
)
from autogen_agentchat.teams import BaseGroupChat
from autogen_agentchat.tools._task_runner_tool import TaskRunnerTool
from autogen_core.models import FunctionExecutionResult
from autogen_core.tools import (
    StaticStreamWorkbench,
    StaticWorkbench,
    TextResultContent,
    ToolResult,
    Workbench,
)

from zta._arguments import snapshot
from zta._errors import ConfigurationError
from zta._guard import _place, adapter_failed
from zta._messages import Decision, Session, ToolCall

if TYPE_CHECKING:
    from zta._guard import Guard

logger = logging.getLogger("zta")

_FAILED = "Error: the tool call failed."


@dataclass(frozen=True)
class _Asker:
    """Asks for one agent."""

    guard: Guard
    agent: str
    session: Session | None
    mcp_servers: Mapping[Any, str]

    async def decide(self, call: ToolCall) -> Decision:
        return await self.guard.decide_async(self.agent, call, session=self.session)


def install(
    guard: Guard, target: Any, *, session: Session | None, mcp_servers: Mapping[Any, str]
) -> None:
    """Guard an agent or a team with every agent inside, in place; all of it or an error.

    `mcp_servers` names the server behind each workbench; without a name it is `mcp`. Where a
    runtime is shared and already running, context variables have the values of its start: name
    the `session` here.
    """
    agents = list(_assistants(target, set()))
    for agent in agents:
        owner = getattr(agent, "_zta_guard", guard)
        if owner is not guard:
            raise ConfigurationError(f"agent `{agent.name}` already belongs to another guard")
    for agent in agents:
        if getattr(agent, "_zta_guard", None) is None:
            _guard_agent(_Asker(guard, agent.name, session, mcp_servers), agent)


def _assistants(target: Any, seen: set[int]) -> Iterator[AssistantAgent]:
    """Every agent that calls tools, however deep."""
    if id(target) in seen:
        return
    seen.add(id(target))
    if isinstance(target, AssistantAgent):
        yield target
    for part in _parts(target):
        yield from _assistants(part, seen)


def _parts(target: Any) -> list[Any]:
    """What an agent or team holds; one that could act without asking is refused."""
    if isinstance(target, AssistantAgent):
        tools = [tool for workbench in target._workbench or () for tool in _static_tools(workbench)]
        return [tool._task_runner for tool in tools if isinstance(tool, TaskRunnerTool)]
    if isinstance(target, BaseGroupChat):
        return list(target._participants)
    if isinstance(target, SocietyOfMindAgent):
        return [target._team]
    if isinstance(target, MessageFilterAgent):
        return [target._wrapped_agent]
    if isinstance(target, UserProxyAgent):
        return []
    raise ConfigurationError(
        f"cannot guard a `{type(target).__name__}` of AutoGen: what it does is not a tool call"
    )


def _guard_agent(asker: _Asker, agent: AssistantAgent) -> None:
    """Wrap the agent's workbenches and give it a class whose hand-offs are decided."""
    agent._workbench = [_guarded(workbench, asker) for workbench in agent._workbench or ()]
    agent.__class__ = _guarded_class(asker, type(agent))
    agent._zta_guard = asker.guard  # type: ignore[attr-defined]


def _guarded_class(asker: _Asker, base: Any) -> Any:
    async def _execute_tool_call(  # noqa: PLR0917 - AutoGen's signature
        tool_call: Any,
        workbench: Any,
        handoff_tools: Any,
        agent_name: str,
        cancellation_token: Any,
        stream: Any,
    ) -> tuple[Any, FunctionExecutionResult]:
        try:
            if any(tool.name == tool_call.name for tool in handoff_tools):
                decision = await asker.decide(_describe_handoff(tool_call))
                if not decision.allowed:
                    return tool_call, _error_result(tool_call, decision.refusal)
            result: tuple[Any, FunctionExecutionResult] = await base._execute_tool_call(
                tool_call, workbench, handoff_tools, agent_name, cancellation_token, stream
            )
            return result
        except Exception as error:  # noqa: BLE001 - it would make the run hang
            logger.warning("a tool call of agent %r failed: %s", agent_name, _place(error))
            return tool_call, _error_result(tool_call, _FAILED)

    def _check_and_handle_handoff(
        model_result: Any,
        executed_calls_and_results: Any,
        inner_messages: Any,
        handoffs: Mapping[str, Any],
        agent_name: str,
    ) -> Any:
        refused = {call.name for call, result in executed_calls_and_results if result.is_error}
        left = {name: handoff for name, handoff in handoffs.items() if name not in refused}
        return base._check_and_handle_handoff(
            model_result, executed_calls_and_results, inner_messages, left, agent_name
        )

    members = {
        "_execute_tool_call": staticmethod(_execute_tool_call),
        "_check_and_handle_handoff": staticmethod(_check_and_handle_handoff),
        "dump_component": _refuse_to_dump,
        "__module__": base.__module__,
        "__doc__": base.__doc__,
    }
    return type(base.__name__, (base,), members)


def _refuse_to_dump(_self: Any) -> Any:
    raise ConfigurationError("a guarded component cannot be dumped: its guard would be lost")


def _describe_handoff(tool_call: Any) -> ToolCall:
    try:
        arguments = json.loads(tool_call.arguments or "{}")
    except ValueError:
        arguments = {}  # AutoGen refuses the call for this, with the reason
    return ToolCall(
        tool=tool_call.name,
        arguments=arguments,
        framework="autogen",
        visible_name=tool_call.name,
        origin="handoff",
    )


def _error_result(tool_call: Any, text: str) -> FunctionExecutionResult:
    return FunctionExecutionResult(
        content=text, call_id=tool_call.id, is_error=True, name=tool_call.name
    )


def _static_tools(workbench: Any) -> list[Any]:
    return list(workbench._tools) if isinstance(workbench, StaticWorkbench) else []


class _GuardedWorkbench(Workbench):
    """One agent's way to a workbench, which other agents may share."""

    component_type = "workbench"

    def __init__(self, inner: Any, asker: _Asker) -> None:
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
        decision = await self._decide(original, name, arguments)
        if not decision.allowed:
            return _refusal(name, decision)
        result: ToolResult = await self._inner.call_tool(
            name, arguments, cancellation_token, call_id
        )
        return result

    async def _decide(self, original: str, name: str, arguments: Any) -> Decision:
        try:
            server = self._asker.mcp_servers.get(self._inner, "mcp")
            call = _describe(self._inner, server, original, name, arguments)
            return await self._asker.decide(call)
        except Exception as error:  # noqa: BLE001 - an exception would make the run hang
            return adapter_failed(self._asker.agent, error)

    async def list_tools(self) -> Any:
        """The tools; what is listed is not what is permitted."""
        return await self._inner.list_tools()

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

    dump_component = _refuse_to_dump


class _GuardedStreamWorkbench(_GuardedWorkbench, StaticStreamWorkbench):
    """AutoGen streams from workbenches of the class StaticStreamWorkbench, and only from those."""

    def __init__(self, inner: Any, asker: _Asker) -> None:
        _GuardedWorkbench.__init__(self, inner, asker)
        self._tools = _static_tools(inner)

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
        decision = await self._decide(name, name, arguments)
        if not decision.allowed:
            yield _refusal(name, decision)
            return
        async for event in self._inner.call_tool_stream(
            name, arguments, cancellation_token, call_id
        ):
            yield event


def _guarded(workbench: Any, asker: _Asker) -> Any:
    stream = isinstance(workbench, StaticStreamWorkbench)
    return (_GuardedStreamWorkbench if stream else _GuardedWorkbench)(workbench, asker)


def _describe(workbench: Any, server: str, original: str, name: str, arguments: Any) -> ToolCall:
    tool = next((tool for tool in _static_tools(workbench) if tool.name == original), None)
    function = getattr(tool, "_func", None)
    if not isinstance(workbench, StaticWorkbench):
        original, origin = f"{server}/{original}", f"mcp:{server}"
    elif function is not None and hasattr(function, "__qualname__"):
        origin = f"function:{function.__module__}:{function.__qualname__}"
    else:
        origin = f"class:{type(tool).__module__}:{type(tool).__qualname__}"
    return ToolCall(
        tool=original,
        arguments=arguments,
        framework="autogen",
        visible_name=name,
        origin=origin,
    )


def _refusal(name: str, decision: Decision) -> ToolResult:
    content = TextResultContent(content=decision.refusal)
    return ToolResult(name=name, result=[content], is_error=True)
