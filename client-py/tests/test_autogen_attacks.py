"""AutoGen: what a model, another agent or another feature of it could get past a guard."""

import asyncio
from typing import Any

import pytest
from autogen_agentchat.agents import SocietyOfMindAgent
from autogen_agentchat.teams import MagenticOneGroupChat, RoundRobinGroupChat, SelectorGroupChat
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core import CancellationToken
from autogen_core.tools import FunctionTool
from support import DELETE, READ, Ran, within
from support.autogen_run import agent, end, go, model, seen

from zta import ConfigurationError, Session
from zta.testing import FakeServer


@pytest.mark.parametrize("kind", ["agent", "team"])
def test_an_agent_that_came_later_as_a_tool_is_not_called(server: FakeServer, kind: str) -> None:
    server.allow["main"] = {"delegate:fin", "crew"}
    ran = Ran()
    sub = agent("fin", [[DELETE], "sub end"], ran)
    team = RoundRobinGroupChat([sub], max_turns=1)
    late: Any = AgentTool(sub) if kind == "agent" else TeamTool(team, name="crew", description="d")
    name = "fin" if kind == "agent" else "crew"
    main = agent("main", [[(name, {"task": "x"})], "the end"], ran)
    with server.guard("main", "fin") as guard:
        guard.autogen(main)
        main._workbench[0]._inner._tools.append(late)
        assert go(main) == "the end"
    assert ran.calls == []
    assert sub._model_client.create_calls == []
    assert "not under this guard" in seen(main)


@pytest.mark.parametrize("guarded_before", [True, False])
def test_what_an_agent_without_an_identity_says_is_withheld(
    server: FakeServer, guarded_before: bool
) -> None:
    one, two = agent("stranger", ["the secret word"], Ran()), agent("fin", ["the end"], Ran())
    with server.guard("fin", also=["send_message"]) as guard:
        if guarded_before:
            guard.autogen(two)
        go(guard.autogen(RoundRobinGroupChat([one, two], max_turns=2)))
    assert "the secret word" not in seen(two)
    assert "withheld" in seen(two)


@pytest.mark.parametrize("allowed", [True, False])
def test_what_a_society_is_told_is_decided(server: FakeServer, allowed: bool) -> None:
    if allowed:
        server.allow["fin"] |= {"send_message:mind", "send_message:ops"}
    teller, inner = agent("fin", ["the secret word"], Ran()), agent("ops", ["ops end"], Ran())
    mind = SocietyOfMindAgent(
        "mind", team=RoundRobinGroupChat([inner], max_turns=1), model_client=model(["mind end"])
    )
    team = RoundRobinGroupChat([teller, mind], max_turns=2)
    with server.guard("fin", "ops", "mind", also=["send_message"]) as guard:
        guard.autogen(team)
        go(team)
    assert ("the secret word" in seen(inner)) == allowed
    assert ("fin", "mind", allowed) in [(r.agent, r.tool, r.allowed) for r in server.records]


def test_a_guarded_agent_keeps_no_session_that_it_was_not_installed_with(
    server: FakeServer,
) -> None:
    """A server that guards anew for each request would decide for its first user ever after."""
    member = agent("fin", [], Ran())
    with server.guard("fin") as guard:
        guard.autogen(member, session=Session(user="alice"))
        guard.autogen(member, session=Session(user="alice"))
        with pytest.raises(ConfigurationError, match="another session"):
            guard.autogen(member, session=Session(user="bob"))
        with pytest.raises(ConfigurationError, match="another session"):
            guard.autogen(member)


def selector(turns: list[str], **options: Any) -> tuple[Any, Any]:
    """A team in which a model chooses between two, and that model."""
    chooses = model(turns)
    members = [agent("fin", ["fin said"] * 3, Ran()), agent("ops", ["ops said. the end"], Ran())]
    team = SelectorGroupChat(
        members, model_client=chooses, name="desk", termination_condition=end(), **options
    )
    return team, chooses


@pytest.mark.parametrize("streaming", [True, False])
def test_the_model_that_chooses_who_speaks_is_decided(server: FakeServer, streaming: bool) -> None:
    client = "ReplayChatCompletionClient"
    for name in ("fin", "ops"):
        server.allow[name] |= {f"call_model:{client}"}
    names = ("fin", "ops", "desk")
    with server.guard(*names, also=["call_model"]) as guard:
        team, chooses = selector(["ops"], model_client_streaming=streaming)
        guard.autogen(team)
        assert guard.verify(team, refuse=True, canary=False)
        assert "the end" in go(team)  # without a choice AutoGen takes the first, and goes on
        assert chooses._current_index == 0
        server.allow["desk"] = {f"call_model:{client}"}
        team, chooses = selector(["ops"], model_client_streaming=streaming)
        guard.autogen(team)
        assert go(team) == "ops said. the end"
    assert chooses._current_index == 1
    asked = {(r.action, r.tool, r.allowed) for r in server.records if r.agent == "desk"}
    assert asked == {("call_model", client, False), ("call_model", client, True)}


def test_a_refusal_chooses_nobody_that_it_mentions(server: FakeServer) -> None:
    """The text of a refusal names the one who asks; an agent may have that name."""
    with server.guard("first", "desk", also=["call_model"]) as guard:
        server.allow["first"] = {"call_model:ReplayChatCompletionClient"}
        members = [agent("first", ["first said. the end"], Ran()), agent("policy", [], Ran())]
        team = SelectorGroupChat(
            members, model_client=model(["first"]), name="desk", termination_condition=end()
        )
        guard.autogen(team)
        result = within(60, lambda: asyncio.run(team.run(task="go")))
    assert [message.source for message in result.messages] == ["user", "first"]


def test_a_team_that_ran_before_keeps_no_undecided_model(server: FakeServer) -> None:
    with server.guard("fin", "ops", "desk", also=["call_model"]) as guard:
        team, _ = selector(["ops"])
        go(team)
        with pytest.raises(ConfigurationError, match="has run already"):
            guard.autogen(team)


def test_teams_in_teams_are_looked_into(server: FakeServer) -> None:
    with server.guard("fin", "ops") as guard:
        inner, _ = selector(["ops"])
        team = guard.autogen(RoundRobinGroupChat([inner]))
        found = {(gap.kind, gap.where) for gap in guard.verify(team, canary=False)}
    assert ("model_client", "desk") in found
    with server.guard("fin", "ops", also=["call_model"]) as guard:
        inner, _ = selector(["ops"])
        team = guard.autogen(RoundRobinGroupChat([inner]))
        found = {(gap.kind, gap.where) for gap in guard.verify(team, canary=False)}
    assert found >= {("no_identity", "desk")}
    assert "model_client" not in {kind for kind, _ in found}


def test_magentic_one_ends_without_its_model(server: FakeServer) -> None:
    conducts = model(["facts", "plan", "{}", "{}", "{}"])
    server.allow["fin"].add("call_model:ReplayChatCompletionClient")
    with server.guard("fin", "desk", also=["call_model"]) as guard:
        members = [agent("fin", ["x"], Ran())]
        team = guard.autogen(MagenticOneGroupChat(members, model_client=conducts, name="desk"))
        with pytest.raises((RuntimeError, ValueError)):
            within(60, lambda: asyncio.run(team.run(task="go")))
    assert conducts.create_calls == []
    assert {(r.agent, r.action, r.allowed) for r in server.records} == {
        ("desk", "call_model", False)
    }


def test_a_tool_call_that_is_cancelled_ends_the_run(server: FakeServer) -> None:
    ran, token = Ran(), CancellationToken()

    async def read_file(path: str) -> str:
        ran("read_file", path)
        asyncio.get_running_loop().call_later(0.1, token.cancel)
        await asyncio.sleep(30)
        return "never"

    tools = [FunctionTool(read_file, description="d")]
    member = agent("fin", [[READ], "the end"], ran, tools=tools)
    with server.guard("fin") as guard:
        guard.autogen(member)
        within(20, lambda: asyncio.run(member.run(task="go", cancellation_token=token)))
    assert "was cancelled" in seen(member)
    assert ran.calls == [("read_file", "a")]
