"""What `guard.verify` finds, and what its canary proves."""

import json
import sys
from types import ModuleType
from typing import Any

import pytest
from autogen_agentchat.agents import CodeExecutorAgent
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_agentchat.tools import AgentTool
from autogen_core.code_executor import CodeBlock, CodeResult
from autogen_core.tools import StaticWorkbench
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams
from crewai import Crew, Process, Task
from crewai.hooks import clear_all_hooks
from mcp.types import Tool as MCPTool
from strands.middleware import ExecuteToolStage
from strands.multiagent import GraphBuilder
from strands.tools.mcp import MCPAgentTool, MCPClient
from support import DELETE, READ, Ran, autogen_run, crewai_run, strands_run
from support.rows import in_every_framework

from zta import ConfigurationError
from zta.integrations import crewai as crewai_adapter
from zta.integrations.strands import SecurityWrapper
from zta.testing import FakeServer

CHOSEN = {"call_model", "send_message"}


@pytest.fixture(autouse=True)
def fresh() -> Any:
    """CrewAI's hook and the claims are process-wide."""
    clear_all_hooks()
    crewai_adapter._claims.__init__()  # type: ignore[misc]
    yield
    clear_all_hooks()


def kinds(guard: Any, target: Any) -> set[tuple[str, str]]:
    """Kind and place of each gap."""
    return {(gap.kind, gap.where) for gap in guard.verify(target, canary=False)}


@in_every_framework
def test_a_guarded_agent_has_no_gap_but_what_was_chosen(
    server: FakeServer, module: ModuleType
) -> None:
    with server.guard("fin") as guard:
        gaps = guard.verify(module.one(guard, "fin"), refuse=True)
    assert {gap.kind for gap in gaps} == {"call_model"}
    assert not any(gap.blocking for gap in gaps)
    assert server.records == []


@in_every_framework
def test_with_everything_there_is_no_gap(server: FakeServer, module: ModuleType) -> None:
    with server.guard("fin", also=CHOSEN) as guard:
        assert guard.verify(module.one(guard, "fin"), refuse=True) == []


@in_every_framework
def test_an_unguarded_agent_is_found_and_refused(server: FakeServer, module: ModuleType) -> None:
    with server.guard("fin") as guard:
        running = module.one(None, "fin")
        assert ("unguarded_agent", "fin") in kinds(guard, running)
        with pytest.raises(ConfigurationError, match="unguarded_agent: `fin`"):
            guard.verify(running, refuse=True, canary=False)
        accepted = ["unguarded_agent", "call_model"]
        assert guard.verify(running, refuse=True, accept=accepted, canary=False)


@in_every_framework
def test_an_agent_of_another_guard_is_unguarded(server: FakeServer, module: ModuleType) -> None:
    with server.guard("fin") as guard, server.guard("fin") as other:
        assert ("unguarded_agent", "fin") in kinds(other, module.one(guard, "fin"))


@in_every_framework
def test_an_agent_without_an_identity_is_found(server: FakeServer, module: ModuleType) -> None:
    with server.guard("ops") as guard:
        assert ("no_identity", "fin") in kinds(guard, module.one(guard, "fin"))


def test_what_is_of_no_framework_cannot_be_verified(server: FakeServer) -> None:
    with server.guard("fin") as guard, pytest.raises(ConfigurationError, match="no framework"):
        guard.verify(object())


@in_every_framework
def test_the_canary_finds_an_installation_that_does_not_hold(
    server: FakeServer, module: ModuleType, monkeypatch: Any
) -> None:
    """Each adapter's seam is taken away, as a release of a framework could."""
    with server.guard("fin") as guard:
        target = module.one(guard, "fin")
        if module is strands_run:
            from zta.integrations.strands import StrandsGuard

            monkeypatch.setattr(StrandsGuard, "install", lambda *_args: None)
        elif module is crewai_run:
            monkeypatch.setattr(crewai_adapter, "_decide", lambda _context: None)
        else:
            monkeypatch.setattr(
                "zta.integrations.autogen.guarded_workbench", lambda inner, _asker: inner
            )
        with pytest.raises(ConfigurationError, match="a denied tool ran"):
            guard.verify(target)


@in_every_framework
def test_a_canary_that_could_not_sing_is_no_proof(
    server: FakeServer, module: ModuleType, monkeypatch: Any
) -> None:
    names = {strands_run: "strands", crewai_run: "crewai", autogen_run: "autogen"}
    with server.guard("fin") as guard:
        target = module.one(guard, "fin")
        guard.verify(target)
        part = sys.modules[f"zta.integrations._{names[module]}_canary"]
        monkeypatch.setattr(part, "run", lambda _guard, _ran: None)
        with pytest.raises(ConfigurationError, match="proved nothing"):
            guard.verify(target)


def test_strands_sub_agents_middlewares_and_nodes(server: FakeServer) -> None:
    with server.guard("fin", "main", also=["send_message"]) as guard:
        sub = strands_run.agent(None, "fin", [], Ran())
        main = strands_run.agent(guard, "main", [], Ran(), tools=[sub])
        assert ("unguarded_agent", "fin") in kinds(guard, main)

        async def inside(context: Any, next_fn: Any) -> Any:
            async for event in next_fn(context):
                yield event

        main.add_middleware(ExecuteToolStage, inside)
        assert ("not_innermost", "main") in kinds(guard, main)
        builder = GraphBuilder()
        builder.add_node(strands_run.one(guard, "fin"), "fin")
        assert "send_message" in {kind for kind, _ in kinds(guard, builder.build())}


def test_strands_does_not_call_an_agent_that_is_not_guarded(server: FakeServer) -> None:
    server.allow["main"] = {"delegate:fin", "read_file"}
    ran = Ran()
    with server.guard("fin", "main") as guard:
        sub = strands_run.agent(None, "fin", [[READ], "sub end"], ran)
        turns = [[("fin", {"input": "x"})], "the end"]
        main = strands_run.agent(guard, "main", turns, ran, tools=[sub])
        strands_run.go(main)
    assert ran.calls == []
    assert "not under this guard" in str(main.model.seen)


def test_the_wrapper_installs_everything(server: FakeServer) -> None:
    server.allow["main"] = {"delegate:fin", "read_file", "call_model:scripted"}
    server.allow["fin"] = {"read_file", "call_model:scripted"}
    ran = Ran()
    with server.guard("fin", "main") as guard:
        sub = strands_run.agent(None, "fin", [[READ, DELETE], "sub end"], ran)
        turns = [[("fin", {"input": "x"})], "the end"]
        main = strands_run.agent(None, "main", turns, ran, tools=[sub])
        wrapped = SecurityWrapper(main, guard)
        assert wrapped.gaps == []
        assert wrapped.name == "main"
        with guard.session(user="alice"):
            assert str(wrapped("go")).strip() == "the end"
    assert ran.calls == [("read_file", "a")]
    assert set(sub.model.offered) == {"read_file"}
    assert {r.action for r in server.records} == {"delegate", "call_model", "call_tool"}
    assert {r.on_behalf_of for r in server.records if r.agent == "fin"} == {("main",)}


def test_the_wrapper_holds_what_it_says_for_an_agent_that_has_a_plugin(
    server: FakeServer,
) -> None:
    with server.guard("fin") as guard:
        running = strands_run.agent(guard, "fin", [[READ], "the end"], Ran())
        wrapped = SecurityWrapper(running, guard)
        assert wrapped.gaps == []
        assert "DENIED" in str(wrapped("go"))
        assert running.model.seen == []
        server.allow["fin"].add("call_model:scripted")
        SecurityWrapper(running, guard)
        assert str(wrapped("go")).strip() == "the end"
    assert set(running.model.offered) == {"read_file"}
    assert [r.action for r in server.records] == [
        "call_model",
        "call_model",
        "call_tool",
        "call_model",
    ]


def test_the_wrapper_does_not_start_with_an_agent_that_nobody_knows(server: FakeServer) -> None:
    sub = strands_run.agent(None, "stranger", [], Ran())
    main = strands_run.agent(None, "main", [], Ran(), tools=[sub])
    with server.guard("main") as guard:
        with pytest.raises(ConfigurationError, match="no_identity: `stranger`"):
            SecurityWrapper(main, guard)
        SecurityWrapper(main, guard, accept=["no_identity"])


def test_the_canary_leaves_crewai_as_it_was(server: FakeServer) -> None:
    ran = Ran()
    llm = crewai_run.ScriptedLLM([[READ], "the end"])
    unguarded = crewai_run.crew(crewai_run.agent("other", llm, crewai_run.tools(ran)))
    with server.guard("fin") as guard:
        guard.verify(unguarded)
        crewai_run.go(unguarded)
    assert ran.calls == [("read_file", "a")]


def test_crewai_managers_memories_and_hooks(server: FakeServer) -> None:
    worker = crewai_run.agent("fin", crewai_run.ScriptedLLM([]), [])
    running = Crew(
        agents=[worker],
        tasks=[Task(description="x", expected_output="x")],
        process=Process.hierarchical,
        manager_llm=crewai_run.ScriptedLLM([]),
        planning=True,
    )
    with server.guard("fin") as guard:
        guard.crewai(running)
        found = kinds(guard, running)
        assert ("no_identity", "Crew Manager") in found
        assert "model_client" in {kind for kind, _ in found}
        clear_all_hooks()
        assert ("unguarded_agent", "fin") in kinds(guard, running)


class Executor:
    """A code executor that notes what it runs."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    async def execute_code_blocks(
        self, code_blocks: list[CodeBlock], cancellation_token: Any
    ) -> CodeResult:
        self.ran += [block.code for block in code_blocks]
        return CodeResult(exit_code=0, output="it ran")


@pytest.mark.parametrize("state", ["allowed", "denied", "down"])
def test_autogen_code_is_executed_only_when_allowed(server: FakeServer, state: str) -> None:
    if state == "allowed":
        server.allow["coder"] = {"execute:code"}
    executor: Any = Executor()
    writer = autogen_run.agent("fin", ["```python\nprint(1)\n```"], Ran())
    coder = CodeExecutorAgent("coder", code_executor=executor)
    team = RoundRobinGroupChat([writer, coder], max_turns=2)
    with server.guard("fin", "coder") as guard:
        assert ("unguarded_agent", "coder") in kinds(guard, team)
        guard.autogen(team)
        assert not any(gap.blocking for gap in guard.verify(team, canary=False))
        if state == "down":
            server.stop()
        final = autogen_run.go(team)
    assert executor.ran == (["print(1)\n"] if state == "allowed" else [])
    assert ("it ran" if state == "allowed" else "DENIED") in final
    if state == "denied":
        [record] = server.records
        assert (record.agent, record.action, record.tool) == ("coder", "execute", "code")
        asked = json.loads(record.request.arguments_json)
        assert asked == {"language": "python", "code": "print(1)\n"}


def test_autogen_code_executors_that_are_put_back_are_found(server: FakeServer) -> None:
    executor: Any = Executor()
    coder = CodeExecutorAgent("coder", code_executor=executor)
    with server.guard("coder") as guard:
        guard.autogen(coder)
        coder._code_executor = executor
        assert ("code_executor", "coder") in kinds(guard, coder)


def test_autogen_later_tools_selectors_and_sub_agents(server: FakeServer) -> None:
    ran = Ran()
    sub = autogen_run.agent("fin", [], ran)
    main = autogen_run.agent("main", [], ran, tools=[AgentTool(sub)])
    team = SelectorGroupChat(
        [main, autogen_run.agent("ops", [], ran)], model_client=autogen_run.model([])
    )
    with server.guard("fin", "main", "ops") as guard:
        assert ("unguarded_agent", "fin") in kinds(guard, team)
        guard.autogen(team)
        found = kinds(guard, team)
        assert "model_client" in {kind for kind, _ in found}
        assert "unguarded_agent" not in {kind for kind, _ in found}
        main._workbench.append(StaticWorkbench(autogen_run.tools(ran)))
        assert ("tool_added_later", "main") in kinds(guard, team)


def test_mcp_servers_that_no_name_tells_apart_are_found(server: FakeServer) -> None:
    """What is permitted on a tool of the one would be on that of the other."""
    found = ("unnamed_server", "fin")
    parameters = StdioServerParams(command="true", args=[])
    one = McpWorkbench(parameters)
    two = McpWorkbench(parameters, model_client=autogen_run.model([]))
    nowhere: Any = lambda: None  # noqa: E731 - nothing connects
    clients = [MCPClient(nowhere), MCPClient(nowhere)]
    told = [MCPTool(name=f"t{n}", inputSchema={}) for n in range(2)]
    remote = [MCPAgentTool(tool, client) for tool, client in zip(told, clients, strict=True)]
    with server.guard("fin") as guard:
        for names in ({}, {one: "files"}):
            member = autogen_run.agent("fin", [], Ran(), workbench=[one, two])
            gaps = kinds(guard, guard.autogen(member, mcp_servers=names))
            assert (found in gaps) == (not names)
            assert ("model_client", "fin") in gaps
        for known in ({}, {clients[0]: "files"}):
            plugin = guard.strands(mcp_servers=known)
            running = strands_run.agent(None, "fin", [], Ran(), tools=remote, plugins=[plugin])
            assert (found in kinds(guard, running)) == (not known)
