"""An AutoGen agent with a scripted model, which calls one denied tool and one that is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from autogen_agentchat.agents import AssistantAgent
from autogen_core import FunctionCall
from autogen_core.models import ChatCompletionClient, CreateResult, ModelFamily, RequestUsage
from autogen_core.tools import FunctionTool

from zta._coverage import CANARY, CONTROL, DENIED

if TYPE_CHECKING:
    from zta._coverage import CanaryGuard

_USAGE = RequestUsage(prompt_tokens=0, completion_tokens=0)


class _Script(ChatCompletionClient):
    component_type = "model"

    def __init__(self) -> None:
        self._turns = [DENIED, CONTROL]

    async def create(self, *_args: Any, **_options: Any) -> CreateResult:
        """The next turn."""
        content: Any = "the end"
        if self._turns:
            name = self._turns.pop(0)
            content = [FunctionCall(id=name, name=name, arguments="{}")]
        reason: Any = "stop" if content == "the end" else "function_calls"
        return CreateResult(finish_reason=reason, content=content, usage=_USAGE, cached=False)

    async def create_stream(self, *_args: Any, **_options: Any) -> AsyncGenerator[Any, None]:
        """The next turn, whole."""
        yield await self.create()

    async def close(self) -> None:
        """Nothing is open."""

    def actual_usage(self) -> RequestUsage:
        """None."""
        return _USAGE

    def total_usage(self) -> RequestUsage:
        """None."""
        return _USAGE

    def count_tokens(self, *_args: Any, **_options: Any) -> int:
        """None."""
        return 0

    def remaining_tokens(self, *_args: Any, **_options: Any) -> int:
        """Enough."""
        return 1_000_000

    @property
    def capabilities(self) -> Any:
        """Calls functions."""
        return self.model_info

    @property
    def model_info(self) -> Any:
        """Calls functions."""
        return {
            "function_calling": True,
            "vision": False,
            "json_output": False,
            "structured_output": False,
            "family": ModelFamily.UNKNOWN,
        }


def run(guard: CanaryGuard, ran: Callable[[str], None]) -> None:
    """Run it; `ran` is told each tool that runs."""

    def denied() -> str:
        ran(DENIED)
        return "ran"

    def control() -> str:
        ran(CONTROL)
        return "ran"

    tools = [
        FunctionTool(denied, description="Must not run.", name=DENIED),
        FunctionTool(control, description="Must run.", name=CONTROL),
    ]
    agent = AssistantAgent(CANARY, _Script(), tools=list(tools), max_tool_iterations=5)
    asyncio.run(guard.autogen(agent).run(task="begin"))
