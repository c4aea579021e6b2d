"""AutoGen: hand-offs, hangs, nesting, and what cannot be guarded."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import BaseChatAgent, SocietyOfMindAgent, UserProxyAgent
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat, Swarm
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core import SingleThreadedAgentRuntime
from autogen_core.tools import FunctionTool, StaticWorkbench, ToolOverride
from support import DELETE, READ, Ran, mcp_server, within
from support.autogen_run import agent, end, go, model, seen, tools

from zta import ConfigurationError, Session
from zta.testing import FakeServer

HANDOFF = ("transfer_to_ops", {})


def swarm(ran: Ran, first_turn: list[Any]) -> tuple[Any, Any, Swarm]:
    one = agent("fin", [first_turn, "fin stays. the end"], ran, handoffs=["ops"])
    two = agent("ops", ["ops took over. the end"], ran)
    return one, two, Swarm([one, two], termination_condition=end())


@pytest.mark.parametrize("state", ["allowed", "denied", "down"])
def test_a_hand_off_happens_only_when_allowed(server: FakeServer, state: str) -> None:
    if state == "allowed":
        server.allow["fin"].add("delegate:ops")
    one, two, team = swarm(Ran(), [HANDOFF])
    with server.guard("fin", "ops") as guard:
        guard.autogen(team)
        if state == "down":
            server.stop()
        final = go(team)
    happened = state == "allowed"
    assert len(two._model_client.create_calls) == int(happened)
    assert final.startswith("ops took over" if happened else "fin stays")
    if not happened:
        assert "DENIED" in seen(one)


def test_a_denied_hand_off_beside_an_allowed_tool(server: FakeServer) -> None:
    ran = Ran()
    _, two, team = swarm(ran, [READ, HANDOFF])
    with server.guard("fin", "ops") as guard:
        guard.autogen(team)
        assert go(team).startswith("fin stays")
    assert two._model_client.create_calls == []
    assert ran.calls == [("read_file", "a")]


def test_of_two_hand_offs_only_the_allowed_one_happens(server: FakeServer) -> None:
    server.allow["fin"].add("delegate:ops")
    ran = Ran()
    turn = [("transfer_to_boss", {}), HANDOFF]
    one = agent("fin", [turn, "fin stays. the end"], ran, handoffs=["boss", "ops"])
    two = agent("ops", ["ops took over. the end"], ran)
    boss = agent("boss", ["boss took over. the end"], ran)
    team = Swarm([one, two, boss], termination_condition=end())
    with server.guard("fin", "ops") as guard:
        guard.autogen(team)
        assert go(team).startswith("ops took over")
    assert boss._model_client.create_calls == []


def test_whatever_raises_the_run_ends(server: FakeServer) -> None:
    class Raising(StaticWorkbench):
        async def call_tool(self, *_args: Any, **_kwargs: Any) -> Any:
            raise RuntimeError("secret detail")

    class Unlistable(StaticWorkbench):
        calls = 0

        async def list_tools(self) -> Any:
            Unlistable.calls += 1
            if Unlistable.calls > 1:
                raise RuntimeError("secret detail")
            return await super().list_tools()

    for kind in (Raising, Unlistable):
        ran = Ran()
        member = agent("fin", [[READ], "the end"], ran, workbench=[kind(tools(ran))])
        with server.guard("fin") as guard:
            guard.autogen(member)
            if kind is Raising:
                assert go(member) == "the end"
                assert "secret detail" not in seen(member)
            else:
                # Listing for the model is AutoGen's own and raises to the caller: no hang.
                with pytest.raises(RuntimeError):
                    go(member)
        assert ran.calls == []


@pytest.mark.parametrize("arguments", ["[1]", "5", "null", '"x"', "{", '{"path": NaN}'])
def test_arguments_that_are_no_object_run_nothing(server: FakeServer, arguments: str) -> None:
    ran = Ran()
    member = agent("fin", [[("read_file", arguments)], "the end"], ran)
    with server.guard("fin") as guard:
        guard.autogen(member)
        assert go(member) == "the end"
    assert ran.calls == []


def test_nested_agents_and_teams_ask_as_themselves(server: FakeServer) -> None:
    server.allow["main"] = {"delegate:fin", "crew", "delegate:ops", "read_file", "delete_file"}
    ran = Ran()
    sub = agent("fin", [[READ, DELETE], "sub done"], ran)
    deep = agent("ops", [[READ, DELETE], "deep done"], ran)
    team = RoundRobinGroupChat([deep], max_turns=1)
    main = agent(
        "main",
        [[("fin", {"task": "x"})], [("crew", {"task": "x"})], "the end"],
        ran,
        tools=[AgentTool(sub), TeamTool(team, name="crew", description="d")],
    )
    with server.guard("fin", "ops", "main") as guard:
        guard.autogen(main)
        assert go(main) == "the end"
    assert sorted(ran.calls) == [("delete_file", "b"), ("read_file", "a")]
    asked = [(r.agent, r.action, r.tool) for r in server.records if not r.on_behalf_of]
    assert asked == [
        ("main", "delegate", "fin"),
        ("main", "call_tool", "crew"),
        ("main", "delegate", "ops"),
    ]
    assert {r.on_behalf_of for r in server.records if r.agent != "main"} == {("main",)}


def test_agents_deep_in_teams_are_guarded(server: FakeServer) -> None:
    ran = Ran()
    inner = agent("fin", [[DELETE], "x"], ran)
    mind = SocietyOfMindAgent(
        "mind", team=RoundRobinGroupChat([inner], max_turns=1), model_client=model(["mind end"])
    )
    selector = SelectorGroupChat(
        [mind, UserProxyAgent("person", input_func=lambda _prompt: "the end")],
        model_client=model(["mind", "person"]),
        termination_condition=end(),
    )
    with server.guard("fin") as guard:
        guard.autogen(selector)
        go(selector)
    assert ran.calls == []
    assert [record.tool for record in server.records] == ["delete_file"]


def test_what_acts_without_tool_calls_is_refused_whole(server: FakeServer) -> None:
    class Actor(BaseChatAgent):
        """Acts in a way of its own."""

        produced_message_types = (TextMessage,)

        async def on_messages(self, *_args: Any) -> Any: ...

        async def on_reset(self, *_args: Any) -> None: ...

    member = agent("fin", [[READ], "the end"], Ran())
    team = RoundRobinGroupChat([member, Actor("actor", description="d")])
    with server.guard("fin") as guard:
        with pytest.raises(ConfigurationError, match="Actor"):
            guard.autogen(team)
        assert not hasattr(member, "_zta_guard")


def test_guarding_twice_decides_once(server: FakeServer) -> None:
    ran = Ran()
    member = agent("fin", [[READ], "the end"], ran)
    with server.guard("fin") as guard, server.guard("ops") as other:
        assert guard.autogen(guard.autogen(member)) is member
        with pytest.raises(ConfigurationError, match="another guard"):
            other.autogen(member)
        go(member)
    assert len(server.records) == 1


def test_agents_that_share_a_workbench_do_not_share_an_identity(server: FakeServer) -> None:
    ran = Ran()
    shared = StaticWorkbench(tools(ran))
    one = agent("fin", [[READ, DELETE], "one"], ran, workbench=[shared])
    two = agent("ops", [[READ, DELETE], "the end"], ran, workbench=[shared])
    team = RoundRobinGroupChat([one, two], termination_condition=end())
    with server.guard("fin", "ops") as guard:
        guard.autogen(team)
        go(team)
    assert ran.calls == [("read_file", "a"), ("delete_file", "b")]


def test_a_renamed_tool_is_decided_by_its_original_name(server: FakeServer) -> None:
    ran = Ran()
    renamed = StaticWorkbench(
        tools(ran), tool_overrides={"delete_file": ToolOverride(name="read_file_2")}
    )
    member = agent("fin", [[("read_file_2", {"path": "b"})], "the end"], ran, workbench=[renamed])
    server.allow["fin"].add("read_file_2")
    with server.guard("fin") as guard:
        guard.autogen(member)
        go(member)
    assert ran.calls == []
    assert [record.tool for record in server.records] == ["delete_file"]


def test_a_shared_runtime_needs_its_session_named(server: FakeServer) -> None:
    async def run(guard: Any) -> None:
        runtime = SingleThreadedAgentRuntime()
        runtime.start()
        member = agent("fin", [[READ], "the end"], Ran())
        team = RoundRobinGroupChat([member], termination_condition=end(), runtime=runtime)
        guard.autogen(team, session=Session(user="alice", session_id="s"))
        await team.run(task="go")
        await runtime.stop()

    with server.guard("fin") as guard:
        within(30, lambda: asyncio.run(run(guard)))
    assert server.records[0].request.user == "alice"


def test_a_guarded_agent_cannot_be_dumped(server: FakeServer) -> None:
    member = agent("fin", [], Ran())
    with server.guard("fin") as guard:
        guard.autogen(member)
        with pytest.raises(ConfigurationError, match="guard would be lost"):
            member.dump_component()
        with pytest.raises(ConfigurationError, match="guard would be lost"):
            member._workbench[0].dump_component()


def test_streaming_tools_still_stream(server: FakeServer) -> None:
    ran = Ran()
    sub = agent("fin", ["sub says hello"], ran)
    server.allow["main"] = {"delegate:fin"}
    main = agent("main", [[("fin", {"task": "x"})], "the end"], ran, tools=[AgentTool(sub)])

    async def run() -> list[str]:
        return [str(getattr(m, "source", "")) async for m in main.run_stream(task="go")]

    with server.guard("fin", "main") as guard:
        guard.autogen(main)
        sources = within(30, lambda: asyncio.run(run()))
    assert "fin" in sources


def test_a_tool_that_raises_is_told_as_before(server: FakeServer) -> None:
    def read_file(path: str) -> str:
        raise RuntimeError("disk on fire")

    failing = [FunctionTool(read_file, description="d")]
    member = agent("fin", [[READ], "the end"], Ran(), tools=failing)
    with server.guard("fin") as guard:
        guard.autogen(member)
        go(member)
    assert "disk on fire" in seen(member)


def test_an_mcp_workbench(server: FakeServer, tmp_path: Path) -> None:
    from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams

    log = tmp_path / "log"
    log.touch()
    parameters = StdioServerParams(
        command=sys.executable, args=[mcp_server.__file__], env={"MCP_LOG": str(log)}
    )
    server.allow["fin"] = {"files/read_file"}

    async def run(guard: Any) -> Any:
        async with McpWorkbench(parameters) as workbench:
            member = agent("fin", [[READ, DELETE], "the end"], Ran(), workbench=[workbench])
            guard.autogen(member, mcp_servers={workbench: "files"})
            return (await member.run(task="go")).messages[-1].content

    with server.guard("fin") as guard:
        assert within(60, lambda: asyncio.run(run(guard))) == "the end"
    assert log.read_text().split() == ["read_file"]
    assert {r.tool for r in server.records} == {"files/read_file", "files/delete_file"}
