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
from itertools import product
from typing import TYPE_CHECKING, Any

from strands import Agent
from strands.hooks import AgentInitializedEvent, BeforeNodeCallEvent, HookOrder
from strands.middleware import ExecuteToolStage, InvokeModelStage
from strands.plugins import MultiAgentPlugin, Plugin
from strands.types._events import ModelStopReason, ToolResultEvent

from zta._arguments import snapshot
from zta._calls import MESSAGES, MODEL_CALLS, Call, Delegation, Message, Outcome, ToolCall
from zta._denials import adapter_failed
from zta._messages import Decision, Session, refused
from zta._permitted import offered
from zta._sessions import Link
from zta.integrations._strands_calls import (
    describe,
    describe_model,
    is_hand_off,
    is_pseudo_tool,
    is_terminal,
    make_innermost,
    members,
    orchestrators,
    resource,
    speakers,
    wraps,
)
from zta.integrations._strands_children import (
    hand_on,
    leave,
    makes_strangers,
    with_adoption,
)

if TYPE_CHECKING:
    from strands.middleware import ExecuteToolContext
    from strands.middleware.stages import InvokeModelContext

    from zta._guard import Guard

_NOT_INNERMOST = "another middleware stands between the guard and the tool"
_STRANGERS = "the tool makes agents that are under no guard"
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
        acts_as: str | None = None,
    ) -> None:
        """Guard with `guard`; `session` stands in where no context variable reaches.

        `mcp_servers` names the server behind each MCPClient; without, its prefix or `mcp` does.
        With `only_permitted` the model is offered no tool that the agent may not call; `also` is
        that of the guard unless it is given here. With `acts_as` the agent acts by that one's
        identity, whatever its own name.
        """
        super().__init__()
        self.guard, self._session = guard, session
        self._mcp_servers = dict(mcp_servers or {})
        self._only_permitted = only_permitted
        self.also = guard.also if also is None else frozenset(also)
        self._acts_as = acts_as

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
        hand_on(agent, self._adoption(self._who(agent)))

    def _adoption(self, agent: str) -> Any:
        """What lets the children that a tool makes act as an agent, if they have no guard."""

        def adopt(child: Any) -> bool:
            if not is_guarded(child, self.guard):
                StrandsGuard(
                    self.guard,
                    session=self._session,
                    mcp_servers=self._mcp_servers,
                    only_permitted=self._only_permitted,
                    also=self.also,
                    acts_as=agent,
                ).install(child)
            return is_guarded(child, self.guard)

        return adopt

    def _who(self, agent: Any) -> str:
        return self._acts_as or _name(agent)

    def init_multi_agent(self, orchestrator: Any) -> None:
        """Decide before each node of a swarm or a graph."""
        orchestrator.add_hook(self._before_node, BeforeNodeCallEvent, order=HookOrder.SDK_LAST)

    async def _wrap(self, context: ExecuteToolContext, next_fn: Any) -> AsyncGenerator[Any, None]:
        refusal = self._not_innermost(context.agent, ExecuteToolStage, self._wrap, next_fn)
        if refusal is not None:
            yield _refusal(context, refusal)
            return
        if context.tool is None or is_pseudo_tool(context.tool):
            async for event in next_fn(context):
                yield event
            return
        # The tool gets the copy: nothing can change it between decision and execution.
        tool_use = {**context.tool_use, "input": snapshot(context.tool_use.get("input") or {})}
        tool = with_adoption(context.tool, self._adoption(self._who(context.agent)))
        context = context.replace(tool_use=tool_use, tool=tool)  # type: ignore[arg-type]
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
            self.guard.report(self._who(context.agent), call, decision, outcome)

    @staticmethod
    def _not_innermost(agent: Any, stage: Any, wrap: Any, next_fn: Any) -> Decision | None:
        """The deny of a call with a middleware inside of the guard, also of an unknown tool.

        It could swap the tool or its arguments, and find one where there was none.
        """
        try:
            if is_terminal(next_fn):
                return None
            # Ours goes to the end for the next call; this one cannot be vouched for.
            make_innermost(agent, stage, wrap)
            return refused(_NOT_INNERMOST, "GUARD_FAILED")
        except Exception as error:  # noqa: BLE001 - a framework that changed must not open the way
            return adapter_failed(_name(agent), error)

    async def _decide(
        self, context: ExecuteToolContext
    ) -> tuple[Call | None, Decision, Link | None]:
        agent, guard = self._who(context.agent), self.guard
        try:
            if makes_strangers(context.tool):
                return None, refused(_STRANGERS, "NO_IDENTITY"), None
            call = describe(context.tool, context.tool_use, self._mcp_servers, guard.code_tools)
            if self._acts_as is not None and is_hand_off(context.tool):
                # Between agents that one tool made, which are all the same one.
                use = context.tool_use
                call = ToolCall(str(use["name"]), use["input"], framework="strands")
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
        decision = await self._decide_model(context, next_fn)
        if decision is not None and not decision.allowed:
            yield _model_refusal(decision)
            return
        if self._only_permitted:
            # In a thread: the question waits for the server, other agents need not.
            context = await asyncio.to_thread(self._with_permitted, context)
        async for event in next_fn(context):
            yield event

    async def _decide_model(self, context: InvokeModelContext, next_fn: Any) -> Decision | None:
        agent = self._who(context.agent)
        try:
            if MODEL_CALLS not in self.also:
                return None
            wrap = self._wrap_model
            refusal = self._not_innermost(context.agent, InvokeModelStage, wrap, next_fn)
            if refusal is not None:
                return refusal
            call = describe_model(context.model)
            return await self.guard.decide_async(agent, call, session=self._session)
        except Exception as error:  # noqa: BLE001 - as in _decide
            return adapter_failed(agent, error)

    def _with_permitted(self, context: InvokeModelContext) -> InvokeModelContext:
        """The call with the tools that the agent may call; with none where that is unknown."""
        agent: Any = context.agent
        tools = {**agent.tool_registry.registry, **agent.tool_registry.dynamic_tools}
        ids = {name: resource(tool, self._mcp_servers)[0] for name, tool in tools.items()}
        own = {n for n, t in tools.items() if is_pseudo_tool(t) or _is_delegation(t)}
        known_to_be = offered(self.guard, self._who(agent), ids.values(), self._session)
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
            receivers = speakers(node.executor)
            for before in sorted(getattr(node, "dependencies", ()), key=lambda n: str(n.node_id)):
                for sender, receiver in product(speakers(before.executor), receivers):
                    call = Message(_name(receiver))
                    decision = await self.guard.decide_async(
                        _name(sender), call, session=self._session
                    )
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
        for member in members(agent):
            if isinstance(member, Agent):
                before = take_out(member, guard)
                StrandsGuard(
                    guard,
                    session=session or before._session,
                    mcp_servers=mcp_servers or before._mcp_servers,
                    only_permitted=only_permitted,
                    also=also,
                ).install(member)
        for orchestrator in orchestrators(agent):
            plugin = StrandsGuard(guard, session=session, also=also)
            if not any(known.also >= plugin.also for known in before_nodes(orchestrator, guard)):
                plugin.init_multi_agent(orchestrator)
        self.agent = agent
        """The agent, swarm or graph inside."""
        self.gaps = guard.verify(agent, refuse=True, accept=tuple(accept))
        """What is not covered and was accepted."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the agent."""
        return self.agent(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.agent, name)


def take_out(agent: Any, guard: Guard) -> StrandsGuard:
    """Take this guard's plugin out of an agent, for another one; what it was set to, if any."""
    found = StrandsGuard(guard)
    for stage, entries in agent._middleware_registry._handlers.items():
        own = [entry for entry in entries if _owner(entry, guard) is not None]
        found = next((_owner(entry, guard) or found for entry in own), found)
        agent._middleware_registry._handlers[stage] = [e for e in entries if e not in own]
    leave(agent)
    return found


def _owner(entry: Any, guard: Guard) -> StrandsGuard | None:
    owner = getattr(entry.handler, "__self__", None)
    return owner if isinstance(owner, StrandsGuard) and owner.guard is guard else None


def before_nodes(orchestrator: Any, guard: Guard) -> list[StrandsGuard]:
    """This guard's plugins that decide before the nodes of a swarm or graph."""
    callbacks = orchestrator.hooks._registered_callbacks.get(BeforeNodeCallEvent, [])
    owners = [getattr(getattr(entry, "callback", entry), "__self__", None) for entry in callbacks]
    return [o for o in owners if isinstance(o, StrandsGuard) and o.guard is guard]


def is_guarded(agent: Any, guard: Guard) -> bool:
    """Whether this guard decides the tool calls of an agent."""
    if not isinstance(agent, Agent):
        return False
    return any(_owner(entry, guard) is not None for entry in wraps(agent))


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
        message={"role": "assistant", "content": [{"text": f"DENIED: {decision.message}"}]},
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
