"""AutoGen 0.7: guards agents and teams in place, at their workbenches and hand-offs.

AutoGen has no hook for tool calls, and an exception that escapes a workbench or a hand-off tool
makes the run hang for ever. So nothing here raises while a run is on. A hand-off happens by the
mere name of its call, whatever its tool returns; a denied one is taken out before AutoGen looks.
"""

from __future__ import annotations

import asyncio
import json
import logging
import weakref
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from autogen_agentchat.agents import CodeExecutorAgent, SocietyOfMindAgent
from autogen_agentchat.messages import TextMessage
from autogen_core.models import FunctionExecutionResult

from zta._calls import MESSAGES, MODEL_CALLS, Message, ToolCall
from zta._denials import adapter_failed, place
from zta._errors import ConfigurationError
from zta._messages import Decision, Session
from zta.integrations._autogen_members import members, teams
from zta.integrations._autogen_parts import (
    Asker,
    GuardedExecutor,
    GuardedModel,
    guarded_workbench,
    refuse_to_dump,
)

if TYPE_CHECKING:
    from zta._guard import Guard

logger = logging.getLogger("zta")

_names: weakref.WeakKeyDictionary[Guard, set[str]] = weakref.WeakKeyDictionary()
"""The agents that each guard was put before, also those without an identity."""
_CANCELLED = "Error: the tool call was cancelled."
_FAILED = "Error: the tool call failed."


def install(
    guard: Guard,
    target: Any,
    *,
    session: Session | None,
    mcp_servers: Mapping[Any, str],
    only_permitted: bool = False,
) -> None:
    """Guard an agent or a team with every agent inside, in place; all of it or an error.

    `mcp_servers` names the server behind each workbench; without a name it is `mcp`. Where a
    runtime is shared and already running, context variables have the values of its start: name
    the `session` here. With `only_permitted` a model is offered no tool that its agent may not
    call.
    """
    agents, known = members(target), (session, dict(mcp_servers), only_permitted)
    for agent in agents:
        owner, before = getattr(agent, "_zta_guard", guard), getattr(agent, "_zta_options", known)
        if owner is not guard:
            raise ConfigurationError(f"agent `{agent.name}` already belongs to another guard")
        if before != known:
            raise ConfigurationError(
                f"agent `{agent.name}` is guarded already, with another session or other options"
            )
    _guard_teams(guard, target, session)
    names = _names.setdefault(guard, set())
    names |= {agent.name for agent in agents}
    for agent in agents:
        if getattr(agent, "_zta_guard", None) is None:
            asker = Asker(guard, agent.name, session, mcp_servers, only_permitted, names)
            _guard_agent(asker, agent)
            agent._zta_options = known


def _guard_teams(guard: Guard, target: Any, session: Session | None) -> None:
    """Put a guarded way before the models of teams, which choose who speaks."""
    if MODEL_CALLS not in guard.also:
        return
    for team in teams(target):
        model = getattr(team, "_model_client", None)
        if model is None or isinstance(model, GuardedModel):
            continue
        if team._initialized:
            raise ConfigurationError(f"team `{team.name}` has run already: guard it before")
        # What it says must be no name: a refusal would choose whom it happens to mention.
        team._model_client = GuardedModel(model, Asker(guard, team.name, session, {}), says="")


def _guard_agent(asker: Asker, agent: Any) -> None:
    """Put a guarded way before whatever the agent acts by, and its class before its methods."""
    guard, model = asker.guard, getattr(agent, "_model_client", None)
    if MODEL_CALLS in guard.also and model is not None:
        agent._model_client = GuardedModel(model, asker)
    members = _messages(asker, type(agent)) if MESSAGES in guard.also else {}
    if isinstance(agent, SocietyOfMindAgent):
        pass  # The agents inside of it act, each by itself.
    elif isinstance(agent, CodeExecutorAgent):
        agent._code_executor = GuardedExecutor(agent._code_executor, asker)  # type: ignore[assignment]
    else:
        agent._workbench = [guarded_workbench(part, asker) for part in agent._workbench or ()]
        peers = asker.names | set(guard.agents)
        targets = {name: str(handoff.target) for name, handoff in agent._handoffs.items()}
        to_agents = {name: target for name, target in targets.items() if target in peers}
        members |= _hand_offs(asker, type(agent), to_agents)
    agent.__class__ = _guarded_class(type(agent), members)
    agent._zta_guard = guard


def _guarded_class(base: Any, members: dict[str, Any]) -> Any:
    own = {
        "dump_component": refuse_to_dump,
        "__module__": base.__module__,
        "__doc__": base.__doc__,
    }
    return type(base.__name__, (base,), {**own, **members})


def _hand_offs(asker: Asker, base: Any, to_agents: Mapping[str, str]) -> dict[str, Any]:
    """The methods by which an agent hands control on, with a decision before."""

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
                decision = await _decide_hand_off(asker, tool_call, to_agents)
                if not decision.allowed:
                    return tool_call, _error_result(tool_call, decision.refusal)
            result: tuple[Any, FunctionExecutionResult] = await base._execute_tool_call(
                tool_call, workbench, handoff_tools, agent_name, cancellation_token, stream
            )
            return result
        except asyncio.CancelledError:
            # The tool was cancelled, not this task: AutoGen would wait for it for ever.
            if _is_cancelling() or not cancellation_token.is_cancelled():
                raise
            return tool_call, _error_result(tool_call, _CANCELLED)
        except Exception as error:  # noqa: BLE001 - it would make the run hang
            logger.warning("a tool call of agent %r failed: %s", agent_name, place(error))
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

    return {
        "_execute_tool_call": staticmethod(_execute_tool_call),
        "_check_and_handle_handoff": staticmethod(_check_and_handle_handoff),
    }


async def _decide_hand_off(asker: Asker, tool_call: Any, to_agents: Mapping[str, str]) -> Decision:
    """To an agent it is a delegation; to a person, or out of the team, a tool call."""
    target = to_agents.get(tool_call.name)
    if target is None:
        return await asker.decide(_describe_handoff(tool_call))
    decision, _ = await asker.delegate(target, "handoff", tool_call.name, hand_over=True)
    return decision  # type: ignore[no-any-return]


def _messages(asker: Asker, base: Any) -> dict[str, Any]:
    """The method by which an agent is told what others said, with a decision before."""

    async def on_messages_stream(
        self: Any, messages: Any, cancellation_token: Any
    ) -> AsyncGenerator[Any, None]:
        let_in = [await _let_in(asker, message) for message in messages]
        async for event in base.on_messages_stream(self, let_in, cancellation_token):
            yield event

    return {"on_messages_stream": on_messages_stream}


async def _let_in(asker: Asker, message: Any) -> Any:
    """The message, or a note in its place. What people say is not asked about."""
    sender = str(message.source)
    if sender == asker.agent or sender not in asker.names | set(asker.guard.agents):
        return message
    call = Message(asker.agent, framework="autogen", origin=type(message).__name__)
    try:
        decision = await asker.guard.decide_async(sender, call, session=asker.session)
    except Exception as error:  # noqa: BLE001 - the run would end with it
        decision = adapter_failed(sender, error)
    if decision.allowed:
        return message
    return TextMessage(content=f"[withheld: {decision.message}]", source=sender)


def _describe_handoff(tool_call: Any) -> ToolCall:
    try:
        arguments = json.loads(tool_call.arguments or "{}")
    except ValueError:
        arguments = {}  # AutoGen refuses the call for this, with the reason
    return ToolCall(
        tool_call.name,
        arguments,
        framework="autogen",
        visible_name=tool_call.name,
        origin="handoff",
    )


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and hasattr(task, "cancelling") and task.cancelling() > 0


def _error_result(tool_call: Any, text: str) -> FunctionExecutionResult:
    return FunctionExecutionResult(
        content=text, call_id=tool_call.id, is_error=True, name=tool_call.name
    )
