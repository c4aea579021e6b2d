"""Runs a real Strands agent with a scripted model."""

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from mcp import StdioServerParameters, stdio_client
from strands import Agent, tool
from strands.models import Model
from strands.multiagent import GraphBuilder, Swarm
from strands.tools.mcp import MCPClient

from support import Outcome, Ran, mcp_server, text, within
from zta import Guard

MODES = ["sync", "async"]
HANDS_OVER = True


class ScriptedModel(Model):
    """Each turn is a text, or a list of (tool, arguments)."""

    def __init__(self, turns: list[Any]) -> None:
        self.turns = list(turns)
        self.seen: list[Any] = []
        self.offered: list[str] = []

    def update_config(self, **_config: Any) -> None:
        pass

    def get_config(self) -> Any:
        return {"model_id": "scripted"}

    async def structured_output(self, output_model, prompt, system_prompt=None, **kwargs):
        yield {"output": output_model()}

    async def stream(self, messages, tool_specs=None, system_prompt=None, **kwargs):
        self.seen.append(json.loads(json.dumps(messages, default=str)))
        self.offered += [spec["name"] for spec in tool_specs or []]
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
                delta = {"toolUse": {"input": text(arguments)}}
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


def run(guard: Guard, name: str, calls: list[Any], mode: str, ran: Ran | None = None) -> Outcome:
    ran = ran or Ran()
    running = agent(guard, name, [calls, "the end"], ran)
    final = go(running, mode)
    return Outcome(ran.calls, json.dumps(running.model.seen), final)


def call_another(guard: Guard, caller: str, callee: str, calls: list[Any]) -> Outcome:
    """An agent that calls another one as a tool."""
    ran = Ran()
    sub = agent(guard, callee, [calls, "sub end"], ran)
    main = agent(guard, caller, [[(callee, {"input": "do"})], "the end"], ran, tools=[sub])
    final = go(main)
    return Outcome(ran.calls, json.dumps([main.model.seen, sub.model.seen]), final)


def hand_over(guard: Guard, first: str, second: str, calls: list[Any]) -> Outcome:
    """A swarm in which the first agent hands control to the second, which calls tools."""
    ran = Ran()
    turn = [("handoff_to_agent", {"agent_name": second, "message": "go on"})]
    one = agent(guard, first, [turn, "the end"], ran)
    two = agent(guard, second, [calls, "the end"], ran)
    within(60, lambda: Swarm([one, two])("task"))
    return Outcome(ran.calls, json.dumps([one.model.seen, two.model.seen]), "the end")


def ask_model(guard: Guard, name: str) -> tuple[int, str]:
    """How often the model was called, and what came of the run."""
    running = agent(guard, name, ["the end"], Ran())
    final = go(running).strip()
    return len(running.model.seen), final


def pass_on(guard: Guard, sender: str, receiver: str) -> bool:
    """Whether what one agent says reaches the model of the other."""
    one = agent(guard, sender, ["the secret word"], Ran())
    two = agent(guard, receiver, ["the end"], Ran())
    builder = GraphBuilder()
    builder.add_node(one, sender)
    builder.add_node(two, receiver)
    builder.add_edge(sender, receiver)
    builder.set_plugins([guard.strands()])
    graph = builder.build()
    with contextlib.suppress(RuntimeError):
        within(60, lambda: graph("task"))
    assert len(one.model.seen) == 1
    return "the secret word" in json.dumps(two.model.seen)


def offered(guard: Guard, name: str) -> set[str]:
    """The tools that the model is offered where only permitted ones are."""
    running = agent(None, name, ["the end"], Ran(), plugins=[guard.strands(only_permitted=True)])
    go(running)
    return set(running.model.offered)


def received(guard: Guard, name: str, arguments: str, got: list[Any]) -> None:
    """Call `take` with arguments that a model wrote, as text."""

    @tool(inputSchema={"json": {"type": "object", "properties": {"value": {}}}})
    def take(value: Any) -> str:
        """Take anything."""
        got.append(value)
        return "taken"

    go(agent(guard, name, [[("take", arguments)], "the end"], Ran(), tools=[take]))


def through_mcp(guard: Guard, name: str, log: Path) -> None:
    """Call both tools of the MCP server that the tests bring, named `files`."""
    parameters = StdioServerParameters(
        command=sys.executable, args=[mcp_server.__file__], env={"MCP_LOG": str(log)}
    )
    client = MCPClient(lambda: stdio_client(parameters), prefix="fs")
    calls = [("fs_read_file", {"path": "a"}), ("fs_delete_file", {"path": "b"})]
    with client:
        plugin = guard.strands(mcp_servers={client: "files"})
        found = client.list_tools_sync()
        go(agent(None, name, [calls, "the end"], Ran(), tools=found, plugins=[plugin]))


def one(guard: Guard | None, name: str) -> Any:
    """An agent, under guard if there is one."""
    return agent(guard, name, ["the end"], Ran())
