"""What a Strands agent, swarm or graph can do past its guard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from strands import Agent
from strands.middleware import ExecuteToolStage
from strands.tools.mcp import MCPAgentTool

from zta._calls import MESSAGES, MODEL_CALLS
from zta._coverage import Gap
from zta.integrations._strands_calls import (
    is_innermost,
    members,
    orchestrators,
    unnamed_clients,
    wraps,
)
from zta.integrations._strands_children import makes_strangers
from zta.integrations.strands import SecurityWrapper, StrandsGuard, before_nodes, is_guarded

if TYPE_CHECKING:
    from zta._guard import Guard

_ASK_MODELS = {
    "ClassifierStrategy",
    "GoalLoop",
    "LLMSteeringHandler",
    "ModelExtractor",
    "SummarizeStrategy",
    "SummarizingConversationManager",
}
_DEPTH = 4


def gaps(guard: Guard, target: Any) -> list[Gap]:
    """List them, agent by agent."""
    if isinstance(target, SecurityWrapper):
        target = target.agent
    found = [gap for member in members(target) for gap in _of_agent(guard, member)]
    return found + [gap for part in orchestrators(target) for gap in _of_nodes(guard, part)]


def _of_agent(guard: Guard, agent: Any) -> list[Gap]:
    name = str(getattr(agent, "name", None) or type(agent).__name__)
    if not isinstance(agent, Agent):
        what = f"is a `{type(agent).__name__}`: what it does is not seen from here"
        return [Gap("unguarded_agent", name, what)]
    if not is_guarded(agent, guard):
        return [Gap("unguarded_agent", name, "has no guard: give it plugins=[guard.strands()]")]
    found = []
    if name not in guard.agents:
        found.append(Gap("no_identity", name, "has no identity: each of its calls is denied"))
    plugin = _plugin(agent, guard)
    if not is_innermost(agent, ExecuteToolStage, plugin._wrap):
        what = "has a middleware inside of the guard: add the guard last"
        found.append(Gap("not_innermost", name, what))
    for tool in agent.tool_registry.registry.values():
        if makes_strangers(tool):
            what = f"has the tool `{tool.tool_name}`, whose agents no guard reaches: it is refused"
            found.append(Gap("unguarded_agent", name, what))
    if MODEL_CALLS not in plugin.also:
        what = "calls its model undecided: Guard(also=['call_model'])"
        found.append(Gap(MODEL_CALLS, name, what, blocking=False))
    if any(isinstance(tool, MCPAgentTool) for tool in agent.tool_registry.registry.values()):
        what = "has MCP tools: code of this process can call their MCPClient directly"
        found.append(Gap("mcp_session", name, what, blocking=False))
    if len(set(unnamed_clients(agent, plugin._mcp_servers))) > 1:
        what = "has MCP servers without names, which are all `mcp`: strands(mcp_servers={...})"
        found.append(Gap("unnamed_server", name, what))
    return found + _of_side_calls(guard, agent, name, MODEL_CALLS in plugin.also)


def _of_side_calls(guard: Guard, agent: Any, name: str, blocking: bool) -> list[Gap]:
    """What Strands asks beside the loop: summaries, judges, steering, memories, routing."""
    plugins = list(agent._plugin_registry._plugins.values())
    found = []
    for part in _held([agent.conversation_manager, *plugins], _DEPTH):
        kind = type(part).__name__
        helper = getattr(part, "summarization_agent", None)
        if isinstance(helper, Agent):
            if not is_guarded(helper, guard):
                what = f"has no guard, and the {kind} of `{name}` calls it: give it one"
                found.append(Gap("unguarded_agent", str(helper.name), what))
        elif kind in _ASK_MODELS and not (kind == "GoalLoop" and part._goal is None):
            what = f"asks a model in its {kind}, past the stage where models are decided"
            found.append(Gap("model_client", name, what, blocking=blocking))
    return found


def _held(values: Iterable[Any], depth: int) -> Iterator[Any]:
    """Strands' own objects among some values, and what those hold."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _held(value, depth)
        elif type(value).__module__.startswith("strands.") and not isinstance(value, Agent):
            yield value
            if depth > 1:
                yield from _held(list(getattr(value, "__dict__", {}).values()), depth - 1)


def _of_nodes(guard: Guard, orchestrator: Any) -> list[Gap]:
    name = str(getattr(orchestrator, "id", None) or type(orchestrator).__name__)
    own = before_nodes(orchestrator, guard)
    if not own:
        what = "decides nothing before its nodes: give it plugins=[guard.strands()]"
        return [Gap(MESSAGES, name, what, blocking=MESSAGES in guard.also)]
    if not any(MESSAGES in plugin.also for plugin in own):
        what = "passes messages on undecided: Guard(also=['send_message'])"
        return [Gap(MESSAGES, name, what, blocking=False)]
    return []


def _plugin(agent: Any, guard: Guard) -> StrandsGuard:
    owners = (getattr(entry.handler, "__self__", None) for entry in wraps(agent))
    return next(o for o in owners if isinstance(o, StrandsGuard) and o.guard is guard)
