"""What an AutoGen agent or team can do past its guard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autogen_agentchat.agents import CodeExecutorAgent, SocietyOfMindAgent
from autogen_core.tools import StaticWorkbench

from zta._calls import MESSAGES, MODEL_CALLS
from zta._coverage import Gap
from zta._errors import ConfigurationError
from zta.integrations._autogen_members import members, teams
from zta.integrations._autogen_parts import GuardedExecutor, GuardedModel, GuardedWorkbench

if TYPE_CHECKING:
    from zta._guard import Guard


def gaps(guard: Guard, target: Any) -> list[Gap]:
    """List them, agent by agent."""
    try:
        agents = members(target)
    except ConfigurationError as error:
        return [Gap("unguarded_agent", str(getattr(target, "name", "")), str(error))]
    found = [gap for agent in agents for gap in _of_agent(guard, agent)]
    return found + [gap for team in teams(target) for gap in _of_team(guard, team)]


def _of_agent(guard: Guard, agent: Any) -> list[Gap]:
    name = str(agent.name)
    if getattr(agent, "_zta_guard", None) is not guard:
        return [Gap("unguarded_agent", name, "is not under this guard: guard.autogen(agent)")]
    found, unnamed = [], 0
    # A society's own agents act for it; it needs an identity for what it says, and its model.
    silent = isinstance(agent, SocietyOfMindAgent) and not guard.also
    if name not in guard.agents and not silent:
        found.append(Gap("no_identity", name, "has no identity: each of its calls is denied"))
    for workbench in getattr(agent, "_workbench", None) or ():
        if not isinstance(workbench, GuardedWorkbench):
            what = "got a workbench after it was guarded: guard it last"
            found.append(Gap("tool_added_later", name, what))
        elif not isinstance(workbench._inner, StaticWorkbench):
            what = "has an MCP workbench: code of this process can call it directly"
            found.append(Gap("mcp_session", name, what, blocking=False))
            unnamed += not workbench._asker.mcp_servers.get(workbench._inner)
            if getattr(workbench._inner, "_model_client", None) is not None:
                what = "lets an MCP server ask a model (sampling), undecided"
                found.append(Gap("model_client", name, what, blocking=MODEL_CALLS in guard.also))
    if unnamed > 1:
        what = "has MCP servers without names, which are all `mcp`: autogen(mcp_servers={...})"
        found.append(Gap("unnamed_server", name, what))
    if isinstance(agent, CodeExecutorAgent) and not isinstance(
        agent._code_executor, GuardedExecutor
    ):
        found.append(Gap("code_executor", name, "runs code undecided: guard.autogen(agent)"))
    model = getattr(agent, "_model_client", None)
    if model is not None and not isinstance(model, GuardedModel):
        what = "calls its model undecided: Guard(also=['call_model'])"
        found.append(Gap(MODEL_CALLS, name, what, blocking=MODEL_CALLS in guard.also))
    return found


def _of_team(guard: Guard, team: Any) -> list[Gap]:
    name, found = str(team.name), []
    model = getattr(team, "_model_client", None)
    if model is not None and not isinstance(model, GuardedModel):
        what = "chooses who speaks by a model, undecided: Guard(also=['call_model'])"
        found.append(Gap("model_client", name, what, blocking=MODEL_CALLS in guard.also))
    elif model is not None and name not in guard.agents:
        what = "has no identity: the model by which it chooses who speaks is denied"
        found.append(Gap("no_identity", name, what))
    if MESSAGES not in guard.also:
        what = "passes messages on undecided: Guard(also=['send_message'])"
        found.append(Gap(MESSAGES, name, what, blocking=False))
    if not team._embedded_runtime:
        what = "runs on a shared runtime, where context variables are old: name the `session`"
        found.append(Gap("shared_runtime", name, what, blocking=False))
    return found
