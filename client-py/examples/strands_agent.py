"""A Strands agent under guard, offline: the model is scripted.

python strands_agent.py                       a table decides, in this process
python strands_agent.py path/to/credential    the server that enrolled the agent
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from strands import Agent, tool
from strands.models import Model

import zta
from zta.testing import FakeServer


@tool
def web_search(query: str) -> str:
    """Search the web."""
    print(f"  (web_search runs: {query})")
    return "two results"


@tool
def publish_report(title: str, body: str) -> str:
    """Publish a report."""
    print(f"  (publish_report runs: {title})")
    return f"published {len(body)} characters"


class ScriptedModel(Model):
    """Stands in for a real model: searches, tries to publish, says what it read."""

    def update_config(self, **_config: Any) -> None:
        """Nothing to configure."""

    def get_config(self) -> Any:
        """No configuration."""
        return {}

    def structured_output(self, *_args: Any, **_kwargs: Any) -> Any:
        """Not used here."""
        raise NotImplementedError

    async def stream(self, messages: Any, *_args: Any, **_kwargs: Any) -> AsyncIterator[Any]:
        """The next turn of the script."""
        turn = sum(message["role"] == "assistant" for message in messages)
        calls = [
            ("web_search", {"query": "agents"}),
            ("publish_report", {"title": "Scoop", "body": "unreviewed"}),
        ]
        yield {"messageStart": {"role": "assistant"}}
        if turn < len(calls):
            name, arguments = calls[turn]
            use = {"toolUseId": f"call-{turn}", "name": name}
            yield {"contentBlockStart": {"start": {"toolUse": use}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(arguments)}}}}
        else:
            result = messages[-1]["content"][0]["toolResult"]["content"][0]["text"]
            yield {"contentBlockStart": {"start": {}}}
            yield {"contentBlockDelta": {"delta": {"text": f"I was told: {result}"}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "tool_use" if turn < len(calls) else "end_turn"}}


def main(credential: str) -> None:
    """Run the agent once."""
    guard = zta.Guard({"research": credential})  # 1: whose identity each agent has
    agent = Agent(
        name="research",
        model=ScriptedModel(),
        tools=[web_search, publish_report],
        plugins=[guard.strands()],  # 2: every tool call is decided first
        callback_handler=None,
    )
    with guard.session(user="alice", session_id="s-1"):  # 3: who is asking
        print(agent("What is new?"))
    guard.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with FakeServer(allow={"research": ["web_search"]}) as server:
            main(str(server.credential("research")))
