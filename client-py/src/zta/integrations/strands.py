"""Strands: decides each tool call at the innermost `ExecuteToolStage` wrap.

Innermost, because a plain hook's refusal can be undone by a later hook, and a later middleware can
swap the tool or its arguments after a decision. Here the final tool and arguments are known, and
the tool gets a copy of exactly what was decided on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from strands.hooks import AgentInitializedEvent, HookOrder
from strands.middleware import ExecuteToolStage
from strands.plugins import Plugin
from strands.tools.mcp import MCPAgentTool
from strands.tools.structured_output.structured_output_tool import StructuredOutputTool
from strands.types._events import ToolResultEvent

from zta._arguments import snapshot
from zta._guard import adapter_failed
from zta._messages import Decision, Session, ToolCall, refused

if TYPE_CHECKING:
    from strands import Agent
    from strands.middleware import ExecuteToolContext

    from zta._guard import Guard

_NOT_INNERMOST = "another middleware stands between the guard and the tool"


class StrandsGuard(Plugin):
    """The plugin that `Guard.strands()` returns. The agent's `name` chooses its identity."""

    name = "zta-guard"

    def __init__(
        self,
        guard: Guard,
        *,
        session: Session | None = None,
        mcp_servers: Mapping[Any, str] | None = None,
    ) -> None:
        """Guard with `guard`; `session` stands in where no context variable reaches.

        `mcp_servers` names the server behind each MCPClient; without, its prefix or `mcp` does.
        """
        super().__init__()
        self._guard, self._session = guard, session
        self._mcp_servers = dict(mcp_servers or {})

    def init_agent(self, agent: Agent) -> None:
        """Install last, so that the wrap of every other plugin is outside of this one."""
        agent.add_hook(self._install, AgentInitializedEvent, order=HookOrder.SDK_LAST)

    def _install(self, event: AgentInitializedEvent) -> None:
        event.agent.add_middleware(ExecuteToolStage, self._wrap)

    async def _wrap(self, context: ExecuteToolContext, next_fn: Any) -> AsyncGenerator[Any, None]:
        if context.tool is not None and not _is_pseudo_tool(context.tool):
            # The tool gets the copy: nothing can change it between decision and execution.
            tool_use = {**context.tool_use, "input": snapshot(context.tool_use.get("input") or {})}
            context = context.replace(tool_use=tool_use)  # type: ignore[arg-type]
            decision = await self._decide(context)
            if not decision.allowed:
                yield _refusal(context, decision)
                return
        async for event in next_fn(context):
            yield event

    async def _decide(self, context: ExecuteToolContext) -> Decision:
        agent = str(getattr(context.agent, "name", ""))
        try:
            if not _is_innermost(context.agent, self._wrap):
                # Ours goes to the end for the next call; this one cannot be vouched for.
                _make_innermost(context.agent, self._wrap)
                return refused(_NOT_INNERMOST, "GUARD_FAILED")
            call = describe(context.tool, context.tool_use, self._mcp_servers)
            return await self._guard.decide_async(agent, call, session=self._session)
        except Exception as error:  # noqa: BLE001 - a framework that changed must not open the way
            return adapter_failed(agent, error)


def describe(tool: Any, tool_use: Any, mcp_servers: Mapping[Any, str]) -> ToolCall:
    """The call as the guard asks about it, under the tool's original name."""
    name, origin = str(tool.tool_name), _origin(tool)
    if isinstance(tool, MCPAgentTool):
        prefix = getattr(tool.mcp_client, "_prefix", None)
        server = mcp_servers.get(tool.mcp_client) or prefix or "mcp"
        name, origin = f"{server}/{tool.mcp_tool.name}", f"mcp:{server}"
    return ToolCall(
        tool=name,
        arguments=tool_use["input"],
        framework="strands",
        visible_name=str(tool_use["name"]),
        origin=origin,
    )


def _origin(tool: Any) -> str:
    function = getattr(tool, "_tool_func", None)
    if function is not None:
        return f"function:{function.__module__}:{function.__qualname__}"
    return f"{tool.tool_type}:{type(tool).__module__}:{type(tool).__qualname__}"


def _is_pseudo_tool(tool: Any) -> bool:
    """Strands returns structured output by a tool of its own class, which has no effect outside."""
    return isinstance(tool, StructuredOutputTool)


def _refusal(context: ExecuteToolContext, decision: Decision) -> ToolResultEvent:
    return ToolResultEvent(
        {
            "toolUseId": str(context.tool_use.get("toolUseId")),
            "status": "error",
            "content": [{"text": decision.refusal}],
        }
    )


def _wraps(agent: Any) -> list[Any]:
    handlers: list[Any] = agent._middleware_registry._handlers[ExecuteToolStage]
    return [entry for entry in handlers if entry.phase == "wrap"]


def _is_innermost(agent: Any, wrap: Any) -> bool:
    return bool(_wraps(agent)[-1].handler == wrap)


def _make_innermost(agent: Any, wrap: Any) -> None:
    handlers = agent._middleware_registry._handlers[ExecuteToolStage]
    handlers.sort(key=lambda entry: entry.handler == wrap)
