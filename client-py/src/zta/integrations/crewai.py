"""CrewAI: decides each tool call at PRE_TOOL_CALL, tells the model why at POST_TOOL_CALL.

CrewAI's hooks are process-wide and swallow every exception but `HookAborted`. So there is one hook
for all guards of the process, which finds the guard by crew and agent, and whatever goes wrong in
it becomes `HookAborted`. It runs before the crew's tool cache is read, and last of all hooks, since
a later one could still edit the arguments. A call of a model that is denied ends the run: CrewAI
has no other way to refuse one.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from crewai import Crew
from crewai.hooks import HookAborted
from crewai.hooks.dispatch import (
    InterceptionPoint,
    get_hooks,
    get_scoped_hooks,
    register,
    register_scoped,
    unregister,
)

from zta._calls import Call, Delegation, Outcome
from zta._denials import adapter_failed, claimed_by_no_guard
from zta._errors import ConfigurationError
from zta._messages import Decision, Session, refused
from zta._permitted import offered
from zta.integrations._crewai_calls import (
    agent_name,
    ambiguous,
    describe,
    resource,
)
from zta.integrations._crewai_claims import Claim, Claims
from zta.integrations._crewai_models import decide_model, heed

if TYPE_CHECKING:
    from zta._guard import Guard

_PRE, _POST = InterceptionPoint.PRE_TOOL_CALL, InterceptionPoint.POST_TOOL_CALL
_MODEL, _START = InterceptionPoint.PRE_MODEL_CALL, InterceptionPoint.EXECUTION_START
_OPEN_MAX = 1024
_FAILURES = ("Error executing tool", "I encountered an error while trying to use the tool")


@dataclass(frozen=True)
class _Open:
    """A call that was decided and has not come back."""

    guard: Guard | None
    agent: str
    call: Call | None
    decision: Decision
    began: float
    token: contextvars.Token[Any] | None = None


class _OpenCalls:
    """What POST_TOOL_CALL has to know; it sees the same arguments object as PRE_TOOL_CALL."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[int, tuple[Any, _Open]] = {}

    def put(self, tool_input: Any, call: _Open) -> None:
        with self._lock:
            # Holding the object keeps its id from being used again.
            self._calls[id(tool_input)] = (tool_input, call)
            while len(self._calls) > _OPEN_MAX:
                del self._calls[next(iter(self._calls))]

    def take(self, tool_input: Any) -> _Open | None:
        with self._lock:
            return self._calls.pop(id(tool_input), (None, None))[1]


_claims, _open = Claims(), _OpenCalls()


def install(
    guard: Guard,
    target: Any,
    *,
    session: Session | None,
    mcp_servers: Mapping[str, str],
    only_permitted: bool = False,
) -> None:
    """Let a guard speak for a crew, an agent, or everyone whom no other guard claims.

    With `only_permitted` the agents lose the tools that they may not call, here and now.
    """
    claim = Claim(guard, session, mcp_servers)
    _claims.add(claim, target)
    for point, hook in ((_PRE, _before), (_POST, _after)):
        unregister(point, hook)
        register(point, hook)
    if guard.also:
        for point, hook in ((_MODEL, _before_model), (_START, _before_run)):
            unregister(point, hook)
            register(point, hook)
    if only_permitted:
        _drop_unpermitted(claim, target)


def uninstall(guard: Guard) -> None:
    """Forget a guard. The hook stays: agents that no guard claims are denied."""
    _claims.forget(guard)


def remove_hooks() -> None:
    """Take the hook out of the process. From then on CrewAI's tools run undecided."""
    hooks = ((_PRE, _before), (_POST, _after), (_MODEL, _before_model), (_START, _before_run))
    for point, hook in hooks:
        unregister(point, hook)


def is_installed() -> bool:
    """Whether the hook is in this process."""
    return _before in get_hooks(_PRE)


def decides_models() -> bool:
    """Whether the hook that decides calls of models is in this process."""
    return _before_model in get_hooks(_MODEL) and _before_run in get_hooks(_START)


def claimed_by(guard: Guard, crew: Any, agent: Any) -> bool:
    """Whether this guard decides what an agent of a crew does."""
    claim = _claims.find(crew, agent)
    return claim is not None and claim.guard is guard and is_installed()


def _drop_unpermitted(claim: Claim, target: Any) -> None:
    if target is None:
        raise ConfigurationError("`only_permitted` needs a crew or an agent: guard.crewai(crew)")
    crew = target if isinstance(target, Crew) else None
    agents = [*target.agents, target.manager_agent] if crew is not None else [target]
    for agent in agents:
        if agent is not None:
            agent.tools = _permitted(claim, agent, agent.tools or [])
    for task in crew.tasks if crew is not None else ():
        if task.agent is not None and task.tools:
            task.tools = _permitted(claim, task.agent, task.tools)


def _permitted(claim: Claim, agent: Any, tools: list[Any]) -> list[Any]:
    ids = [resource(tool, claim.mcp_servers)[0] for tool in tools]
    known = offered(claim.guard, agent_name(agent), ids, claim.session)
    return [tool for tool, name in zip(tools, ids, strict=True) if name in known]


def _before(context: Any) -> None:
    try:
        decided = _decide(context)
        if decided is not None:
            _open.put(context.tool_input, decided)
    except Exception as error:  # noqa: BLE001 - CrewAI would swallow it and run the tool
        _abort(context, adapter_failed(_role(context), error))
    if decided is not None and not decided.decision.allowed:
        raise HookAborted(reason=decided.decision.refusal, source="zta")


def _abort(context: Any, decision: Decision) -> NoReturn:
    try:
        _open.put(context.tool_input, _Open(None, "", None, decision, 0.0))
    finally:
        raise HookAborted(reason=decision.refusal, source="zta")


def _after(context: Any) -> str | None:
    opened = _open.take(context.tool_input)
    if opened is None:
        return None
    if not opened.decision.allowed:
        return opened.decision.refusal
    if opened.guard is not None and opened.call is not None:
        opened.guard.sessions.pop(opened.token)
        text = str(context.tool_result)
        took = (time.monotonic() - opened.began) * 1000
        outcome = Outcome(
            not text.lstrip().startswith(_FAILURES), took, len(text.encode("utf-8", "replace"))
        )
        opened.guard.report(opened.agent, opened.call, opened.decision, outcome)
    return None


def _decide(context: Any) -> _Open | None:
    """The decision on a call, or None where this hook comes again later in the same run."""
    if not _is_last(context):
        return None
    claim = _claims.find(context.crew, context.agent) if context.agent is not None else None
    if claim is None:
        return _refused(claimed_by_no_guard(_role(context)))
    if context.tool is None or ambiguous(context):
        text = "the name of the tool is unknown or ambiguous"
        return _refused(refused(text, "INVALID_ARGUMENTS"))
    guard = claim.guard
    if guard.also:
        heed(context.agent, _before_model)
    agent = agent_name(context.agent)
    call = describe(context, claim.mcp_servers, guard)
    token = None
    if isinstance(call, Delegation):
        decision, link = guard.decide_delegation(agent, call, session=claim.session)
        # CrewAI calls this hook, the tool and the hook after it in one context.
        token = guard.sessions.push(link)
    else:
        decision = guard.decide(agent, call, session=claim.session)
    return _Open(guard, agent, call, decision, time.monotonic(), token)


def _refused(decision: Decision) -> _Open:
    return _Open(None, "", None, decision, 0.0)


def _before_model(context: Any) -> None:
    try:
        decision = decide_model(_claims, context)
    except Exception as error:  # noqa: BLE001 - CrewAI would swallow it and ask the model
        decision = adapter_failed(_role(context), error)
    if decision is not None and not decision.allowed:
        raise HookAborted(reason=f"DENIED: {decision.message}", source="zta")


def _before_run(context: Any) -> None:
    """Agents that ran before keep the hooks that there were then: give them ours."""
    crew = context.crew
    try:
        if crew is not None:
            _claims.note(crew)
            for agent in [*crew.agents, crew.manager_agent]:
                heed(agent, _before_model)
    except Exception as error:  # noqa: BLE001 - CrewAI would swallow it and ask the models
        decision = adapter_failed(_role(context), error)
        raise HookAborted(reason=f"DENIED: {decision.message}", source="zta") from None


def _role(context: Any) -> str:
    return str(getattr(context.agent, "role", ""))


def _is_last(context: Any) -> bool:
    """Whether this is the last hook of the run; a later one could still edit the arguments."""
    turn = getattr(context, "_zta_turn", 0) + 1
    context._zta_turn = turn
    scoped = get_scoped_hooks(_PRE)
    hooks = [*get_hooks(_PRE), *scoped]
    turns = hooks.count(_before)
    if hooks[-1] is _before:
        return turn >= turns
    if turn < turns:
        return False
    # Last from the next call on; this call cannot be vouched for.
    if scoped:
        register_scoped(_PRE, _before)
    else:
        unregister(_PRE, _before)
        register(_PRE, _before)
    raise ConfigurationError("another hook was registered after the guard")
