"""What a CrewAI crew or agent can do past its guard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crewai import Agent, Crew, Process

from zta._calls import MESSAGES, MODEL_CALLS
from zta._coverage import Gap
from zta._errors import ConfigurationError
from zta.integrations._crewai_calls import agent_name
from zta.integrations._crewai_claims import crew_name
from zta.integrations.crewai import claimed_by, decides_models

if TYPE_CHECKING:
    from zta._guard import Guard

_MANAGER = "Crew Manager"


def gaps(guard: Guard, target: Any) -> list[Gap]:
    """List them, agent by agent."""
    if isinstance(target, Crew):
        agents = [*target.agents, *([target.manager_agent] if target.manager_agent else [])]
        own = [gap for agent in agents for gap in _of_agent(guard, target, agent)]
        return own + _of_crew(guard, target)
    if hasattr(target, "role"):
        return _of_agent(guard, None, target)
    raise ConfigurationError(f"cannot look into a `{type(target).__name__}` of CrewAI")


def _of_agent(guard: Guard, crew: Any, agent: Any) -> list[Gap]:
    name = agent_name(agent)
    if not isinstance(agent, Agent):
        what = f"is a `{type(agent).__name__}`: another framework runs its tools"
        return [Gap("unguarded_agent", name, what)]
    if not claimed_by(guard, crew, agent):
        what = "is not under this guard, or its hook is gone: guard.crewai(crew)"
        return [Gap("unguarded_agent", name, what)]
    found = []
    if name not in guard.agents:
        found.append(Gap("no_identity", name, "has no identity: each of its calls is denied"))
    if vars(agent).get("allow_code_execution"):
        what = "runs code by a switch of CrewAI: give it a tool, and name that in `code_tools`"
        found.append(Gap("code_executor", name, what))
    if getattr(agent, "a2a", None):
        what = "calls agents of other processes (A2A): those need guards of their own"
        found.append(Gap("remote_agent", name, what))
    if getattr(agent, "mcps", None):
        what = "has MCP servers: code of this process can call them directly"
        found.append(Gap("mcp_session", name, what, blocking=False))
    if MODEL_CALLS not in guard.also:
        what = "calls its model undecided: Guard(also=['call_model'])"
        found.append(Gap(MODEL_CALLS, name, what, blocking=False))
    elif not decides_models():
        what = "calls its model undecided, since the hook is gone: guard.crewai(crew)"
        found.append(Gap(MODEL_CALLS, name, what))
    return found


def _of_crew(guard: Guard, crew: Any) -> list[Gap]:
    name, found = crew_name(crew), list[Gap]()
    made = crew.process == Process.hierarchical and crew.manager_agent is None
    if made and _MANAGER not in guard.agents:
        what = f"is made by CrewAI and has no identity: enroll `{_MANAGER}`, or give the crew one"
        found.append(Gap("no_identity", _MANAGER, what))
    asking = ", ".join(_aside(crew))
    if asking and MODEL_CALLS not in guard.also:
        what = f"asks models for its {asking}, undecided: Guard(also=['call_model'])"
        found.append(Gap("model_client", name, what, blocking=False))
    elif asking and name not in guard.agents:
        what = f"has no identity: the models of its {asking} are denied"
        found.append(Gap("no_identity", name, what))
    if asking and MODEL_CALLS in guard.also and not _asks_hooks(crew):
        what = "has a model of your own class for its memory, which asks no hook"
        found.append(Gap("model_client", name, what))
    if MESSAGES not in guard.also and len(crew.tasks) > 1:
        what = "passes results between agents undecided: Guard(also=['send_message'])"
        found.append(Gap(MESSAGES, name, what, blocking=False))
    return found


def _aside(crew: Any) -> list[str]:
    """For what a crew asks models beside its agents."""
    asked = [part for part in ("planning", "memory") if getattr(crew, part, None)]
    guardrails = [g for task in crew.tasks for g in (task.guardrail, *_several(task.guardrails))]
    return [*asked, *(["guardrails"] if any(isinstance(g, str) for g in guardrails) else [])]


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _asks_hooks(crew: Any) -> bool:
    """Whether the model of a crew's memory is of a class of CrewAI, whose calls ask the hook."""
    memory = getattr(crew, "_memory", None)
    llm = getattr(memory, "llm", None)
    return llm is None or isinstance(llm, str) or type(llm).__module__.startswith("crewai.")
