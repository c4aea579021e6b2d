"""What the frameworks do without a guard, where a refusal is easily no refusal.

These tests say nothing about us. When one fails, a framework has changed: look whether the adapter
still needs what it does about it, and whether something new is needed.
"""

import asyncio
import contextvars
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat, Swarm
from autogen_core import DefaultInterventionHandler, DropMessage, SingleThreadedAgentRuntime
from autogen_core.tools import StaticWorkbench
from crewai.hooks import HookAborted, InterceptionPoint, clear_all_hooks, register_hook
from crewai.mcp import MCPServerStdio
from crewai.tools import BaseTool
from pydantic import BaseModel
from strands.hooks import BeforeToolCallEvent, HookProvider
from strands.middleware import ExecuteToolStage, InvokeModelStage
from strands.vended_tools.subagent import make_subagent
from support import DELETE, READ, Ran, autogen_run, crewai_run, mcp_server, strands_run, within

_HANG_S = 4


@pytest.fixture(autouse=True)
def no_hooks() -> Any:
    """CrewAI's hooks are process-wide."""
    clear_all_hooks()
    yield
    clear_all_hooks()


def crew_with(hook: Any) -> tuple[list[Any], str]:
    """What ran, and what the model was shown, with one hook before each tool call."""
    ran, llm = Ran(), crewai_run.ScriptedLLM([[DELETE], "the end"])
    register_hook(InterceptionPoint.PRE_TOOL_CALL, hook)
    crewai_run.go(crewai_run.crew(crewai_run.agent("fin", llm, crewai_run.tools(ran))))
    return ran.calls, json.dumps(llm.seen)


def test_crewai_runs_the_tool_when_a_hook_raises() -> None:
    def unreachable(_context: Any) -> None:
        raise ConnectionError("the server is down")

    assert crew_with(unreachable)[0] == [("delete_file", "b")]


@pytest.mark.parametrize("answer", [None, 0, "", "deny", True])
def test_crewai_runs_the_tool_whatever_a_hook_returns_but_false(answer: Any) -> None:
    assert crew_with(lambda _context: answer)[0] == [("delete_file", "b")]


def test_crewai_blocks_the_tool_when_a_hook_returns_false() -> None:
    assert crew_with(lambda _context: False)[0] == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_crewai_does_not_await_a_hook() -> None:
    async def refuse(_context: Any) -> bool:
        return False

    assert crew_with(refuse)[0] == [("delete_file", "b")]


def test_crewai_keeps_the_reason_of_a_refusal_to_itself() -> None:
    def refuse(_context: Any) -> None:
        raise HookAborted(reason="no policy permits it")

    ran, seen = crew_with(refuse)
    assert ran == []
    assert "blocked by hook" in seen
    assert "no policy permits it" not in seen


def test_crewai_asks_the_model_when_a_hook_raises() -> None:
    def unreachable(_context: Any) -> None:
        raise ConnectionError("the server is down")

    llm = crewai_run.ScriptedLLM(["the end"])
    register_hook(InterceptionPoint.PRE_MODEL_CALL, unreachable)
    crewai_run.go(crewai_run.crew(crewai_run.agent("fin", llm, [])))
    assert len(llm.seen) == 1


def test_crewai_hands_one_agents_result_to_another_past_the_tool() -> None:
    class Guarded(BaseTool):
        """Looks inside of itself who may run it, which is too late."""

        name: str = "read_file"
        description: str = "r"
        ran: Any = None

        def _run(self, path: str) -> str:
            self.ran("read_file", path)
            return "the secret"

    ran = Ran()
    tool = Guarded(ran=ran)
    llms = [crewai_run.ScriptedLLM([[READ], "one"]), crewai_run.ScriptedLLM([[READ], "two"])]
    members = [crewai_run.agent(f"agent{n}", llm, [tool]) for n, llm in enumerate(llms)]
    crewai_run.go(crewai_run.crew(*members, cache=True))
    assert ran.calls == [("read_file", "a")]
    assert "the secret" in json.dumps([m for m in llms[1].seen[-1] if m.get("role") == "tool"])


def test_crewai_does_not_call_mcp_tools_by_their_names(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    configuration = MCPServerStdio(
        command=sys.executable, args=[mcp_server.__file__], env={"MCP_LOG": str(log)}
    )
    names = []
    register_hook(InterceptionPoint.PRE_TOOL_CALL, lambda context: names.append(context.tool_name))
    llm = crewai_run.ScriptedLLM([None, "the end"])
    member = crewai_run.agent("fin", llm, [], mcps=[configuration])
    crewai_run.go(crewai_run.crew(member))
    assert sorted(log.read_text().split()) == ["delete_file", "read_file"]
    assert not {"delete_file", "read_file"} & set(names)


def test_crewai_keeps_the_hooks_that_there_were_when_an_agent_first_ran() -> None:
    llm = crewai_run.ScriptedLLM(["one", "two"])
    running = crewai_run.crew(crewai_run.agent("fin", llm, []))
    crewai_run.go(running)

    def refuse(_context: Any) -> None:
        raise HookAborted(reason="no")

    register_hook(InterceptionPoint.PRE_MODEL_CALL, refuse)
    assert crewai_run.go(running) == "two"


def test_crewai_sees_no_direct_calls() -> None:
    def refuse(_context: Any) -> None:
        raise HookAborted(reason="no")

    register_hook(InterceptionPoint.PRE_TOOL_CALL, refuse)
    register_hook(InterceptionPoint.PRE_MODEL_CALL, refuse)
    ran, llm = Ran(), crewai_run.ScriptedLLM(["the end"])
    crewai_run.tools(ran)[1].run(path="b")
    assert llm.call([{"role": "user", "content": "x"}]) == "the end"
    assert ran.calls == [("delete_file", "b")]


def strands_with(*hooks: Any) -> list[Any]:
    """What ran with hooks before each tool call."""
    ran = Ran()
    strands_run.go(strands_run.agent(None, "fin", [[DELETE], "end"], ran, hooks=list(hooks)))
    return ran.calls


class Refuse(HookProvider):
    """Refuses each call, as the documentation has it."""

    def register_hooks(self, registry: Any, **_kwargs: Any) -> None:
        registry.add_callback(BeforeToolCallEvent, self.refuse)

    def refuse(self, event: BeforeToolCallEvent) -> None:
        event.cancel_tool = "no"


class Undo(Refuse):
    """Takes a refusal back."""

    def refuse(self, event: BeforeToolCallEvent) -> None:
        event.cancel_tool = False


class Lazy(Refuse):
    """Refuses by a callable that is asynchronous and does not look so."""

    def register_hooks(self, registry: Any, **_kwargs: Any) -> None:
        class Callback:
            async def __call__(self, event: BeforeToolCallEvent) -> None:
                event.cancel_tool = "no"

        registry.add_callback(BeforeToolCallEvent, Callback())


def test_strands_refuses_by_a_hook() -> None:
    assert strands_with(Refuse()) == []


def test_strands_lets_a_later_hook_undo_a_refusal() -> None:
    assert strands_with(Refuse(), Undo()) == [("delete_file", "b")]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_strands_does_not_await_a_callable_object() -> None:
    assert strands_with(Lazy()) == [("delete_file", "b")]


def test_strands_lets_an_inner_middleware_change_what_an_outer_one_saw() -> None:
    ran, saw = Ran(), []
    running = strands_run.agent(None, "fin", [[READ], "end"], ran)

    async def outer(context: Any, next_fn: Any) -> Any:
        saw.append(dict(context.tool_use["input"]))
        async for event in next_fn(context):
            yield event

    async def inner(context: Any, next_fn: Any) -> Any:
        tool_use = {**context.tool_use, "input": {"path": "another"}}
        async for event in next_fn(context.replace(tool_use=tool_use)):
            yield event

    running.add_middleware(ExecuteToolStage, outer)
    running.add_middleware(ExecuteToolStage, inner)
    strands_run.go(running)
    assert saw == [{"path": "a"}]
    assert ran.calls == [("read_file", "another")]


def test_strands_does_not_pass_invocation_state_to_an_agent_that_is_a_tool() -> None:
    seen = []

    class Look(HookProvider):
        def register_hooks(self, registry: Any, **_kwargs: Any) -> None:
            registry.add_callback(BeforeToolCallEvent, self.look)

        def look(self, event: BeforeToolCallEvent) -> None:
            seen.append((event.agent.name, event.invocation_state.get("user")))

    ran, look = Ran(), Look()
    sub = strands_run.agent(None, "sub", [[READ], "end"], ran, hooks=[look])
    turns = [[("sub", {"input": "x"})], "end"]
    main = strands_run.agent(None, "main", turns, ran, tools=[sub], hooks=[look])
    within(60, lambda: main("go", invocation_state={"user": "alice"}))
    assert seen == [("main", "alice"), ("sub", None)]


def test_strands_hands_no_hook_of_an_agent_on_to_its_subagents() -> None:
    ran = Ran()
    turns = [[("subagent", {"task": "x"})], [DELETE], "sub end", "end"]
    tools = [make_subagent(), *strands_run.tools(ran)]
    seen: list[str] = []

    class Look(HookProvider):
        def register_hooks(self, registry: Any, **_kwargs: Any) -> None:
            registry.add_callback(BeforeToolCallEvent, lambda e: seen.append(e.tool_use["name"]))

    strands_run.go(strands_run.agent(None, "fin", turns, ran, tools=tools, hooks=[Look()]))
    assert seen == ["subagent"]
    assert ran.calls == [("delete_file", "b")]


def test_strands_makes_nothing_of_arguments_that_are_no_json() -> None:
    saw = []
    running = strands_run.agent(None, "fin", [[("read_file", '{"path": ')], "end"], Ran())

    async def look(context: Any, next_fn: Any) -> Any:
        saw.append(context.tool_use["input"])
        async for event in next_fn(context):
            yield event

    running.add_middleware(ExecuteToolStage, look)
    strands_run.go(running)
    assert saw == [{}]


class Answer(BaseModel):
    """The structured answer."""

    number: int = 0


def test_strands_asks_for_structured_output_past_the_model_stage() -> None:
    calls = []
    running = strands_run.agent(None, "fin", [], Ran())

    async def look(context: Any, next_fn: Any) -> Any:
        calls.append(context)
        async for event in next_fn(context):
            yield event

    running.add_middleware(InvokeModelStage, look)
    with pytest.warns(DeprecationWarning, match="structured_output"):
        within(30, lambda: running.structured_output(Answer, "x"))
    assert calls == []


def hangs(running: Any) -> bool:
    """Whether a run does not end; it cannot be cancelled, only left behind."""
    try:
        within(_HANG_S, lambda: asyncio.run(running.run(task="go")))
    except AssertionError as error:
        return "hung" in str(error)
    return False


def test_autogen_hangs_when_a_workbench_raises() -> None:
    class Raising(StaticWorkbench):
        async def call_tool(self, *_args: Any, **_kwargs: Any) -> Any:
            raise RuntimeError("the server is down")

    ran = Ran()
    member = AssistantAgent(
        "fin",
        autogen_run.model([[READ], "the end"]),
        workbench=[Raising(autogen_run.tools(ran))],
        max_tool_iterations=5,
    )
    assert hangs(member)
    assert ran.calls == []


def test_autogen_hangs_when_a_workbench_names_its_parameters_otherwise() -> None:
    class Renamed(StaticWorkbench):
        async def call_tool(self, tool: str, *_args: Any) -> Any:  # type: ignore[override]
            return await super().call_tool(tool)

    ran = Ran()
    workbench = [Renamed(autogen_run.tools(ran))]
    assert hangs(autogen_run.agent("fin", [[READ], "the end"], ran, workbench=workbench))


def test_autogen_hands_over_whatever_the_tool_of_a_hand_off_says() -> None:
    ran = Ran()
    turn = [("transfer_to_ops", {})]
    one = autogen_run.agent("fin", [turn, "fin stays. the end"], ran, handoffs=["ops"])
    two = autogen_run.agent("ops", ["ops took over. the end"], ran)
    [tool] = one._handoff_tools

    async def refuse(*_args: Any, **_kwargs: Any) -> str:
        return "no policy permits it"

    tool.run_json = refuse  # type: ignore[method-assign]
    team = Swarm([one, two], termination_condition=autogen_run.end())
    assert autogen_run.go(team).startswith("ops took over")


def test_autogen_hangs_when_the_tool_of_a_hand_off_raises() -> None:
    one = autogen_run.agent("fin", [[("transfer_to_ops", {})], "x"], Ran(), handoffs=["ops"])
    two = autogen_run.agent("ops", ["ops took over. the end"], Ran())

    async def refuse(*_args: Any, **_kwargs: Any) -> str:
        raise PermissionError("no policy permits it")

    one._handoff_tools[0].run_json = refuse  # type: ignore[method-assign]
    assert hangs(Swarm([one, two], termination_condition=autogen_run.end()))


def test_autogen_hangs_when_a_message_is_dropped() -> None:
    class Drop(DefaultInterventionHandler):
        async def on_publish(self, message: Any, *, message_context: Any) -> Any:
            kind = type(message).__name__
            return DropMessage if kind == "GroupChatAgentResponse" else message

    class Team:
        async def run(self, task: str) -> Any:
            runtime = SingleThreadedAgentRuntime(intervention_handlers=[Drop()])
            runtime.start()
            members = [autogen_run.agent(name, ["x"], Ran()) for name in ("fin", "ops")]
            return await RoundRobinGroupChat(members, max_turns=2, runtime=runtime).run(task=task)

    assert hangs(Team())


def test_autogen_runs_a_function_without_the_context_of_its_call() -> None:
    variable, seen = contextvars.ContextVar("user", default=""), []

    class Look(Ran):
        """Notes for whom each tool ran."""

        def __call__(self, tool: str, argument: Any) -> None:
            seen.append((tool, variable.get()))

    member = autogen_run.agent("fin", [[READ, DELETE], "the end"], Look())
    variable.set("alice")
    autogen_run.go(member)
    assert sorted(seen) == [("delete_file", "alice"), ("read_file", "")]


def test_autogen_ids_of_calls_are_the_models_and_repeat() -> None:
    """So no decision may be remembered by one: two calls of one id are two calls."""
    ran = Ran()
    client = autogen_run.model([[READ, DELETE], "the end"])
    for call in client.chat_completions[0].content:
        call.id = "same"
    running = AssistantAgent("fin", client, tools=autogen_run.tools(ran), max_tool_iterations=5)
    autogen_run.go(running)
    assert sorted(ran.calls) == [("delete_file", "b"), ("read_file", "a")]
