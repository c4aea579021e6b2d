"""Runs a real CrewAI crew with a scripted model."""

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from crewai import Agent, BaseLLM, Crew, Task
from crewai.hooks import HookAborted
from crewai.mcp import MCPServerStdio
from crewai.tools import tool

from support import Outcome, Ran, mcp_server, text, within
from zta import Guard

HANDS_OVER = False
MODES = ["kickoff", "akickoff", "kickoff_async", "react", "react_async"]


class ScriptedLLM(BaseLLM):
    """Each turn is a text, or a list of (tool, arguments)."""

    native: bool = True
    turns: list = []
    seen: list = []
    offered: list = []

    def __init__(self, turns: list[Any], native: bool = True) -> None:
        super().__init__(model="scripted")
        self.turns, self.native, self.seen, self.offered = list(turns), native, [], []

    def supports_function_calling(self) -> bool:
        return self.native

    def call(self, messages, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(json.loads(json.dumps(messages, default=str)))
        specs = kwargs.get("tools") or (args[0] if args else None) or []
        self.offered += [spec["function"]["name"] for spec in specs]
        turn = self.turns.pop(0)
        if turn is None:  # every tool that is offered: the names of MCP's hold a hash
            turn = [(spec["function"]["name"], {"path": "a"}) for spec in specs]
        if isinstance(turn, str):
            return turn if self.native else f"Thought: I know\nFinal Answer: {turn}"
        if self.native:
            return [
                {
                    "id": f"c{len(self.seen)}_{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": text(arguments)},
                }
                for number, (name, arguments) in enumerate(turn)
            ]
        name, arguments = turn[0]
        return f"Thought: need it\nAction: {name}\nAction Input: {json.dumps(arguments)}"

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)


def tools(ran: Ran) -> list[Any]:
    @tool
    def read_file(path: str) -> str:
        """Read."""
        ran("read_file", path)
        return f"contents of {path}"

    @tool
    def delete_file(path: str) -> str:
        """Delete."""
        ran("delete_file", path)
        return "deleted"

    return [read_file, delete_file]


def agent(role: str, llm: ScriptedLLM, with_tools: list[Any], **options: Any) -> Agent:
    return Agent(
        role=role,
        goal="g",
        backstory="b",
        llm=llm,
        tools=with_tools,
        verbose=False,
        max_retry_limit=0,
        **options,
    )


def crew(*agents: Agent, **options: Any) -> Crew:
    tasks = [Task(description="do", expected_output="x", agent=member) for member in agents]
    return Crew(agents=list(agents), tasks=tasks, verbose=False, **options)


def turns(calls: list[Any], native: bool) -> list[Any]:
    """ReAct has one call a turn."""
    return [calls, "the end"] if native else [*([call] for call in calls), "the end"]


def go(running: Crew, mode: str = "kickoff") -> str:
    ways = {
        "kickoff": running.kickoff,
        "react": running.kickoff,
        "akickoff": lambda: asyncio.run(running.akickoff()),
        "react_async": lambda: asyncio.run(running.akickoff()),
        "kickoff_async": lambda: asyncio.run(running.kickoff_async()),
    }
    return str(within(90, ways[mode]))


def run(guard: Guard, name: str, calls: list[Any], mode: str, ran: Ran | None = None) -> Outcome:
    ran, native = ran or Ran(), not mode.startswith("react")
    llm = ScriptedLLM(turns(calls, native), native)
    running = crew(agent(name, llm, tools(ran)))
    guard.crewai(running)
    final = go(running, mode)
    return Outcome(ran.calls, json.dumps(llm.seen), final)


def call_another(guard: Guard, caller: str, callee: str, calls: list[Any]) -> Outcome:
    """An agent that delegates work to a coworker."""
    ran = Ran()
    work = {"task": "t", "context": "c", "coworker": callee}
    boss_llm = ScriptedLLM([[("delegate_work_to_coworker", work)], "the end"])
    worker_llm = ScriptedLLM([calls, "sub end"])
    boss = agent(caller, boss_llm, [], allow_delegation=True)
    worker = agent(callee, worker_llm, tools(ran))
    task = Task(description="x", expected_output="x", agent=boss)
    running = Crew(agents=[boss, worker], tasks=[task], verbose=False)
    guard.crewai(running)
    final = go(running)
    return Outcome(ran.calls, json.dumps([boss_llm.seen, worker_llm.seen]), final)


def ask_model(guard: Guard, name: str) -> tuple[int, str]:
    """How often the model was called, and what came of the run: a refusal ends it."""
    llm = ScriptedLLM(["the end"])
    running = crew(agent(name, llm, []))
    guard.crewai(running)
    try:
        final = go(running)
    except HookAborted as error:
        final = error.reason
    return len(llm.seen), final


def pass_on(guard: Guard, sender: str, receiver: str) -> bool:
    """Whether what one agent says reaches the model of the other."""
    llms = [ScriptedLLM(["the secret word"]), ScriptedLLM(["the end"])]
    running = crew(agent(sender, llms[0], []), agent(receiver, llms[1], []))
    guard.crewai(running)
    with contextlib.suppress(HookAborted):
        go(running)
    assert len(llms[0].seen) == 1
    return "the secret word" in json.dumps(llms[1].seen)


def offered(guard: Guard, name: str) -> set[str]:
    """The tools that the model is offered where only permitted ones are."""
    llm = ScriptedLLM(["the end"])
    running = crew(agent(name, llm, tools(Ran())))
    guard.crewai(running, only_permitted=True)
    go(running)
    return set(llm.offered)


def received(guard: Guard, name: str, arguments: str, got: list[Any]) -> None:
    """Call `take` with arguments that a model wrote, as text."""

    @tool
    def take(value: Any) -> str:
        """Take anything."""
        got.append(value)
        return "taken"

    running = crew(agent(name, ScriptedLLM([[("take", arguments)], "the end"]), [take]))
    guard.crewai(running)
    go(running)


def through_mcp(guard: Guard, name: str, log: Path) -> None:
    """Call both tools of the MCP server that the tests bring, named `files`."""
    configuration = MCPServerStdio(
        command=sys.executable, args=[mcp_server.__file__], env={"MCP_LOG": str(log)}
    )
    llm = ScriptedLLM([None, "the end"])
    running = crew(agent(name, llm, [], mcps=[configuration]))
    guard.crewai(running, mcp_servers=Files())
    go(running)


class Files(dict):
    """Calls every server `files`: CrewAI's own names hold paths of this machine."""

    def __bool__(self) -> bool:
        return True

    def get(self, _server: Any, _default: Any = None) -> str:
        return "files"


def one(guard: Guard | None, name: str) -> Any:
    """An agent, under guard if there is one."""
    running = agent(name, ScriptedLLM(["the end"]), [])
    if guard is not None:
        guard.crewai(running)
    return running
