"""Strands' objects as what a guard asks about."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from strands import Agent
from strands.agent._agent_as_tool import _AgentAsTool
from strands.middleware import ExecuteToolStage
from strands.multiagent.graph import Graph
from strands.multiagent.swarm import Swarm
from strands.tools.mcp import MCPAgentTool
from strands.tools.structured_output.structured_output_tool import StructuredOutputTool

from zta._calls import Call, CodeExecution, Delegation, ModelCall, ToolCall

_TERMINALS = {
    "strands.tools.executors._executor": "_make_execute_tool_terminal.<locals>.terminal",
    "strands.event_loop.event_loop": "_make_invoke_model_terminal.<locals>.terminal",
}
_HAND_OFF = f"{Swarm._create_handoff_tool.__qualname__}.<locals>.handoff_to_agent"


def is_pseudo_tool(tool: Any) -> bool:
    """Strands returns structured output by a tool of its own class, which has no effect outside."""
    return isinstance(tool, StructuredOutputTool)


def is_hand_off(tool: Any) -> bool:
    """Whether this is a swarm's own tool, told apart by its function and not by its name."""
    function = getattr(tool, "_tool_func", None)
    place = (getattr(function, "__module__", None), getattr(function, "__qualname__", None))
    return place == (Swarm.__module__, _HAND_OFF)


def describe(
    tool: Any,
    tool_use: Any,
    mcp_servers: Mapping[Any, str],
    code_tools: Collection[str] = (),
) -> Call:
    """The call as the guard asks about it, under the tool's original name."""
    name, origin = resource(tool, mcp_servers)
    told = {"framework": "strands", "visible_name": str(tool_use["name"]), "origin": origin}
    if isinstance(tool, _AgentAsTool):
        return Delegation(str(tool.agent.name), **told)
    if is_hand_off(tool):
        return Delegation(str(tool_use["input"].get("agent_name", "")), **told)
    kind = CodeExecution if name in code_tools else ToolCall
    return kind(name, tool_use["input"], **told)


def resource(tool: Any, mcp_servers: Mapping[Any, str]) -> tuple[str, str]:
    """The id that a tool is asked for under, and where the tool comes from."""
    if isinstance(tool, MCPAgentTool):
        prefix = getattr(tool.mcp_client, "_prefix", None)
        server = mcp_servers.get(tool.mcp_client) or prefix or "mcp"
        return f"{server}/{tool.mcp_tool.name}", f"mcp:{server}"
    function = getattr(tool, "_tool_func", None)
    if function is not None:
        origin = f"function:{function.__module__}:{function.__qualname__}"
    else:
        origin = f"{tool.tool_type}:{type(tool).__module__}:{type(tool).__qualname__}"
    return str(tool.tool_name), origin


def unnamed_clients(agent: Any, mcp_servers: Mapping[Any, str]) -> list[int]:
    """The MCP clients of an agent that neither a name nor a prefix tells apart, by id."""
    clients = (getattr(tool, "mcp_client", None) for tool in agent.tool_registry.registry.values())
    return [
        id(client)
        for client in clients
        if client is not None and not (mcp_servers.get(client) or getattr(client, "_prefix", None))
    ]


def describe_model(model: Any) -> ModelCall:
    """The call of a model, under the id of its configuration or the name of its class."""
    config = model.get_config()
    known = config.get("model_id") if isinstance(config, Mapping) else None
    known = known or getattr(config, "model_id", None)
    kind = type(model)
    origin = f"class:{kind.__module__}:{kind.__qualname__}"
    return ModelCall(str(known or kind.__name__), framework="strands", origin=origin)


def wraps(agent: Any, stage: Any = ExecuteToolStage) -> list[Any]:
    """The wraps of a stage, the outermost first."""
    handlers: list[Any] = agent._middleware_registry._handlers.get(stage, [])
    return [entry for entry in handlers if entry.phase == "wrap"]


def is_terminal(next_fn: Any) -> bool:
    """Whether what a wrap calls next is the tool or the model itself.

    A chain is put together when its call begins: the order of the wraps may have changed since.
    """
    following = inspect.getclosurevars(next_fn).nonlocals["nf"]
    return bool(_TERMINALS.get(following.__module__) == following.__qualname__)


def is_innermost(agent: Any, stage: Any, wrap: Any) -> bool:
    """Whether nothing stands between a wrap and what it wraps."""
    return bool(wraps(agent, stage)[-1].handler == wrap)


def make_innermost(agent: Any, stage: Any, wrap: Any) -> None:
    """Move a wrap to the end, for the next call."""
    agent._middleware_registry._handlers[stage].sort(key=lambda entry: entry.handler == wrap)


def speakers(target: Any) -> list[Any]:
    """The agents whose words a node passes on, or who are told what a node is told."""
    if isinstance(target, (Swarm, Graph)):
        return [agent for node in target.nodes.values() for agent in speakers(node.executor)]
    return [target]


def orchestrators(target: Any) -> list[Any]:
    """A swarm or graph and those inside of it; of an agent, none."""
    if not isinstance(target, (Swarm, Graph)):
        return []
    inner = [o for node in target.nodes.values() for o in orchestrators(node.executor)]
    return [target, *inner]


def members(target: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Every agent of an agent, swarm or graph, however deep; itself first."""
    seen = set() if seen is None else seen
    if id(target) in seen:
        return
    seen.add(id(target))
    if isinstance(target, Agent):
        yield target
        for tool in list(target.tool_registry.registry.values()):
            if isinstance(tool, _AgentAsTool):
                yield from members(tool.agent, seen)
    elif isinstance(target, (Swarm, Graph)):
        for node in target.nodes.values():
            yield from members(node.executor, seen)
    else:
        yield target  # An agent of another class: it is said to be what cannot be guarded.
