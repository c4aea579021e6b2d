"""Strands: what a model, a middleware or another feature of it could get past a guard."""

import asyncio
from typing import Any

import pytest
from strands import Agent
from strands.agent.conversation_manager import SummarizingConversationManager
from strands.middleware import ExecuteToolStage
from strands.models.routing import ClassifierStrategy, ModelRouter
from strands.multiagent import GraphBuilder, Swarm
from strands.vended_plugins.goal import GoalLoop
from strands.vended_plugins.steering import LLMSteeringHandler
from support import READ, Ran, within
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
        assert SecurityWrapper(graph, guard).gaps == []


def beside(guard: Any, agent: Any) -> set[tuple[str, str]]:
    """What is found beside the loop."""
    kinds = ("model_client", "unguarded_agent")
    gaps = guard.verify(agent, canary=False)
    return {(gap.kind, gap.where) for gap in gaps if gap.kind in kinds}


def test_models_that_are_asked_beside_the_loop_are_found(server: FakeServer) -> None:
    model, asking = ScriptedModel([]), {("model_client", "fin")}
    options: list[dict[str, Any]] = [
        {"conversation_manager": SummarizingConversationManager()},
        {"context_manager": "auto"},
        {"plugins": [GoalLoop(goal="be kind", max_attempts=2)]},
        {"plugins": [LLMSteeringHandler("be kind")]},
    ]
    with server.guard("fin") as guard:
        assert beside(guard, one(guard, "fin")) == set()
        for option in options:
            assert beside(guard, agent(guard, "fin", [], Ran(), **option)) == asking, option
        router = ModelRouter([model, ScriptedModel([])], strategy=ClassifierStrategy(model=model))
        plugins = [guard.strands()]
        running = Agent(name="fin", model=router, plugins=plugins, callback_handler=None)
        assert beside(guard, running) == asking
        validated = GoalLoop(goal=lambda *_: True, max_attempts=2)
        assert beside(guard, agent(guard, "fin", [], Ran(), plugins=[validated])) == set()


def test_the_agent_that_summarizes_needs_a_guard(server: FakeServer) -> None:
    with server.guard("fin", "ops") as guard:
        for helper, found in (
            (one(None, "ops"), {("unguarded_agent", "ops")}),
            (one(guard, "ops"), set()),
        ):
            manager = SummarizingConversationManager(summarization_agent=helper)
            running = agent(guard, "fin", [], Ran(), conversation_manager=manager)
            assert beside(guard, running) == found
