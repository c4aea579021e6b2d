"""Strands: what a model, a middleware or another feature of it could get past a guard."""

import asyncio
from typing import Any

import pytest
from strands.middleware import ExecuteToolStage
from strands.multiagent import GraphBuilder, Swarm
from support import DELETE, READ, Ran, within
from support.strands_run import ScriptedModel, agent, go, one

from zta.integrations.strands import SecurityWrapper
from zta.testing import FakeServer


def test_a_later_middleware_cannot_find_a_tool_for_an_unknown_name(server: FakeServer) -> None:
    """As one does that forgives a model its spelling."""
    ran = Ran()
    with server.guard("fin") as guard:
        running = agent(guard, "fin", [[("remove_file", {"path": "b"})], "end"], ran)
        found = running.tool_registry.registry["delete_file"]

        async def forgive(context: Any, next_fn: Any) -> Any:
            async for event in next_fn(context.replace(tool=context.tool or found)):
                yield event

        running.add_middleware(ExecuteToolStage, forgive)
        go(running)
    assert ran.calls == []


def test_calls_that_began_before_the_guard_was_innermost_again_are_refused(
    server: FakeServer,
) -> None:
    """Two calls at a time: the first one puts the guard last again, the second began before."""
    ran = Ran()

    async def slow(_context: Any, next_fn: Any) -> Any:
        await asyncio.sleep(0.05)
        async for event in next_fn(_context):
            yield event

    async def rewrite(context: Any, next_fn: Any) -> Any:
        tool_use = {**context.tool_use, "input": {"path": "rewritten"}}
        async for event in next_fn(context.replace(tool_use=tool_use)):
            yield event

    with server.guard("fin") as guard:
        running = agent(guard, "fin", [[READ, READ], "end"], ran)
        running.add_middleware(ExecuteToolStage, slow)
        running._middleware_registry._handlers[ExecuteToolStage].reverse()
        running.add_middleware(ExecuteToolStage, rewrite)
        go(running)
    assert ran.calls == []
    assert server.records == []


def swarm_in_a_graph(guard: Any, plugins: list[Any]) -> tuple[Any, Any, Any]:
    """A graph: a swarm of one, then an agent."""
    first, last = one(guard, "fin"), one(guard, "ops")
    inner = Swarm([first])
    builder = GraphBuilder()
    builder.add_node(inner, "inner")
    builder.add_node(last, "ops")
    builder.add_edge("inner", "ops")
    builder.set_plugins(plugins)
    return builder.build(), inner, last


@pytest.mark.parametrize("allowed", [True, False])
def test_what_a_swarm_in_a_graph_says_is_said_by_its_agents(
    server: FakeServer, allowed: bool
) -> None:
    if allowed:
        server.allow["fin"].add("send_message:ops")
    with server.guard("fin", "ops", also=["send_message"]) as guard:
        graph, _, last = swarm_in_a_graph(guard, [guard.strands()])
        if allowed:
            within(60, lambda: graph("go"))
        else:
            with pytest.raises(RuntimeError, match="DENIED"):
                within(60, lambda: graph("go"))
    assert len(last.model.seen) == int(allowed)
    assert [(r.agent, r.tool, r.allowed) for r in server.records] == [("fin", "ops", allowed)]


def test_an_orchestrator_inside_of_another_needs_the_guard_too(server: FakeServer) -> None:
    with server.guard("fin", "ops", also=["send_message"]) as guard:
        graph, inner, _ = swarm_in_a_graph(guard, [guard.strands()])
        gaps = [gap for gap in guard.verify(graph, canary=False) if gap.kind == "send_message"]
        assert [(gap.where, gap.blocking) for gap in gaps] == [(inner.id, True)]
        accepted = ["call_model"]  # the agents came with a guard of their own choice
        wrapped = SecurityWrapper(graph, guard, accept=accepted)
        assert {gap.kind for gap in wrapped.gaps} == {"call_model"}
