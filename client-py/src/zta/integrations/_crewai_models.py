"""Who asks for a call of a model of CrewAI: an agent, or the crew by its name.

CrewAI asks models for planning, guardrails and memories beside its agents. Its providers ask the
hook about those calls, too, if not for an agent: they are the crew's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zta._calls import MESSAGES, MODEL_CALLS, Message
from zta._denials import claimed_by_no_guard
from zta.integrations._crewai_calls import agent_name, describe_model, senders

if TYPE_CHECKING:
    from collections.abc import Callable

    from zta._messages import Decision
    from zta.integrations._crewai_claims import Claim, Claims

_MADE = frozenset({"Task Execution Planner", "Guardrail Agent"})
"""The roles of agents that CrewAI makes to ask a model, without tools."""


def decide_model(claims: Claims, context: Any) -> Decision | None:
    """Decide a call of a model; None where no decision was asked for."""
    claim, agent = _who(claims, context)
    if claim is None:
        return claimed_by_no_guard(agent) if claims.decide_models else None
    guard = claim.guard
    if MESSAGES in guard.also and context.iterations == 0 and context.task is not None:
        for sender in senders(context.task, context.crew):
            told = Message(agent, framework="crewai", origin="task")
            decision = guard.decide(agent_name(sender), told, session=claim.session)
            if not decision.allowed:
                return decision
    if MODEL_CALLS not in guard.also:
        return None
    return guard.decide(agent, describe_model(context.llm), session=claim.session)


def _who(claims: Claims, context: Any) -> tuple[Claim | None, str]:
    agent = context.agent
    if agent is None or (context.crew is None and agent_name(agent) in _MADE):
        claim, name = claims.of_run()
        if claim is not None:
            return claim, name
    if agent is None:
        return None, ""
    crew = context.crew or getattr(agent, "crew", None)
    return claims.find(crew, agent), agent_name(agent)


def heed(agent: Any, hook: Callable[[Any], None]) -> None:
    """Put the hook into the list that an agent's executor took when it was made."""
    executor = getattr(agent, "agent_executor", None)
    if executor is not None and hook not in executor.before_llm_call_hooks:
        executor.before_llm_call_hooks.append(hook)
