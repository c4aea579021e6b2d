"""A CrewAI crew under guard, offline: the model is scripted.

python crewai_agent.py                       a table decides, in this process
python crewai_agent.py path/to/credential    the server that enrolled the agent
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true", CREWAI_TRACING_ENABLED="false", OTEL_SDK_DISABLED="true"
)

from crewai import Agent, BaseLLM, Crew, Task
from crewai.tools import tool

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


class ScriptedLLM(BaseLLM):
    """Stands in for a real model: searches, tries to publish, says what it read."""

    turn: int = 0

    def supports_function_calling(self) -> bool:
        """Tools are called natively."""
        return True

    def call(self, messages: Any, *_args: Any, **_kwargs: Any) -> Any:
        """The next turn of the script."""
        calls = [
            ("web_search", {"query": "agents"}),
            ("publish_report", {"title": "Scoop", "body": "unreviewed"}),
        ]
        self.turn += 1
        if self.turn > len(calls):
            told = [message["content"] for message in messages if message["role"] == "tool"]
            return f"I was told: {told[-1]}"
        name, arguments = calls[self.turn - 1]
        function = {"name": name, "arguments": json.dumps(arguments)}
        return [{"id": f"call-{self.turn}", "type": "function", "function": function}]


def main(credential: str) -> None:
    """Run the crew once."""
    agent = Agent(
        role="research",
        goal="find out",
        backstory="curious",
        llm=ScriptedLLM(model="scripted"),
        tools=[web_search, publish_report],
    )
    task = Task(description="What is new?", expected_output="an answer", agent=agent)
    crew = Crew(agents=[agent], tasks=[task])

    guard = zta.Guard({"research": credential})  # 1: whose identity each agent has
    guard.crewai(crew)  # 2: every tool call is decided first
    with guard.session(user="alice", session_id="s-1"):  # 3: who is asking
        print(crew.kickoff())
    guard.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with FakeServer(allow={"research": ["web_search"]}) as server:
            main(str(server.credential("research")))
