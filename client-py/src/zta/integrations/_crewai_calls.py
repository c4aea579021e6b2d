"""CrewAI's objects as what a guard asks about; its own `tool_name` is munged."""

from __future__ import annotations

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
    told = {"framework": "crewai", "visible_name": str(context.tool_name), "origin": origin}
    if isinstance(tool, BaseAgentTool):
        return Delegation(_coworker(tool, context.tool_input, guard), **told)
    kind = CodeExecution if name in guard.code_tools else ToolCall
    return kind(name, context.tool_input, **told)


def original(tool: Any) -> Any:
    """The tool that was given to the agent."""
    return getattr(tool, "_original_tool", None) or tool


def resource(tool: Any, mcp_servers: Mapping[str, str]) -> tuple[str, str]:
    """The id that a tool is asked for under, and where the tool comes from."""
    server = getattr(tool, "server_name", None)
    function = getattr(tool, "func", None)
    if server:
        server = mcp_servers.get(server, server)
        return f"{server}/{tool.original_tool_name}", f"mcp:{server}"
    if function is not None and hasattr(function, "__qualname__"):
        return str(tool.name), f"function:{function.__module__}:{function.__qualname__}"
    return str(tool.name), f"class:{type(tool).__module__}:{type(tool).__qualname__}"


def describe_model(llm: Any) -> ModelCall:
    """The call of a model, under the name that it was created with or that of its class."""
    kind = type(llm)
    known = llm if isinstance(llm, str) else getattr(llm, "model", None)
    origin = f"class:{kind.__module__}:{kind.__qualname__}"
    return ModelCall(str(known or kind.__name__), framework="crewai", origin=origin)


def _coworker(tool: Any, tool_input: Any, guard: Guard) -> str:
    """The agent that CrewAI would pick: roles compare without case, quotes and extra spaces."""
    asked = tool._get_coworker(
        tool_input.get("coworker"), **{k: v for k, v in tool_input.items() if k == "co_worker"}
    )
    wanted = tool.sanitize_agent_name(asked or "")
    for agent in tool.agents:
        if tool.sanitize_agent_name(agent.role) == wanted:
            return agent_name(agent, guard)
    return str(asked or "")


def agent_name(agent: Any, guard: Guard) -> str:
    """The role, as written where inputs have been put into it."""
    role = str(agent.role).strip()
    written = getattr(agent, "_original_role", None)
    return str(written).strip() if role not in guard.agents and written else role


def ambiguous(context: Any) -> bool:
    """Whether two tools share the munged name: CrewAI could then run the other one."""
    tools = [*(context.agent.tools or ()), *(getattr(context.task, "tools", None) or ())]
    names = {tool.name for tool in tools if sanitize_tool_name(tool.name) == context.tool_name}
    return len(names) > 1


def senders(task: Any, crew: Any) -> list[Any]:
    """The agents whose results CrewAI puts into a task, in order."""
    tasks = list(getattr(crew, "tasks", None) or ())
    at = next((n for n, known in enumerate(tasks) if known is task), None)
    if at is None:
        return []
    named = task.context if isinstance(task.context, list) else tasks[:at]
    agents = [known.agent for known in named if known.agent is not None]
    return [agent for agent in dict.fromkeys(agents) if agent is not task.agent]
