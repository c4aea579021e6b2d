"""Runs a real Strands agent with a scripted model."""

import asyncio
import json
from typing import Any

from strands import Agent, tool
from strands.models import Model

from support import Outcome, Ran, within
from zta import Guard

MODES = ["sync", "async"]


class ScriptedModel(Model):
    """Each turn is a text, or a list of (tool, arguments)."""

    def __init__(self, turns: list[Any]) -> None:
        self.turns = list(turns)
        self.seen: list[Any] = []

    def update_config(self, **_config: Any) -> None:
        pass

    def get_config(self) -> Any:
        return {"model_id": "scripted"}

    async def structured_output(self, output_model, prompt, system_prompt=None, **kwargs):
        yield {"output": output_model()}

    async def stream(self, messages, tool_specs=None, system_prompt=None, **kwargs):
        self.seen.append(json.loads(json.dumps(messages, default=str)))
        turn = self.turns.pop(0)
        yield {"messageStart": {"role": "assistant"}}
        if isinstance(turn, str):
            yield {"contentBlockStart": {"start": {}}}
            yield {"contentBlockDelta": {"delta": {"text": turn}}}
            yield {"contentBlockStop": {}}
        else:
            for number, (name, arguments) in enumerate(turn):
                use = {"toolUseId": f"t{len(self.seen)}_{number}", "name": name}
                yield {"contentBlockStart": {"start": {"toolUse": use}}}
                delta = {"toolUse": {"input": json.dumps(arguments)}}
                yield {"contentBlockDelta": {"delta": delta}}
                yield {"contentBlockStop": {}}
        stop = "end_turn" if isinstance(turn, str) else "tool_use"
        yield {"messageStop": {"stopReason": stop}}
        usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
        yield {"metadata": {"usage": usage, "metrics": {"latencyMs": 1}}}


def tools(ran: Ran) -> list[Any]:
    @tool
    def read_file(path: str) -> str:
        """Read."""
        ran("read_file", path)
        return f"contents of {path}"

    @tool
    async def delete_file(path: str) -> str:
        """Delete."""
        ran("delete_file", path)
        return "deleted"

    return [read_file, delete_file]


def agent(guard: Guard | None, name: str, turns: list[Any], ran: Ran, **options: Any) -> Agent:
    plugins = [guard.strands()] if guard else []
    return Agent(
        model=ScriptedModel(turns),
        tools=options.pop("tools", None) or tools(ran),
        name=name,
        plugins=[*plugins, *options.pop("plugins", [])],
        callback_handler=None,
        **options,
    )


def go(running: Agent, mode: str = "sync") -> str:
    if mode == "sync":
        return str(within(60, lambda: running("go")))
    return str(within(60, lambda: asyncio.run(running.invoke_async("go"))))


def run(guard: Guard, name: str, calls: list[Any], mode: str) -> Outcome:
    ran = Ran()
    running = agent(guard, name, [calls, "the end"], ran)
    final = go(running, mode)
    return Outcome(ran.calls, json.dumps(running.model.seen), final)
