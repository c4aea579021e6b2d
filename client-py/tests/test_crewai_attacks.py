"""CrewAI: what an input, a server or another feature of it could get past a guard."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from crewai import Crew, Task
from crewai.hooks import HookAborted, clear_all_hooks
from crewai.mcp import MCPServerStdio
from support import DELETE, READ, Ran, mcp_server, within
from support.crewai_run import ScriptedLLM, agent, crew, go, tools

from zta.integrations import crewai as adapter
from zta.testing import FakeServer


@pytest.fixture(autouse=True)
def no_guard_in_crewai() -> Any:
    """CrewAI's hook and the claims are process-wide: each test begins and ends without them."""
    clear_all_hooks()
    adapter._claims.__init__()  # type: ignore[misc]
    yield
    clear_all_hooks()


class ProviderLLM(ScriptedLLM):
    """Asks the hooks before each direct call, as the providers of CrewAI do."""

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        self._invoke_before_llm_call_hooks(asked, kwargs.get("from_agent"))
        return super().call(messages, *args, **kwargs)


def test_an_input_does_not_choose_whose_identity_it_is(server: FakeServer) -> None:
    server.allow["{topic} analyst"] = {"read_file"}
    server.allow["chief analyst"] = {"delete_file"}
    ran = Ran()
    llm = ScriptedLLM([[DELETE], "end"])
    running = crew(agent("{topic} analyst", llm, tools(ran)))
    with server.guard("{topic} analyst", "chief analyst") as guard:
        guard.crewai(running)
        within(60, lambda: running.kickoff(inputs={"topic": "chief"}))
    assert ran.calls == []
    assert {record.agent for record in server.records} == {"{topic} analyst"}


@pytest.mark.parametrize("claims", ["crew", "everybody"])
def test_a_crew_that_ran_before_asks_for_its_models_too(server: FakeServer, claims: str) -> None:
    """CrewAI keeps the hooks that there were when an agent first ran."""
    llm = ScriptedLLM(["the end", [READ], "the end"])
    running = crew(agent("fin", llm, tools(Ran())))
    go(running)
    with server.guard("fin", also=["call_model"]) as guard:
        guard.crewai(running if claims == "crew" else None)
        with pytest.raises(HookAborted):
            go(running)
    assert len(llm.seen) == 1


def test_a_tool_of_another_agent_answers_nobody_else_from_the_cache(server: FakeServer) -> None:
    """The crew's cache knows tools by their munged names alone."""
    from crewai.tools import BaseTool

    class Secret(BaseTool):
        name: str = "readSecret"
        description: str = "r"

        def _run(self, path: str) -> str:
            return "the secret"

    class Public(BaseTool):
        name: str = "read_secret"
        description: str = "r"

        def _run(self, path: str) -> str:
            return "nothing"

    turn = [("read_secret", {"path": "a"})]
    llms = [ScriptedLLM([turn, "one"]), ScriptedLLM([turn, "two"])]
    members = [agent("fin", llms[0], [Secret()]), agent("ops", llms[1], [Public()])]
    running = crew(*members, cache=True)
    server.allow["fin"], server.allow["ops"] = {"readSecret"}, {"read_secret"}
    with server.guard("fin", "ops") as guard:
        guard.crewai(running)
        go(running)
    results = [m for m in llms[1].seen[-1] if m.get("role") == "tool"]
    assert "the secret" not in json.dumps(results)


def test_no_command_line_of_a_server_is_put_on_record(server: FakeServer, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    configuration = MCPServerStdio(
        command=sys.executable,
        args=[mcp_server.__file__, "--token", "hunter2"],
        env={"MCP_LOG": str(log)},
    )
    running = crew(agent("fin", ScriptedLLM([None, "end"]), [], mcps=[configuration]))
    with server.guard("fin") as guard:
        guard.crewai(running)
        go(running)
        assert len(server.records) == 2
        for record in server.records:
            assert b"hunter2" not in record.request.SerializeToString()
        [read] = {record.tool for record in server.records if record.tool.endswith("/read_file")}
        server.allow["fin"] = {read}
    assert log.read_text() == ""


@pytest.mark.parametrize("claims", ["crew", "everybody"])
@pytest.mark.parametrize("allowed", [True, False])
def test_planning_asks_as_the_crew(server: FakeServer, allowed: bool, claims: str) -> None:
    server.allow["fin"] = {"call_model:scripted"}
    server.allow["desk"] = {"call_model:scripted"} if allowed else set()
    plan = {"list_of_plans_per_task": [{"task_number": 1, "task": "do", "plan": "just do"}]}
    planner = ScriptedLLM([json.dumps(plan)] * 2)
    running = crew(
        agent("fin", ScriptedLLM(["the end"]), []), name="desk", planning=True, planning_llm=planner
    )
    with server.guard("fin", "desk", also=["call_model"]) as guard:
        guard.crewai(running if claims == "crew" else None)
        assert not any(gap.blocking for gap in guard.verify(running, canary=False))
        if allowed:
            assert go(running) == "the end"
        else:
            with pytest.raises(HookAborted, match="DENIED"):
                go(running)
    assert bool(planner.seen) == allowed
    assert ("desk", allowed) in [(r.agent, r.allowed) for r in server.records]


@pytest.mark.parametrize("allowed", [True, False])
def test_a_guardrail_asks_as_the_crew(server: FakeServer, allowed: bool) -> None:
    server.allow["fin"] = {"call_model:scripted"}
    server.allow["desk"] = {"call_model:scripted"} if allowed else set()
    llm = ScriptedLLM(["the end", '{"valid": true, "feedback": null}', "x"])
    member = agent("fin", llm, [])
    task = Task(description="do", expected_output="x", agent=member, guardrail="be kind")
    running = Crew(agents=[member], tasks=[task], name="desk", verbose=False)
    with server.guard("fin", "desk", also=["call_model"]) as guard:
        guard.crewai(running)
        if allowed:
            assert go(running) == "the end"
        else:
            with pytest.raises(HookAborted, match="DENIED"):
                go(running)
    assert ("desk", allowed) in [(r.agent, r.allowed) for r in server.records]


@pytest.mark.parametrize("allowed", [True, False])
def test_a_model_that_is_asked_for_no_agent_is_asked_as_the_crew(
    server: FakeServer, allowed: bool
) -> None:
    """As those of memories are: here by a tool, in the run of the crew."""
    from crewai.tools import tool

    aside = ProviderLLM(["aside"] * 2)

    @tool
    def read_file(path: str) -> str:
        """Read."""
        return str(aside.call("what?"))

    server.allow["fin"] |= {"call_model:scripted"}
    server.allow["desk"] = {"call_model:scripted"} if allowed else set()
    llm = ScriptedLLM([[READ], "the end"])
    running = crew(agent("fin", llm, [read_file]), name="desk")
    with server.guard("fin", "desk", also=["call_model"]) as guard:
        guard.crewai(running)
        assert go(running) == "the end"
        with pytest.raises(HookAborted):
            aside.call("outside of any crew")
    assert len(aside.seen) == int(allowed)
    assert ("desk", allowed) in [(r.agent, r.allowed) for r in server.records]


def test_where_no_guard_decides_models_none_is_denied(server: FakeServer) -> None:
    llm = ProviderLLM(["the end", "aside"])
    running = crew(agent("fin", llm, []))
    with server.guard("fin", also=["send_message"]) as guard:
        guard.crewai(running)
        assert go(running) == "the end"
        assert llm.call("outside of any crew") == "aside"


def test_an_agent_that_claims_to_be_made_by_crewai_gets_nothing(server: FakeServer) -> None:
    """It asks for its models as the crew; tools are those of agents that were claimed."""
    ran = Ran()
    rogue = agent("Guardrail Agent", ScriptedLLM([[READ], "end"]), tools(ran))
    server.allow["desk"] = {"read_file"}
    running = crew(agent("fin", ScriptedLLM([]), []), name="desk")
    with server.guard("fin", "desk") as guard:
        guard.crewai(running)
        within(60, lambda: rogue.kickoff("go"))
    assert ran.calls == []


def test_what_a_crew_asks_aside_needs_an_identity_and_the_hook(server: FakeServer) -> None:
    def found(guard: Any) -> set[tuple[str, str, bool]]:
        kinds = ("no_identity", "model_client", "call_model")
        gaps = guard.verify(running, canary=False)
        return {(gap.kind, gap.where, gap.blocking) for gap in gaps if gap.kind in kinds}

    running = crew(agent("fin", ScriptedLLM([]), []), name="desk", planning=True)
    with server.guard("fin") as guard:
        guard.crewai(running)
        assert found(guard) == {("model_client", "desk", False), ("call_model", "fin", False)}
    with server.guard("fin", also=["call_model"]) as guard:
        guard.crewai(running)
        assert found(guard) == {("no_identity", "desk", True)}
        hooks = adapter.get_hooks(adapter._START)
        adapter.unregister(adapter._START, adapter._before_run)
        assert ("call_model", "fin", True) in found(guard)
        assert hooks == [adapter._before_run]
