"""CrewAI: decides each tool call at PRE_TOOL_CALL, tells the model why at POST_TOOL_CALL.

CrewAI's hooks are process-wide and swallow every exception but `HookAborted`. So there is one hook
for all guards of the process, which finds the guard by crew and agent, and whatever goes wrong in
it becomes `HookAborted`. It runs before the crew's tool cache is read, and last of all hooks, since
a later one could still edit the arguments.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from crewai import Crew
from crewai.agents.agent_builder.base_agent import BaseAgent
from crewai.hooks import HookAborted
from crewai.hooks.dispatch import (
    InterceptionPoint,
    get_hooks,
    get_scoped_hooks,
    register,
    register_scoped,
    unregister,
)
from crewai.utilities.string_utils import sanitize_tool_name

from zta._errors import ConfigurationError
from zta._guard import adapter_failed, claimed_by_no_guard
from zta._messages import Decision, Session, ToolCall, refused

if TYPE_CHECKING:
    from zta._guard import Guard

_PRE, _POST = InterceptionPoint.PRE_TOOL_CALL, InterceptionPoint.POST_TOOL_CALL
_REFUSALS_MAX = 1024


@dataclass(frozen=True, eq=False)
class _Claim:
    guard: Guard
    session: Session | None
    mcp_servers: Mapping[str, str]


class _Claims:
    """Which guard speaks for which crew and agent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._default: _Claim | None = None
        self._objects: dict[int, tuple[Any, _Claim]] = {}
        self._crew_keys: dict[str, list[_Claim]] = {}

    def add(self, claim: _Claim, target: Any) -> None:
        guard = claim.guard
        with self._lock:
            if target is None:
                if self._default is not None and self._default.guard is not guard:
                    raise ConfigurationError(
                        "another guard already stands for every agent of this process; "
                        "name a crew or an agent: guard.crewai(crew)"
                    )
                self._default = claim
            elif isinstance(target, Crew):
                self._add_object(target, claim)
                # A crew that CrewAI copies (kickoff_for_each) is the same crew under this key.
                known = self._crew_keys.get(target.key, ())
                others = [other for other in known if other.guard is not guard]
                self._crew_keys[target.key] = [*others, claim]
                for agent in [*target.agents, target.manager_agent]:
                    if agent is not None:
                        self._add_object(agent, claim)
            elif isinstance(target, BaseAgent):
                self._add_object(target, claim)
            else:
                raise ConfigurationError(f"cannot guard a `{type(target).__name__}` of CrewAI")

    def _add_object(self, target: Any, claim: _Claim) -> None:
        key = id(target)
        known = self._objects.get(key)
        if known is not None and known[0]() is target and known[1].guard is not claim.guard:
            raise ConfigurationError("this crew or agent already belongs to another guard")
        reference = weakref.ref(target, lambda _gone: self._objects.pop(key, None))
        self._objects[key] = (reference, claim)

    def find(self, crew: Any, agent: Any) -> _Claim | None:
        with self._lock:
            return self._of_crew(crew) or self._of_object(agent) or self._default

    def _of_crew(self, crew: Any) -> _Claim | None:
        if crew is None:
            return None
        known = self._of_object(crew)
        if known is not None:
            return known
        claims = self._crew_keys.get(crew.key, ())
        return claims[0] if len(claims) == 1 else None

    def _of_object(self, target: Any) -> _Claim | None:
        reference, claim = self._objects.get(id(target), (None, None))
        return claim if reference is not None and reference() is target else None

    def forget(self, guard: Guard) -> None:
        with self._lock:
            if self._default is not None and self._default.guard is guard:
                self._default = None
            for key, (_, claim) in list(self._objects.items()):
                if claim.guard is guard:
                    self._objects.pop(key, None)
            left = {
                key: [claim for claim in claims if claim.guard is not guard]
                for key, claims in self._crew_keys.items()
            }
            self._crew_keys = {key: claims for key, claims in left.items() if claims}


class _Refusals:
    """The text for POST_TOOL_CALL, which sees the same arguments object as PRE_TOOL_CALL."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[int, tuple[Any, str]] = {}

    def put(self, tool_input: Any, text: str) -> None:
        with self._lock:
            # Holding the object keeps its id from being used again.
            self._texts[id(tool_input)] = (tool_input, text)
            while len(self._texts) > _REFUSALS_MAX:
                del self._texts[next(iter(self._texts))]

    def take(self, tool_input: Any) -> str | None:
        with self._lock:
            return self._texts.pop(id(tool_input), (None, None))[1]


_claims, _refusals = _Claims(), _Refusals()


def install(
    guard: Guard, target: Any, *, session: Session | None, mcp_servers: Mapping[str, str]
) -> None:
    """Let a guard speak for a crew, an agent, or everyone whom no other guard claims."""
    _claims.add(_Claim(guard, session, mcp_servers), target)
    unregister(_PRE, _before)
    register(_PRE, _before)
    unregister(_POST, _after)
    register(_POST, _after)


def uninstall(guard: Guard) -> None:
    """Forget a guard. The hook stays: agents that no guard claims are denied."""
    _claims.forget(guard)


def remove_hooks() -> None:
    """Take the hook out of the process. From then on CrewAI's tools run undecided."""
    unregister(_PRE, _before)
    unregister(_POST, _after)


def _before(context: Any) -> None:
    try:
        decision = _decide(context)
    except Exception as error:  # noqa: BLE001 - CrewAI would swallow it and run the tool
        decision = adapter_failed(str(getattr(context.agent, "role", "")), error)
    if decision is not None and not decision.allowed:
        _abort(context, decision)


def _abort(context: Any, decision: Decision) -> NoReturn:
    try:
        _refusals.put(context.tool_input, decision.refusal)
    finally:
        raise HookAborted(reason=decision.refusal, source="zta")


def _after(context: Any) -> str | None:
    return _refusals.take(context.tool_input)


def _decide(context: Any) -> Decision | None:
    """The decision on a call, or None where this hook comes again later in the same run."""
    if not _is_last(context):
        return None
    if context.agent is None:
        return claimed_by_no_guard("")
    claim = _claims.find(context.crew, context.agent)
    if claim is None:
        return claimed_by_no_guard(str(context.agent.role))
    if context.tool is None or _ambiguous(context):
        return refused("the name of the tool is unknown or ambiguous", "INVALID_ARGUMENTS")
    agent = _agent_name(context.agent, claim.guard)
    call = describe(context, claim.mcp_servers)
    return claim.guard.decide(agent, call, session=claim.session)


def describe(context: Any, mcp_servers: Mapping[str, str]) -> ToolCall:
    """The call as the guard asks about it; CrewAI's own `tool_name` is munged."""
    tool = getattr(context.tool, "_original_tool", None) or context.tool
    server = getattr(tool, "server_name", None)
    function = getattr(tool, "func", None)
    if server:
        server = mcp_servers.get(server, server)
        name, origin = f"{server}/{tool.original_tool_name}", f"mcp:{server}"
    elif function is not None and hasattr(function, "__qualname__"):
        name, origin = tool.name, f"function:{function.__module__}:{function.__qualname__}"
    else:
        name, origin = tool.name, f"class:{type(tool).__module__}:{type(tool).__qualname__}"
    return ToolCall(
        tool=str(name),
        arguments=context.tool_input,
        framework="crewai",
        visible_name=str(context.tool_name),
        origin=origin,
    )


def _agent_name(agent: Any, guard: Guard) -> str:
    """The role, as written where inputs have been put into it."""
    role = str(agent.role).strip()
    written = getattr(agent, "_original_role", None)
    return str(written).strip() if role not in guard.agents and written else role


def _ambiguous(context: Any) -> bool:
    """Whether two tools share the munged name: CrewAI could then run the other one."""
    tools = [*(context.agent.tools or ()), *(getattr(context.task, "tools", None) or ())]
    names = {tool.name for tool in tools if sanitize_tool_name(tool.name) == context.tool_name}
    return len(names) > 1


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
