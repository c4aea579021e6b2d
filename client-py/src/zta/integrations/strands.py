"""Strands: decides each tool call at the innermost `ExecuteToolStage` wrap.

Innermost, because a plain hook's refusal can be undone by a later hook, and a later middleware can
swap the tool or its arguments after a decision. Here the final tool and arguments are known, and
the tool gets a copy of exactly what was decided on. Calls of models are decided likewise at
`InvokeModelStage`, and nodes of graphs and swarms before they begin.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from strands import Agent
from strands.hooks import AgentInitializedEvent, BeforeNodeCallEvent, HookOrder
from strands.middleware import ExecuteToolStage, InvokeModelStage
from strands.plugins import MultiAgentPlugin, Plugin
from strands.types._events import ModelStopReason, ToolResultEvent

from zta._arguments import snapshot
from zta._calls import MESSAGES, MODEL_CALLS, Call, Delegation, Message, Outcome
from zta._denials import adapter_failed
from zta._messages import Decision, Session, refused
from zta._permitted import offered
from zta._sessions import Link
from zta.integrations._strands_calls import (
    describe,
    describe_model,
    is_hand_off,
    is_innermost,
    is_pseudo_tool,
    make_innermost,
    members,
    resource,
    wraps,
)

if TYPE_CHECKING:
    from strands.middleware import ExecuteToolContext
    from strands.middleware.stages import InvokeModelContext

    from zta._guard import Guard

_NOT_INNERMOST = "another middleware stands between the guard and the tool"
_NOT_GUARDED = "the other agent is not under this guard"


class StrandsGuard(Plugin, MultiAgentPlugin):
    """The plugin that `Guard.strands()` returns, for an agent, a swarm or a graph.

    The agent's `name` chooses its identity.
    """

    name = "zta-guard"

    def __init__(
        self,
        guard: Guard,
        *,
        session: Session | None = None,
        mcp_servers: Mapping[Any, str] | None = None,
        only_permitted: bool = False,
        also: Iterable[str] | None = None,
    ) -> None:
        """Guard with `guard`; `session` stands in where no context variable reaches.

        `mcp_servers` names the server behind each MCPClient; without, its prefix or `mcp` does.
        With `only_permitted` the model is offered no tool that the agent may not call; `also` is
        that of the guard unless it is given here.
        """
        super().__init__()
        self.guard, self._session = guard, session
        self._mcp_servers = dict(mcp_servers or {})
        self._only_permitted = only_permitted
        self.also = guard.also if also is None else frozenset(also)

    def init_agent(self, agent: Agent) -> None:
        """Install last, so that the wrap of every other plugin is outside of this one."""
        agent.add_hook(
            lambda event: self.install(event.agent),
            AgentInitializedEvent,
            order=HookOrder.SDK_LAST,
        )

    def install(self, agent: Any) -> None:
        """Put the wraps into an agent that has finished its initialization."""
        agent.add_middleware(ExecuteToolStage, self._wrap)
        if self._only_permitted or MODEL_CALLS in self.also:
            agent.add_middleware(InvokeModelStage, self._wrap_model)

    def init_multi_agent(self, orchestrator: Any) -> None:
        """Decide before each node of a swarm or a graph."""
        orchestrator.add_hook(self._before_node, BeforeNodeCallEvent, order=HookOrder.SDK_LAST)

    async def _wrap(self, context: ExecuteToolContext, next_fn: Any) -> AsyncGenerator[Any, None]:
        if context.tool is None or is_pseudo_tool(context.tool):
            async for event in next_fn(context):
                yield event
            return
        # The tool gets the copy: nothing can change it between decision and execution.
        tool_use = {**context.tool_use, "input": snapshot(context.tool_use.get("input") or {})}
        context = context.replace(tool_use=tool_use)  # type: ignore[arg-type]
        call, decision, link = await self._decide(context)
        if call is None or not decision.allowed:
            yield _refusal(context, decision)
            return
        began, last = time.monotonic(), None
        try:
            async for event in self.guard.sessions.each_on_behalf(next_fn(context), link):
                if isinstance(event, ToolResultEvent):
                    last = event
                yield event
        finally:
            outcome = _outcome(last, (time.monotonic() - began) * 1000)
            self.guard.report(_name(context.agent), call, decision, outcome)

    async def _decide(
        self, context: ExecuteToolContext
    ) -> tuple[Call | None, Decision, Link | None]:
        agent, guard = _name(context.agent), self.guard
        try:
            if not is_innermost(context.agent, ExecuteToolStage, self._wrap):
                # Ours goes to the end for the next call; this one cannot be vouched for.
                make_innermost(context.agent, ExecuteToolStage, self._wrap)
                return None, refused(_NOT_INNERMOST, "GUARD_FAILED"), None
            call = describe(context.tool, context.tool_use, self._mcp_servers, guard.code_tools)
            if not isinstance(call, Delegation):
                decision = await guard.decide_async(agent, call, session=self._session)
                return call, decision, None
            called = getattr(context.tool, "agent", None)
            if called is not None and not is_guarded(called, guard):
                return None, refused(_NOT_GUARDED, "NO_IDENTITY"), None
            hand_over = is_hand_off(context.tool)
            decision, link = await guard.decide_delegation_async(
                agent, call, session=self._session, hand_over=hand_over
            )
            return call, decision, None if hand_over else link
        except Exception as error:  # noqa: BLE001 - a framework that changed must not open the way
            return None, adapter_failed(agent, error), None

    async def _wrap_model(
        self, context: InvokeModelContext, next_fn: Any
    ) -> AsyncGenerator[Any, None]:
        decision = await self._decide_model(context)
        if decision is not None and not decision.allowed:
            yield _model_refusal(decision)
            return
        if self._only_permitted:
            # In a thread: the question waits for the server, other agents need not.
            context = await asyncio.to_thread(self._with_permitted, context)
        async for event in next_fn(context):
            yield event

    async def _decide_model(self, context: InvokeModelContext) -> Decision | None:
        agent = _name(context.agent)
        try:
            if MODEL_CALLS not in self.also:
                return None
            if not is_innermost(context.agent, InvokeModelStage, self._wrap_model):
                make_innermost(context.agent, InvokeModelStage, self._wrap_model)
                return refused(_NOT_INNERMOST, "GUARD_FAILED")
            call = describe_model(context.model)
            return await self.guard.decide_async(agent, call, session=self._session)
        except Exception as error:  # noqa: BLE001 - as in _decide
            return adapter_failed(agent, error)

    def _with_permitted(self, context: InvokeModelContext) -> InvokeModelContext:
        """The call with the tools that the agent may call; with none where that is unknown."""
        agent: Any = context.agent
        tools = agent.tool_registry.registry
        ids = {name: resource(tool, self._mcp_servers)[0] for name, tool in tools.items()}
        own = {n for n, t in tools.items() if is_pseudo_tool(t) or _is_delegation(t)}
        known_to_be = offered(self.guard, agent.name, ids.values(), self._session)
        kept = {name for name, known in ids.items() if known in known_to_be} | own
        specs = [s for s in context.tool_specs if s["name"] in kept or s["name"] not in tools]
        return context.replace(tool_specs=specs)

    async def _before_node(self, event: BeforeNodeCallEvent) -> None:
        """Refuse a node that is not guarded, and one that is sent what it may not be sent."""
        try:
            node = event.source.nodes[event.node_id]  # type: ignore[attr-defined]
            for agent in members(node.executor):
                if not is_guarded(agent, self.guard):
                    event.cancel_node = refused(_NOT_GUARDED, "NO_IDENTITY").refusal
                    return
            if MESSAGES not in self.also:
                return
            for before in sorted(getattr(node, "dependencies", ()), key=lambda n: str(n.node_id)):
                sender, call = _name(before.executor), Message(_name(node.executor))
                decision = await self.guard.decide_async(sender, call, session=self._session)
                if not decision.allowed:
                    event.cancel_node = decision.refusal
                    return
        except Exception as error:  # noqa: BLE001 - a swarm swallows what its hooks raise
            event.cancel_node = adapter_failed(event.node_id, error).refusal


class SecurityWrapper:
    """Everything in one call: `SecurityWrapper(agent, guard)` for an agent, a swarm or a graph.

    Guards it and every agent inside, in place: tools, models, messages, delegations. Offers each
    agent only its permitted tools, and refuses to start where something stays uncovered or a
    denied tool runs. What is called on the wrapper is called on the agent.
    """

    def __init__(
        self,
        agent: Any,
        guard: Guard,
        *,
        session: Session | None = None,
        mcp_servers: Mapping[Any, str] | None = None,
        also: Iterable[str] = (MODEL_CALLS, MESSAGES),
        only_permitted: bool = True,
        accept: Iterable[str] = (),
    ) -> None:
        """Install; `accept` names the kinds of gaps that may stay. Raises ConfigurationError."""
        plugin = StrandsGuard(
            guard,
            session=session,
            mcp_servers=mcp_servers,
            only_permitted=only_permitted,
            also=also,
        )
        for member in members(agent):
            if isinstance(member, Agent) and not is_guarded(member, guard):
                plugin.install(member)
        if not isinstance(agent, Agent) and hasattr(agent, "nodes"):
            plugin.init_multi_agent(agent)
        self.agent = agent
        """The agent, swarm or graph inside."""
        self.gaps = guard.verify(agent, refuse=True, accept=tuple(accept))
        """What is not covered and was accepted."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the agent."""
        return self.agent(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.agent, name)


def is_guarded(agent: Any, guard: Guard) -> bool:
    """Whether this guard decides the tool calls of an agent."""
    if not isinstance(agent, Agent):
        return False
    owners = (getattr(entry.handler, "__self__", None) for entry in wraps(agent))
    return any(isinstance(owner, StrandsGuard) and owner.guard is guard for owner in owners)


def _is_delegation(tool: Any) -> bool:
    return is_hand_off(tool) or str(tool.tool_type) == "agent"


def _name(agent: Any) -> str:
    return str(getattr(agent, "name", ""))


def _refusal(context: ExecuteToolContext, decision: Decision) -> ToolResultEvent:
    return ToolResultEvent(
        {
            "toolUseId": str(context.tool_use.get("toolUseId")),
            "status": "error",
            "content": [{"text": decision.refusal}],
        }
    )


def _model_refusal(decision: Decision) -> ModelStopReason:
    return ModelStopReason(
        stop_reason="end_turn",
        message={"role": "assistant", "content": [{"text": decision.refusal}]},
        usage={"inputTokens": 0, "outputTokens": 0, "totalTokens": 0},
        metrics={"latencyMs": 0},
    )


def _outcome(event: ToolResultEvent | None, duration_ms: float) -> Outcome:
    if event is None:
        return Outcome(ok=False, duration_ms=duration_ms)
    result = event.tool_result
    text = json.dumps(result["content"], default=str, ensure_ascii=False)
    ok = result["status"] == "success"
    return Outcome(ok, duration_ms, len(text.encode("utf-8", "replace")))
