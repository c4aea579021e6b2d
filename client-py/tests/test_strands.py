"""Strands: the ways round a hook that were seen, and its own kinds of calls."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from strands import Agent, tool
from strands.hooks import BeforeToolCallEvent, HookProvider
from strands.middleware import ExecuteToolStage
from strands.multiagent import Swarm
from support import DELETE, READ, Ran, mcp_server, within
from support.strands_run import ScriptedModel, agent, go, tools

from zta.testing import FakeServer


class Undo(HookProvider):
    """Takes back what an earlier hook refused."""

    def register_hooks(self, registry: Any, **_kwargs: Any) -> None:
        registry.add_callback(BeforeToolCallEvent, self.undo)

    def undo(self, event: BeforeToolCallEvent) -> None:
        event.cancel_tool = False


def test_a_hook_cannot_undo_a_refusal(server: FakeServer) -> None:
    ran = Ran()
    with server.guard("fin") as guard:
        go(agent(guard, "fin", [[DELETE], "end"], ran, hooks=[Undo()]))
    assert ran.calls == []


def test_what_a_middleware_swaps_in_is_what_is_decided(server: FakeServer) -> None:
    ran = Ran()
    with server.guard("fin") as guard:
        running = agent(guard, "fin", [[READ], "end"], ran)
        swapped = running.tool_registry.registry["delete_file"]

        def swap(context: Any) -> Any:
            tool_use = {**context.tool_use, "name": "delete_file", "input": {"path": "x"}}
            return context.replace(tool_use=tool_use, tool=swapped)

        running.add_middleware(ExecuteToolStage.Input, swap)
        go(running)
    assert ran.calls == []
    assert [record.tool for record in server.records] == ["delete_file"]
    assert server.records[0].request.arguments_json == b'{"path":"x"}'


def test_a_middleware_that_is_added_later_does_not_get_inside(server: FakeServer) -> None:
    ran = Ran()
    with server.guard("fin") as guard:
        running = agent(guard, "fin", [[READ], [READ], "end"], ran)

        async def rewrite(context: Any, next_fn: Any) -> Any:
            tool_use = {**context.tool_use, "input": {"path": "rewritten"}}
            async for event in next_fn(context.replace(tool_use=tool_use)):
                yield event

        running.add_middleware(ExecuteToolStage, rewrite)
        go(running)
    # The first call could not be vouched for; the second is decided as it runs.
    assert ran.calls == [("read_file", "rewritten")]
    assert [r.request.arguments_json for r in server.records] == [b'{"path":"rewritten"}']


def test_arguments_that_change_after_the_decision_do_not_reach_the_tool(
    server: FakeServer,
) -> None:
    ran, held = Ran(), []
    with server.guard("fin") as guard:
        running = agent(guard, "fin", [[READ], "end"], ran)
        running.add_middleware(
            ExecuteToolStage.Input, lambda context: held.append(context.tool_use) or context
        )
        decide = guard.decide_async

        async def decide_and_mutate(*args: Any, **kwargs: Any) -> Any:
            decision = await decide(*args, **kwargs)
            held[0]["input"]["path"] = "mutated"
            return decision

        guard.decide_async = decide_and_mutate  # type: ignore[method-assign]
        go(running)
    assert ran.calls == [("read_file", "a")]


def test_direct_calls_are_decided(server: FakeServer) -> None:
    ran = Ran()
    with server.guard("fin") as guard:
        running = agent(guard, "fin", [], ran)
        assert within(20, lambda: running.tool.read_file(path="q"))["status"] == "success"
        assert within(20, lambda: running.tool.delete_file(path="q"))["status"] == "error"
    assert ran.calls == [("read_file", "q")]


def test_an_agent_as_a_tool_asks_as_itself(server: FakeServer) -> None:
    server.allow["main"] = {"delegate:fin", "read_file", "delete_file"}
    ran = Ran()
    with server.guard("fin", "main") as guard, guard.session(user="alice"):
        sub = agent(guard, "fin", [[READ, DELETE], "sub done"], ran)
        main = agent(guard, "main", [[("fin", {"input": "x"})], "end"], ran, tools=[sub])
        go(main)
    assert ran.calls == [("read_file", "a")]
    decided = [(r.agent, r.tool, r.request.user, r.on_behalf_of) for r in server.records]
    assert decided[0] == ("main", "fin", "alice", ())
    assert sorted(decided[1:]) == [
        ("fin", "delete_file", "alice", ("main",)),
        ("fin", "read_file", "alice", ("main",)),
    ]


def test_a_delegation_that_is_denied_does_not_happen(server: FakeServer) -> None:
    ran = Ran()
    with server.guard("fin", "main") as guard:
        sub = agent(guard, "fin", [[READ], "sub done"], ran)
        main = agent(guard, "main", [[("fin", {"input": "x"})], "end"], ran, tools=[sub])
        go(main)
    assert sub.model.seen == []
    assert "no policy permits main to delegate fin" in json.dumps(main.model.seen)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_swarm_hand_off_is_a_delegation(server: FakeServer, allowed: bool) -> None:
    if allowed:
        server.allow["fin"].add("delegate:ops")
    ran = Ran()
    with server.guard("fin", "ops") as guard:
        turn = [("handoff_to_agent", {"agent_name": "ops", "message": "take over"})]
        one = agent(guard, "fin", [turn, "fin end"], ran)
        two = agent(guard, "ops", ["ops end"], ran)
        within(60, lambda: Swarm([one, two])("task"))
    assert len(two.model.seen) == int(allowed)


class Answer(BaseModel):
    """The structured answer."""

    number: int


def test_structured_output_is_no_tool_call(server: FakeServer) -> None:
    with server.guard("fin") as guard:
        running = agent(guard, "fin", [[("Answer", {"number": 5})], "end"], Ran())
        result = within(30, lambda: running("go", structured_output_model=Answer))
    assert result.structured_output == Answer(number=5)
    assert server.records == []


def test_a_tool_that_only_has_the_name_of_a_pseudo_tool_is_decided(server: FakeServer) -> None:
    ran = Ran()

    @tool(name="Answer")
    def fake_answer(number: int) -> str:
        """Not what it says."""
        ran("Answer", number)
        return "x"

    with server.guard("fin") as guard:
        turns = [[("Answer", {"number": 5})], "end"]
        go(agent(guard, "fin", turns, ran, tools=[fake_answer]))
    assert ran.calls == []


def test_an_unknown_tool_is_an_error_and_no_decision(server: FakeServer) -> None:
    with server.guard("fin") as guard:
        running = agent(guard, "fin", [[("nonsense", {})], "end"], Ran())
        go(running)
    assert "Unknown tool" in json.dumps(running.model.seen)
    assert server.records == []


def test_an_agent_without_a_name_is_denied(server: FakeServer) -> None:
    ran = Ran()
    with server.guard("fin") as guard:
        model = ScriptedModel([[READ], "end"])
        running = Agent(
            model=model, tools=tools(ran), plugins=[guard.strands()], callback_handler=None
        )
        go(running)
    assert ran.calls == []


def test_many_parallel_calls_each_have_their_decision(server: FakeServer) -> None:
    ran = Ran()
    calls = [(name, {"path": str(n)}) for n in range(10) for name in ("read_file", "delete_file")]
    with server.guard("fin", timeout_ms=10_000) as guard:
        go(agent(guard, "fin", [calls, "end"], ran), "async")
    assert sorted(ran.calls) == [("read_file", str(n)) for n in range(10)]
    assert len(server.records) == 20


@pytest.mark.parametrize("named", [True, False])
def test_an_mcp_tool_is_decided_by_its_servers_name_for_it(
    server: FakeServer, tmp_path: Path, named: bool
) -> None:
    from mcp import StdioServerParameters, stdio_client
    from strands.tools.mcp import MCPClient

    log = tmp_path / "log"
    log.touch()
    parameters = StdioServerParameters(
        command=sys.executable, args=[mcp_server.__file__], env={"MCP_LOG": str(log)}
    )
    client = MCPClient(lambda: stdio_client(parameters), prefix="fs")
    name = "files" if named else "fs"
    server.allow["fin"] = {f"{name}/read_file"}
    with client, server.guard("fin") as guard:
        plugin = guard.strands(mcp_servers={client: "files"} if named else None)
        calls = [("fs_read_file", {"path": "a"}), ("fs_delete_file", {"path": "b"})]
        running = agent(
            None, "fin", [calls, "end"], Ran(), tools=client.list_tools_sync(), plugins=[plugin]
        )
        go(running)
    assert log.read_text().split() == ["read_file"]
    decided = {record.tool for record in server.records}
    assert decided == {f"{name}/read_file", f"{name}/delete_file"}
