"""A CrewAI agent with a scripted model, which calls one denied tool and one that is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crewai import Agent, BaseLLM
from crewai.tools import tool

from zta._coverage import CANARY, CONTROL, DENIED
from zta.integrations import crewai as adapter

if TYPE_CHECKING:
    from zta._coverage import CanaryGuard


class _Script(BaseLLM):
    turns: int = 0

    def supports_function_calling(self) -> bool:
        """Tools are called natively."""
        return True

    def call(self, *_args: Any, **_options: Any) -> Any:
        """The next turn."""
        self.turns += 1
        if self.turns > 2:  # noqa: PLR2004 - two tools
            return "the end"
        name = (DENIED, CONTROL)[self.turns - 1]
        function = {"name": name, "arguments": "{}"}
        return [{"id": name, "type": "function", "function": function}]

    async def acall(self, *args: Any, **options: Any) -> Any:
        """The next turn."""
        return self.call(*args, **options)


def run(guard: CanaryGuard, ran: Callable[[str], None]) -> None:
    """Run it; `ran` is told each tool that runs. Hooks are process-wide: others' stay."""

    @tool(DENIED)
    def denied() -> str:
        """Must not run."""
        ran(DENIED)
        return "ran"

    @tool(CONTROL)
    def control() -> str:
        """Must run."""
        ran(CONTROL)
        return "ran"

    agent = Agent(
        role=CANARY,
        goal="show that a denied tool does not run",
        backstory="one of its kind",
        llm=_Script(model="scripted"),
        tools=[denied, control],
        verbose=False,
    )
    guarded_before = adapter.is_installed()
    guard.crewai(agent)
    try:
        agent.kickoff("begin")
    finally:
        adapter.uninstall(guard)
        if not guarded_before:
            adapter.remove_hooks()
