"""The crew in each framework: real agents, scripted models, no network.

Each `run_…` takes a guard and returns everything that the agents' models were shown.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from crew import SCRIPT, Tools, final_text

from zta import Guard

os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_TRACING_ENABLED="false",
    CREWAI_DISABLE_VERSION_CHECK="true",
    CREWAI_TESTING="true",
    OTEL_SDK_DISABLED="true",
)


def run_strands(guard: Guard, tools: Tools) -> str:
    """Three Strands agents."""
    from strands import Agent, tool
    from strands.models import Model

    class ScriptedModel(Model):
        def __init__(self, agent: str) -> None:
            self.agent, self.turn = agent, 0
            self.seen: Any = []

        def update_config(self, **_config: Any) -> None:
            """Nothing to configure."""

        def get_config(self) -> Any:
            return {"model_id": "scripted"}

        def structured_output(self, *_args: Any, **_kwargs: Any) -> Any:
            raise NotImplementedError

        async def stream(self, messages: Any, *_args: Any, **_kwargs: Any) -> AsyncIterator[Any]:
            self.seen = messages
            steps = SCRIPT[self.agent]
            yield {"messageStart": {"role": "assistant"}}
            if self.turn < len(steps):
                step = steps[self.turn]
                use = {"toolUseId": f"call-{self.turn}", "name": step.tool}
                yield {"contentBlockStart": {"start": {"toolUse": use}}}
                delta = {"toolUse": {"input": json.dumps(step.arguments)}}
                yield {"contentBlockDelta": {"delta": delta}}
            else:
                yield {"contentBlockStart": {"start": {}}}
                yield {"contentBlockDelta": {"delta": {"text": final_text(self.agent)}}}
            yield {"contentBlockStop": {}}
            reason = "tool_use" if self.turn < len(steps) else "end_turn"
            self.turn += 1
            yield {"messageStop": {"stopReason": reason}}

    seen = []
    for name in SCRIPT:
        agent = Agent(
            name=name,
            model=ScriptedModel(name),
            tools=[tool(function) for function in tools.functions(name)],
            plugins=[guard.strands()],
            callback_handler=None,
        )
        agent("begin")
        seen.append(json.dumps(agent.messages))
    return "\n".join(seen)


def run_crewai(guard: Guard, tools: Tools) -> str:
    """A CrewAI crew of three agents with a task each."""
    from crewai import Agent, BaseLLM, Crew, Task
    from crewai.tools import tool

    class ScriptedLLM(BaseLLM):
        agent: str = ""
        turn: int = 0
        seen: Any = None

        def supports_function_calling(self) -> bool:
            return True

        def call(self, messages: Any, *_args: Any, **_kwargs: Any) -> Any:
            self.seen = messages
            steps = SCRIPT[self.agent]
            self.turn += 1
            if self.turn > len(steps):
                return final_text(self.agent)
            step = steps[self.turn - 1]
            function = {"name": step.tool, "arguments": json.dumps(step.arguments)}
            return [{"id": f"call-{self.turn}", "type": "function", "function": function}]

    models = {name: ScriptedLLM(model="scripted", agent=name) for name in SCRIPT}
    agents = [
        Agent(
            role=name,
            goal=name,
            backstory="one of three",
            llm=models[name],
            tools=[tool(function) for function in tools.functions(name)],
        )
        for name in SCRIPT
    ]
    tasks = [Task(description="work", expected_output="work", agent=agent) for agent in agents]
    crew = Crew(agents=list(agents), tasks=tasks, verbose=False)
    guard.crewai(crew)
    crew.kickoff()
    return "\n".join(json.dumps(model.seen, default=str) for model in models.values())


def run_autogen(guard: Guard, tools: Tools) -> str:
    """An AutoGen team of three agents that take turns."""
    from autogen_agentchat.agents import AssistantAgent
    from autogen_agentchat.teams import RoundRobinGroupChat
    from autogen_core import FunctionCall
    from autogen_core.models import CreateResult, ModelFamily, RequestUsage
    from autogen_core.tools import FunctionTool
    from autogen_ext.models.replay import ReplayChatCompletionClient

    def model(agent: str) -> ReplayChatCompletionClient:
        turns: list[Any] = [
            CreateResult(
                finish_reason="function_calls",
                content=[FunctionCall(f"call-{n}", json.dumps(step.arguments), step.tool)],
                usage=RequestUsage(0, 0),
                cached=False,
            )
            for n, step in enumerate(SCRIPT[agent])
        ]
        return ReplayChatCompletionClient(
            [*turns, final_text(agent)],
            model_info={
                "function_calling": True,
                "vision": False,
                "json_output": False,
                "structured_output": False,
                "family": ModelFamily.UNKNOWN,
            },
        )

    models = {name: model(name) for name in SCRIPT}
    agents = [
        AssistantAgent(
            name,
            models[name],
            tools=[
                FunctionTool(function, description=function.__doc__ or "")
                for function in tools.functions(name)
            ],
            max_tool_iterations=len(SCRIPT[name]) + 1,
        )
        for name in SCRIPT
    ]
    team = RoundRobinGroupChat(list(agents), max_turns=len(agents))
    guard.autogen(team)
    asyncio.run(team.run(task="begin"))
    return "\n".join(str(client.create_calls) for client in models.values())


RUNS: dict[str, Callable[[Guard, Tools], str]] = {
    "Strands": run_strands,
    "CrewAI": run_crewai,
    "AutoGen": run_autogen,
}
