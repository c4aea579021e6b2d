"""An AutoGen agent under guard, offline: the model is scripted.

python autogen_agent.py                       a table decides, in this process
python autogen_agent.py path/to/credential    the server that enrolled the agent
"""

from __future__ import annotations

import asyncio
import json
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_core import FunctionCall
from autogen_core.models import CreateResult, ModelFamily, RequestUsage
from autogen_ext.models.replay import ReplayChatCompletionClient

import zta
from zta.testing import FakeServer


def web_search(query: str) -> str:
    """Search the web."""
    print(f"  (web_search runs: {query})")
    return "two results"


def publish_report(title: str, body: str) -> str:
    """Publish a report."""
    print(f"  (publish_report runs: {title})")
    return f"published {len(body)} characters"


def scripted_model() -> ReplayChatCompletionClient:
    """Stands in for a real model: searches, then tries to publish."""
    calls = [
        ("web_search", {"query": "agents"}),
        ("publish_report", {"title": "Scoop", "body": "unreviewed"}),
    ]
    turns = [
        CreateResult(
            finish_reason="function_calls",
            content=[FunctionCall(f"call-{number}", json.dumps(arguments), name)],
            usage=RequestUsage(0, 0),
            cached=False,
        )
        for number, (name, arguments) in enumerate(calls)
    ]
    return ReplayChatCompletionClient(
        [*turns, "that is all"],
        model_info={
            "function_calling": True,
            "vision": False,
            "json_output": False,
            "structured_output": False,
            "family": ModelFamily.UNKNOWN,
        },
    )


async def main(credential: str) -> None:
    """Run the agent once."""
    agent = AssistantAgent(
        "research", scripted_model(), tools=[web_search, publish_report], max_tool_iterations=5
    )
    guard = zta.Guard({"research": credential})  # 1: whose identity each agent has
    guard.autogen(agent)  # 2: every tool call is decided first
    with guard.session(user="alice", session_id="s-1"):  # 3: who is asking
        result = await agent.run(task="What is new?")
    for message in result.messages:
        print(f"{message.source}: {message.to_text()}")
    guard.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(sys.argv[1]))
    else:
        with FakeServer(allow={"research": ["web_search"]}) as server:
            asyncio.run(main(str(server.credential("research"))))
