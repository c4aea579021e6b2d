"""A Strands agent with a scripted model, which calls one denied tool and one that is allowed."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from strands import Agent, tool
from strands.models import Model

from zta._coverage import CANARY, CONTROL, DENIED

if TYPE_CHECKING:
    from zta._coverage import CanaryGuard


class _Script(Model):
    def __init__(self) -> None:
        self._turns = [DENIED, CONTROL]

    def update_config(self, **_config: Any) -> None:
        """Nothing to configure."""

    def get_config(self) -> Any:
        """Nothing is configured."""
        return {}

    def structured_output(self, *_args: Any, **_options: Any) -> Any:
        """Not asked for."""
        raise NotImplementedError

    async def stream(self, *_args: Any, **_options: Any) -> AsyncGenerator[Any, None]:
        """The next turn."""
        name = self._turns.pop(0) if self._turns else None
        yield {"messageStart": {"role": "assistant"}}
        if name is not None:
            yield {"contentBlockStart": {"start": {"toolUse": {"toolUseId": name, "name": name}}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps({})}}}}
        else:
            yield {"contentBlockStart": {"start": {}}}
            yield {"contentBlockDelta": {"delta": {"text": "the end"}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn" if name is None else "tool_use"}}


def run(guard: CanaryGuard, ran: Callable[[str], None]) -> None:
    """Run it; `ran` is told each tool that runs."""

    @tool(name=DENIED)
    def denied() -> str:
        """Must not run."""
        ran(DENIED)
        return "ran"

    @tool(name=CONTROL)
    def control() -> str:
        """Must run."""
        ran(CONTROL)
        return "ran"

    agent = Agent(
        name=CANARY,
        model=_Script(),
        tools=[denied, control],
        plugins=[guard.strands()],
        callback_handler=None,
    )
    agent("begin")
