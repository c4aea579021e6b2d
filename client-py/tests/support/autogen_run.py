"""Runs a real AutoGen agent with a scripted model."""

import asyncio
import json
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination, TextMentionTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import FunctionCall
from autogen_core.models import CreateResult, ModelFamily, RequestUsage
from autogen_core.tools import FunctionTool
from autogen_ext.models.replay import ReplayChatCompletionClient

from support import Outcome, Ran, within
from zta import Guard

MODES = ["agent", "team"]
_INFO = {
    "function_calling": True,
    "vision": False,
    "json_output": False,
    "family": ModelFamily.UNKNOWN,
    "structured_output": False,
}


def model(turns: list[Any]) -> ReplayChatCompletionClient:
    """Each turn is a text, or a list of (tool, arguments)."""
    replies = []
    for turn_number, turn in enumerate(turns):
        if isinstance(turn, str):
            replies.append(turn)
            continue
        calls = [
            FunctionCall(
                id=f"c{turn_number}_{number}",
                name=name,
                arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
            )
            for number, (name, arguments) in enumerate(turn)
        ]
        usage = RequestUsage(0, 0)
        reply = CreateResult(
            finish_reason="function_calls", usage=usage, cached=False, content=calls
        )
        replies.append(reply)
    return ReplayChatCompletionClient(replies, model_info=_INFO)


def tools(ran: Ran) -> list[Any]:
    def read_file(path: str) -> str:
        ran("read_file", path)
        return f"contents of {path}"

    async def delete_file(path: str) -> str:
        ran("delete_file", path)
        return "deleted"

    return [FunctionTool(f, description="d") for f in (read_file, delete_file)]


def agent(name: str, turns: list[Any], ran: Ran, **options: Any) -> AssistantAgent:
    if "workbench" not in options:
        options.setdefault("tools", tools(ran))
    return AssistantAgent(name, model(turns), max_tool_iterations=5, **options)


def end() -> Any:
    return TextMentionTermination("the end") | MaxMessageTermination(12)


def go(running: Any) -> str:
    result = within(60, lambda: asyncio.run(running.run(task="go")))
    return str(result.messages[-1].content)


def seen(running: AssistantAgent) -> str:
    return str([call["messages"] for call in running._model_client.create_calls])


def run(guard: Guard, name: str, calls: list[Any], mode: str) -> Outcome:
    ran = Ran()
    member = agent(name, [calls, "the end"], ran)
    running: Any = member
    if mode == "team":
        running = RoundRobinGroupChat([member], termination_condition=end())
    guard.autogen(running)
    return Outcome(ran.calls, final=go(running), seen=seen(member))
