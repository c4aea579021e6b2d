"""CrewAI's objects as what a guard asks about; its own `tool_name` is munged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crewai.tools.agent_tools.base_agent_tools import BaseAgentTool
from crewai.utilities.string_utils import sanitize_tool_name

from zta._calls import Call, CodeExecution, Delegation, ModelCall, ToolCall

if TYPE_CHECKING:
    from zta._guard import Guard


def describe(context: Any, mcp_servers: Mapping[str, str], guard: Guard) -> Call:
    """The call as the guard asks about it, under the tool's original name."""
    tool = original(context.tool)
    name, origin = resource(tool, mcp_servers)
    # What the model sees of an MCP tool begins with its server: a command line, or a path.
    visible = tool.original_tool_name if server_of(tool) else context.tool_name
    told = {"framework": "crewai", "visible_name": str(visible), "origin": origin}
    if isinstance(tool, BaseAgentTool):
        return Delegation(_coworker(tool, context.tool_input), **told)
    kind = CodeExecution if name in guard.code_tools else ToolCall
    return kind(name, context.tool_input, **told)


def original(tool: Any) -> Any:
    """The tool that was given to the agent."""
    return getattr(tool, "_original_tool", None) or tool


def resource(tool: Any, mcp_servers: Mapping[str, str]) -> tuple[str, str]:
    """The id that a tool is asked for under, and where the tool comes from."""
    server, function = server_of(tool), getattr(tool, "func", None)
    if server:
        server = mcp_servers.get(server) or unnamed(server)
        return f"{server}/{tool.original_tool_name}", f"mcp:{server}"
    if function is not None and hasattr(function, "__qualname__"):
        return str(tool.name), f"function:{function.__module__}:{function.__qualname__}"
    return str(tool.name), f"class:{type(tool).__module__}:{type(tool).__qualname__}"


def server_of(tool: Any) -> str:
    """CrewAI's name of an MCP tool's server: its command line, or the host and path of its URL."""
    return str(getattr(tool, "server_name", None) or "")


def unnamed(server: str) -> str:
    """A name for a server that was given none. Its own could put a token on record."""
    return f"mcp-{hashlib.sha256(server.encode('utf-8', 'replace')).hexdigest()[:12]}"


def describe_model(llm: Any) -> ModelCall:
    """The call of a model, under the name that it was created with or that of its class."""
    kind = type(llm)
    known = llm if isinstance(llm, str) else getattr(llm, "model", None)
    origin = f"class:{kind.__module__}:{kind.__qualname__}"
    return ModelCall(str(known or kind.__name__), framework="crewai", origin=origin)


def _coworker(tool: Any, tool_input: Any) -> str:
    """The agent that CrewAI would pick: roles compare without case, quotes and extra spaces."""
    asked = tool._get_coworker(
        tool_input.get("coworker"), **{k: v for k, v in tool_input.items() if k == "co_worker"}
    )
    wanted = tool.sanitize_agent_name(asked or "")
    for agent in tool.agents:
        if tool.sanitize_agent_name(agent.role) == wanted:
            return agent_name(agent)
    return str(asked or "")


def agent_name(agent: Any) -> str:
    """The role as it was written. What inputs make of it must not choose an identity."""
    return str(getattr(agent, "_original_role", None) or agent.role).strip()


def ambiguous(context: Any) -> bool:
    """Whether two tools share the munged name: CrewAI could run, or have run, the other one.

    Its cache, which a crew shares, knows tools by that name alone.
    """
    tools = [context.tool, *_tools(context.agent), *(getattr(context.task, "tools", None) or ())]
    handler = getattr(context.agent, "tools_handler", None)
    if context.crew is not None and getattr(handler, "cache", None) is not None:
        for agent in context.crew.agents:
            tools += _tools(agent)
        for task in context.crew.tasks:
            tools += task.tools or ()
    names = {
        resource(original(tool), {})[0]
        for tool in tools
        if sanitize_tool_name(tool.name) == context.tool_name
    }
    return len(names) > 1


def _tools(agent: Any) -> list[Any]:
    """The tools that an agent was given, and those of its run: delegation, MCP, memory."""
    executor = getattr(agent, "agent_executor", None)
    return [*(agent.tools or ()), *(getattr(executor, "original_tools", None) or ())]


def senders(task: Any, crew: Any) -> list[Any]:
    """The agents whose results CrewAI puts into a task, in order."""
    tasks = list(getattr(crew, "tasks", None) or ())
    at = next((n for n, known in enumerate(tasks) if known is task), None)
    if at is None:
        return []
    named = task.context if isinstance(task.context, list) else tasks[:at]
    agents = [known.agent for known in named if known.agent is not None]
    return [agent for agent in dict.fromkeys(agents) if agent is not task.agent]
