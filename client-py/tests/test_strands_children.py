"""Strands: agents that a tool makes while it runs have the tools of their maker, and no guard."""

from typing import Any

import pytest
from strands import Agent
from strands.vended_tools.subagent import make_subagent
from strands.vended_tools.swarm import make_swarm
from support import DELETE, READ, Ran
from support.strands_run import agent, go, tools

from zta.testing import FakeServer

SUBAGENT = ("subagent", {"task": "do it"})
MEMBERS = [{"name": name, "instructions": "do"} for name in ("ops", "second")]
SWARM = ("swarm", {"task": "do it", "agents": MEMBERS})


def unguarded(model: Any, ran: Ran) -> Any:
    """A builder as one would write it."""
    return lambda spec: Agent(name=spec.name, model=model, tools=tools(ran), callback_handler=None)


@pytest.mark.parametrize("own_builder", [False, True])
def test_a_subagent_may_what_its_maker_may(server: FakeServer, own_builder: bool) -> None:
    server.allow["fin"] |= {"subagent"}
    ran = Ran()
    with server.guard("fin", "ops") as guard, guard.session(user="alice"):
        maker: Any = make_subagent()
        turns = [[SUBAGENT], [READ, DELETE], "sub end", "the end"]
        main = agent(guard, "fin", turns, ran, tools=[maker, *tools(ran)])
        if own_builder:
            maker._builder = unguarded(main.model, ran)
        assert go(main).strip() == "the end"
    assert ran.calls == [("read_file", "a")]
    asked = {(r.agent, r.tool, r.allowed, r.request.user) for r in server.records}
    assert asked == {
        ("fin", "subagent", True, "alice"),
        ("fin", "read_file", True, "alice"),
        ("fin", "delete_file", False, "alice"),
    }


def test_a_subagent_of_a_subagent_too(server: FakeServer) -> None:
    server.allow["fin"] |= {"subagent"}
    ran = Ran()
    with server.guard("fin") as guard:
        turns = [[SUBAGENT], [SUBAGENT], [READ, DELETE], "sub sub end", "sub end", "the end"]
        main = agent(guard, "fin", turns, ran, tools=[make_subagent(max_depth=3), *tools(ran)])
        assert go(main).strip() == "the end"
    assert ran.calls == [("read_file", "a")]
    assert {record.agent for record in server.records} == {"fin"}


def test_a_name_that_a_model_gives_is_no_identity(server: FakeServer) -> None:
    """`ops` may delete. Whoever is only called so may not."""
    server.allow["fin"] |= {"swarm", "handoff_to_agent"}
    ran = Ran()
    hand_off = [("handoff_to_agent", {"agent_name": "second", "message": "go on"})]
    with server.guard("fin", "ops") as guard:
        turns = [[SWARM], [DELETE], hand_off, "one end", [READ, DELETE], "two end", "the end"]
        main = agent(guard, "fin", turns, ran, tools=[make_swarm(), *tools(ran)])
        go(main)
    assert ran.calls == [("read_file", "a")]
    assert {record.agent for record in server.records} == {"fin"}
    assert "handoff_to_agent" in {record.tool for record in server.records}


def test_a_swarm_of_agents_that_no_guard_reaches_is_refused_and_found(server: FakeServer) -> None:
    server.allow["fin"] |= {"swarm"}
    ran = Ran()
    with server.guard("fin") as guard:
        maker = make_swarm(builder=unguarded(None, ran))
        main = agent(guard, "fin", [[SWARM], "the end"], ran, tools=[maker])
        go(main)
        found = {(gap.kind, gap.where) for gap in guard.verify(main, canary=False)}
    assert ran.calls == []
    assert "under no guard" in str(main.model.seen)
    assert ("unguarded_agent", "fin") in found


def test_models_of_children_are_decided_as_those_of_their_maker(server: FakeServer) -> None:
    server.allow["fin"] |= {"subagent", "call_model:scripted"}
    with server.guard("fin", also=["call_model"]) as guard:
        turns = [[SUBAGENT], "sub end", "the end"]
        go(agent(guard, "fin", turns, Ran(), tools=[make_subagent()]))
    asked = [r.agent for r in server.records if r.action == "call_model"]
    assert asked == ["fin"] * 3


def test_agents_that_share_their_handlers_share_no_guard(server: FakeServer) -> None:
    """A list of handlers that two agents are made with must not make the one the other."""
    ran, handlers = Ran(), list[Any]()
    with server.guard("fin") as guard:
        agent(guard, "fin", [], ran, interventions=handlers)
        other = agent(None, "other", [[READ], "the end"], ran, interventions=handlers)
        assert ("unguarded_agent", "other") in {
            (gap.kind, gap.where) for gap in guard.verify(other, canary=False)
        }
        go(other)
    assert handlers == []
    assert server.records == []
