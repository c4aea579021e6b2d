"""Runs a real CrewAI crew with a scripted model."""

import asyncio
import json
from typing import Any

from crewai import Agent, BaseLLM, Crew, Task
from crewai.tools import tool

from support import Outcome, Ran, within
from zta import Guard

MODES = ["kickoff", "akickoff", "kickoff_async", "react", "react_async"]


class ScriptedLLM(BaseLLM):
    """Each turn is a text, or a list of (tool, arguments)."""

    native: bool = True
    turns: list = []
    seen: list = []

    def __init__(self, turns: list[Any], native: bool = True) -> None:
        super().__init__(model="scripted")
        self.turns, self.native, self.seen = list(turns), native, []

    def supports_function_calling(self) -> bool:
        return self.native

    def call(self, messages, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(json.loads(json.dumps(messages, default=str)))
        turn = self.turns.pop(0)
        if isinstance(turn, str):
            return turn if self.native else f"Thought: I know\nFinal Answer: {turn}"
        if self.native:
            return [
                {
                    "id": f"c{len(self.seen)}_{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(arguments)},
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


def run(guard: Guard, name: str, calls: list[Any], mode: str) -> Outcome:
    ran, native = Ran(), not mode.startswith("react")
    llm = ScriptedLLM(turns(calls, native), native)
    running = crew(agent(name, llm, tools(ran)))
    guard.crewai(running)
    final = go(running, mode)
    return Outcome(ran.calls, json.dumps(llm.seen), final)
