"""CrewAI: the ways round a hook that were seen, and whose guard decides."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Process, Task
from crewai.hooks import (
    InterceptionPoint,
    clear_all_hooks,
    register_before_tool_call_hook,
    register_hook,
)
from crewai.hooks.dispatch import register_scoped, scoped_hooks
from crewai.tools import BaseTool
from support import DELETE, READ, Ran, mcp_server, within
from support.crewai_run import ScriptedLLM, agent, crew, go, tools

from zta import ConfigurationError
from zta._sessions import Link
from zta.integrations import crewai as adapter
from zta.testing import FakeServer


@pytest.fixture(autouse=True)
def fresh() -> Any:
    """The hook and the claims are process-wide."""
    clear_all_hooks()
    adapter._claims.__init__()  # type: ignore[misc]
    yield
    clear_all_hooks()


def single(turns: list[Any], ran: Ran, role: str = "fin", **options: Any) -> tuple[Crew, Any]:
    llm = ScriptedLLM(turns)
    return crew(agent(role, llm, tools(ran), **options)), llm


def test_whoever_no_guard_claims_is_denied(server: FakeServer) -> None:
    ran = Ran()
    with server.guard("fin") as guard:
        guard.crewai(single([], Ran())[0])
        stranger, llm = single([[READ], "end"], ran, role="other")
        go(stranger)
    assert ran.calls == []
    assert "no identity of its own" in json.dumps(llm.seen)
    assert server.records == []


def test_a_guard_may_stand_for_the_whole_process(server: FakeServer) -> None:
    ran = Ran()
    with server.guard("fin") as guard, server.guard("ops") as other:
        guard.crewai()
        with pytest.raises(ConfigurationError, match="another guard"):
            other.crewai()
        go(single([[READ, DELETE], "end"], ran)[0])
    assert ran.calls == [("read_file", "a")]


def test_a_crew_belongs_to_one_guard(server: FakeServer) -> None:
    running, _ = single([], Ran())
    with server.guard("fin") as guard, server.guard("ops") as other:
        guard.crewai(running)
        guard.crewai(running)
        with pytest.raises(ConfigurationError, match="already belongs"):
            other.crewai(running)
        with pytest.raises(ConfigurationError, match="cannot guard"):
            guard.crewai("crew")


def test_one_role_in_two_crews_keeps_to_its_guard(server: FakeServer) -> None:
    with FakeServer(allow={"fin": ["delete_file"]}) as second:
        one_ran, two_ran = Ran(), Ran()
        one, _ = single([[READ, DELETE], "end"], one_ran)
        two, _ = single([[READ, DELETE], "end"], two_ran)
        with server.guard("fin") as guard, second.guard("fin") as other:
            guard.crewai(one)
            other.crewai(two)
            go(two)
            go(one)
    assert one_ran.calls == [("read_file", "a")]
    assert two_ran.calls == [("delete_file", "b")]


def test_a_copied_crew_is_the_same_crew(server: FakeServer) -> None:
    ran = Ran()
    llm = ScriptedLLM([[READ], "one", [READ], "two"])
    running = crew(agent("fin", llm, tools(ran)))
    with server.guard("fin") as guard:
        guard.crewai(running)
        within(60, lambda: running.kickoff_for_each(inputs=[{"a": 1}, {"a": 2}]))
    assert ran.calls == [("read_file", "a")] * 2


def test_a_copy_that_two_guards_could_own_is_denied(server: FakeServer) -> None:
    ran = Ran()
    one, two = single([[READ], "end"], ran)[0], single([[READ], "end"], ran)[0]
    with server.guard("fin") as guard, server.guard("fin") as other:
        guard.crewai(one)
        other.crewai(two)
        within(60, lambda: one.kickoff_for_each(inputs=[{"a": 1}]))
    assert ran.calls == []
    assert server.records == []


def test_a_guard_that_is_closed_leaves_no_claim_behind(server: FakeServer) -> None:
    ran = Ran()
    running, llm = single([[READ], "end", [READ], "end"], ran)
    with server.guard("fin") as guard:
        guard.crewai(running)
    go(running)
    assert ran.calls == []
    assert "no identity of its own" in json.dumps(llm.seen)
    with server.guard("fin") as guard:
        guard.crewai(running)
        go(running)
    assert ran.calls == [("read_file", "a")]


def test_crews_that_come_and_go_are_not_remembered(server: FakeServer) -> None:
    import gc

    with server.guard("fin") as guard:
        for _ in range(20):
            guard.crewai(single([], Ran())[0])
        gc.collect()
        assert len(adapter._claims._objects) <= 4
        assert [len(claims) for claims in adapter._claims._crew_keys.values()] == [1]
    assert adapter._claims._crew_keys == {}


def test_inputs_in_a_role_do_not_change_who_it_is(server: FakeServer) -> None:
    ran = Ran()
    llm = ScriptedLLM([[READ], "end"])
    running = crew(agent("{topic} analyst", llm, tools(ran)))
    server.allow["{topic} analyst"] = {"read_file"}
    with server.guard("{topic} analyst") as guard:
        guard.crewai(running)
        within(60, lambda: running.kickoff(inputs={"topic": "tax"}))
    assert ran.calls == [("read_file", "a")]


def test_a_guard_of_a_single_agent(server: FakeServer) -> None:
    ran = Ran()
    solo = agent("fin", ScriptedLLM([[READ, DELETE], "end"]), tools(ran))
    with server.guard("fin") as guard:
        guard.crewai(solo)
        within(60, lambda: solo.kickoff("go"))
    assert ran.calls == [("read_file", "a")]


def test_a_later_hook_cannot_change_what_was_decided(server: FakeServer) -> None:
    ran = Ran()
    running, _ = single([[READ], [READ], "end"], ran)
    with server.guard("fin") as guard:
        guard.crewai(running)
        register_before_tool_call_hook(lambda ctx: ctx.tool_input.update(path="mutated"))
        go(running)
    # The first call could not be vouched for; the second is decided as it runs.
    assert ran.calls == [("read_file", "mutated")]
    assert [r.request.arguments_json for r in server.records] == [b'{"path":"mutated"}']


def test_a_scoped_hook_cannot_change_what_was_decided(server: FakeServer) -> None:
    ran = Ran()
    running, _ = single([[READ], [READ], "end"], ran)
    with server.guard("fin") as guard, scoped_hooks():
        guard.crewai(running)
        register_scoped(
            InterceptionPoint.PRE_TOOL_CALL, lambda ctx: ctx.tool_input.update(path="mutated")
        )
        go(running)
    assert ran.calls == [("read_file", "mutated")]
    assert [r.request.arguments_json for r in server.records] == [b'{"path":"mutated"}']


def test_another_hooks_refusal_stands(server: FakeServer) -> None:
    ran = Ran()
    running, llm = single([[READ], "end"], ran)
    with server.guard("fin") as guard:
        register_hook(InterceptionPoint.PRE_TOOL_CALL, lambda _ctx: False)
        guard.crewai(running)
        go(running)
    assert ran.calls == []
    assert "blocked by hook" in json.dumps(llm.seen)


class ReadSecret(BaseTool):
    name: str = "readSecretFile"
    description: str = "r"
    ran: Any = None

    def _run(self, path: str) -> str:
        self.ran("readSecretFile", path)
        return "the secret"


def test_a_tool_is_decided_by_its_original_name(server: FakeServer) -> None:
    ran = Ran()
    llm = ScriptedLLM([[("read_secret_file", {"path": "a"})], "end"])
    running = crew(agent("fin", llm, [ReadSecret(ran=ran)]))
    server.allow["fin"] = {"read_secret_file"}
    with server.guard("fin") as guard:
        guard.crewai(running)
        go(running)
    assert ran.calls == []
    assert [record.tool for record in server.records] == ["readSecretFile"]


def test_two_tools_of_one_munged_name_are_denied(server: FakeServer) -> None:
    ran = Ran()
    llm = ScriptedLLM([[("read_secret_file", {"path": "a"})], "end"])
    two = [ReadSecret(ran=ran), ReadSecret(ran=ran, name="read_secret_file")]
    running = crew(agent("fin", llm, two))
    server.allow["fin"] = {"read_secret_file", "readSecretFile"}
    with server.guard("fin") as guard:
        guard.crewai(running)
        go(running)
    assert ran.calls == []
    assert "ambiguous" in json.dumps(llm.seen)


def test_the_crews_cache_hands_nothing_to_another_agent(server: FakeServer) -> None:
    ran = Ran()
    server.allow["ops"] = set()
    shared = tools(ran)
    llms = [ScriptedLLM([[READ], "one"]), ScriptedLLM([[READ], "two"])]
    running = crew(agent("fin", llms[0], shared), agent("ops", llms[1], shared), cache=True)
    with server.guard("fin", "ops") as guard:
        guard.crewai(running)
        go(running)
    assert ran.calls == [("read_file", "a")]
    results = [m for m in llms[1].seen[-1] if m.get("role") == "tool"]
    assert "DENIED" in json.dumps(results)
    assert "contents of a" not in json.dumps(results)


@pytest.mark.parametrize("allowed", [True, False])
def test_delegation_is_decided(server: FakeServer, allowed: bool) -> None:
    if allowed:
        server.allow["boss"] = {"delegate:fin", "read_file"}
    ran, worker_llm = Ran(), ScriptedLLM([[READ, DELETE], "worked"])
    work = {"task": "t", "context": "c", "coworker": "fin"}
    boss_llm = ScriptedLLM([[("delegate_work_to_coworker", work)], "end"])
    boss = agent("boss", boss_llm, [], allow_delegation=True)
    worker = agent("fin", worker_llm, tools(ran))
    task = Task(description="x", expected_output="x", agent=boss)
    running = Crew(agents=[boss, worker], tasks=[task], verbose=False)
    with server.guard("boss", "fin") as guard:
        guard.crewai(running)
        go(running)
    assert ran.calls == ([("read_file", "a")] if allowed else [])
    assert bool(worker_llm.seen) == allowed
    assert (server.records[0].agent, server.records[0].action) == ("boss", "delegate")
    assert {r.on_behalf_of for r in server.records[1:]} <= {("boss",)}


def test_the_manager_that_crewai_makes_needs_an_identity(server: FakeServer) -> None:
    ran, worker_llm = Ran(), ScriptedLLM([[READ], "worked"])
    work = {"task": "t", "context": "c", "coworker": "fin"}
    manager_llm = ScriptedLLM([[("delegate_work_to_coworker", work)], "end"])
    worker = agent("fin", worker_llm, tools(ran))
    running = Crew(
        agents=[worker],
        tasks=[Task(description="x", expected_output="x")],
        process=Process.hierarchical,
        manager_llm=manager_llm,
        verbose=False,
    )
    with server.guard("fin") as guard:
        guard.crewai(running)
        go(running)
    assert ran.calls == []
    assert worker_llm.seen == []
    assert "no identity of its own" in json.dumps(manager_llm.seen)


def test_structured_output_is_no_tool_call(server: FakeServer) -> None:
    from pydantic import BaseModel

    class Answer(BaseModel):
        number: int

    llm = ScriptedLLM(['{"number": 5}', '{"number": 5}'])
    member = agent("fin", llm, [])
    task = Task(description="x", expected_output="x", agent=member, output_pydantic=Answer)
    running = Crew(agents=[member], tasks=[task], verbose=False)
    with server.guard("fin") as guard:
        guard.crewai(running)
        result = within(60, running.kickoff)
    assert result.pydantic == Answer(number=5)
    assert server.records == []


def test_a_tool_that_fails_is_told_as_before(server: FakeServer) -> None:
    class Failing(BaseTool):
        name: str = "read_file"
        description: str = "r"

        def _run(self, path: str) -> str:
            raise RuntimeError("disk on fire")

    llm = ScriptedLLM([[READ], "end"])
    running = crew(agent("fin", llm, [Failing()]))
    with server.guard("fin") as guard:
        guard.crewai(running)
        go(running)
    assert "disk on fire" in json.dumps(llm.seen)


def test_an_mcp_tool_is_decided_by_its_servers_name_for_it(
    server: FakeServer, tmp_path: Path
) -> None:
    from crewai.mcp import MCPServerStdio

    log = tmp_path / "log"
    log.touch()
    configuration = MCPServerStdio(
        command=sys.executable, args=[mcp_server.__file__], env={"MCP_LOG": str(log)}
    )

    class Llm(ScriptedLLM):
        """Calls every tool that it is offered: their names hold a hash."""

        def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            offered = kwargs.get("tools") or (args[0] if args else None) or []
            if self.turns[0] is None:
                names = [item["function"]["name"] for item in offered]
                self.turns[0] = [(name, {"path": "a"}) for name in names]
            return super().call(messages, *args, **kwargs)

    llm = Llm([None, "end"])
    member = Agent(role="fin", goal="g", backstory="b", llm=llm, mcps=[configuration])
    running = crew(member)
    with server.guard("fin") as guard:
        guard.crewai(running)
        go(running)
        assert log.read_text() == ""
        assert all(r.tool.startswith("mcp-") for r in server.records)
        server.allow["fin"] = {"files/read_file"}
        name = f"{sys.executable}_{mcp_server.__file__}"  # as CrewAI calls it
        guard.crewai(running, mcp_servers={name: "files"})
        llm.turns = [None, "end"]
        go(running)
    assert log.read_text().split() == ["read_file"]


def test_a_coworkers_own_task_is_its_own_again(server: FakeServer) -> None:
    server.allow["boss"] = {"delegate:fin"}
    ran = Ran()
    work = {"task": "t", "context": "c", "coworker": "fin"}
    boss_llm = ScriptedLLM([[("delegate_work_to_coworker", work)], "end"])
    worker_llm = ScriptedLLM([[READ], "worked", [READ], "end"])
    boss = agent("boss", boss_llm, [], allow_delegation=True)
    running = crew(boss, agent("fin", worker_llm, tools(ran)))
    with server.guard("boss", "fin") as guard:
        guard.crewai(running)
        go(running)
    # For the boss, who may not read, it was denied; in its own task it may.
    assert [r.on_behalf_of for r in server.records if r.agent == "fin"] == [("boss",), ()]
    assert ran.calls == [("read_file", "a")]


def test_a_link_ends_after_the_hook_of_its_call(server: FakeServer) -> None:
    """Where a framework runs all of it in one context, nothing else takes the link back."""
    with server.guard("boss", "fin") as guard:
        token = guard.sessions.push(Link("fin", "boss/fin", ("boss",)))
        assert guard.sessions.grant("fin", None) == "boss/fin"
        guard.sessions.pop(token)
        assert guard.sessions.grant("fin", None) is None
