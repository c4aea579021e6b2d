"""Runs a real AutoGen agent with a scripted model."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination, TextMentionTermination
from autogen_agentchat.teams import RoundRobinGroupChat, Swarm
from autogen_agentchat.tools import AgentTool
from autogen_core import FunctionCall
from autogen_core.models import CreateResult, ModelFamily, RequestUsage
from autogen_core.tools import FunctionTool
from autogen_ext.models.replay import ReplayChatCompletionClient
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams

from support import Outcome, Ran, mcp_server, text, within
from zta import Guard

HANDS_OVER = True
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
                arguments=text(arguments),
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


def run(guard: Guard, name: str, calls: list[Any], mode: str, ran: Ran | None = None) -> Outcome:
    ran = ran or Ran()
    member = agent(name, [calls, "the end"], ran)
    running: Any = member
    if mode == "team":
        running = RoundRobinGroupChat([member], termination_condition=end())
    guard.autogen(running)
    return Outcome(ran.calls, final=go(running), seen=seen(member))


def call_another(guard: Guard, caller: str, callee: str, calls: list[Any]) -> Outcome:
    """An agent that calls another one as a tool."""
    ran = Ran()
    sub = agent(callee, [calls, "sub end"], ran)
    turns = [[(callee, {"task": "do"})], "the end"]
    main = guard.autogen(agent(caller, turns, ran, tools=[AgentTool(sub)]))
    return Outcome(ran.calls, final=go(main), seen=seen(main) + seen(sub))


def hand_over(guard: Guard, first: str, second: str, calls: list[Any]) -> Outcome:
    """A swarm in which the first agent hands control to the second, which calls tools."""
    ran = Ran()
    one = agent(first, [[(f"transfer_to_{second}", {})], "the end"], ran, handoffs=[second])
    two = agent(second, [calls, "the end"], ran)
    team = guard.autogen(Swarm([one, two], termination_condition=end()))
    return Outcome(ran.calls, final=go(team), seen=seen(one) + seen(two))


def ask_model(guard: Guard, name: str) -> tuple[int, str]:
    """How often the model was called, and what came of the run."""
    running = guard.autogen(agent(name, ["the end"], Ran()))
    final = go(running)
    return len(running._model_client.create_calls), final


def pass_on(guard: Guard, sender: str, receiver: str) -> bool:
    """Whether what one agent says reaches the model of the other."""
    one, two = agent(sender, ["the secret word"], Ran()), agent(receiver, ["the end"], Ran())
    go(guard.autogen(RoundRobinGroupChat([one, two], max_turns=2)))
    return "the secret word" in seen(two)


def offered(guard: Guard, name: str) -> set[str]:
    """The tools that the model is offered where only permitted ones are."""
    client = model(["the end"])
    told: list[Any] = []
    create = client.create

    async def listening(*args: Any, tools: Any = (), **options: Any) -> Any:
        told.extend(tools)
        return await create(*args, tools=tools, **options)

    client.create = listening  # type: ignore[method-assign]
    running = AssistantAgent(name, client, tools=tools(Ran()))
    go(guard.autogen(running, only_permitted=True))
    return {spec["name"] if isinstance(spec, dict) else spec.name for spec in told}


def received(guard: Guard, name: str, arguments: str, got: list[Any]) -> None:
    """Call `take` with arguments that a model wrote, as text."""

    def take(value: Any) -> str:
        got.append(value)
        return "taken"

    taking = [FunctionTool(take, description="d")]
    go(guard.autogen(agent(name, [[("take", arguments)], "the end"], Ran(), tools=taking)))


def through_mcp(guard: Guard, name: str, log: Path) -> None:
    """Call both tools of the MCP server that the tests bring, named `files`."""
    parameters = StdioServerParams(
        command=sys.executable, args=[mcp_server.__file__], env={"MCP_LOG": str(log)}
    )
    calls = [("read_file", {"path": "a"}), ("delete_file", {"path": "b"})]

    async def running() -> None:
        async with McpWorkbench(parameters) as workbench:
            member = agent(name, [calls, "the end"], Ran(), workbench=[workbench])
            guard.autogen(member, mcp_servers={workbench: "files"})
            await member.run(task="go")

    within(60, lambda: asyncio.run(running()))


def one(guard: Guard | None, name: str) -> Any:
    """An agent, under guard if there is one."""
    running = agent(name, ["the end"], Ran())
    return running if guard is None else guard.autogen(running)
