"""What an agent can do past its guard, and whether a denied tool stays where it is.

Only what can be seen is listed: a function that a tool calls can do whatever this process can.
"""

from __future__ import annotations

import contextvars
import importlib
import queue
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zta._calls import Call, ToolCall
from zta._denials import place
from zta._errors import ConfigurationError
from zta._guard import Guard
from zta._messages import Decision, Session, refused
from zta._sessions import Sessions

if TYPE_CHECKING:
    from types import ModuleType

CANARY = "zta_canary"
"""The name of the agent that calls a denied tool, and of no other."""
DENIED, CONTROL = "zta_canary_denied", "zta_canary_control"
_TIMEOUT_S = 60.0
_FRAMEWORKS = {"strands": "strands", "crewai": "crewai", "autogen_agentchat": "autogen"}


@dataclass(frozen=True)
class Gap:
    """Something that a guard does not decide."""

    kind: str
    """One of those in docs/guards/README.md, for example `unguarded_agent`."""
    where: str
    """The agent or team, by its name."""
    what: str
    """One sentence for a person: what can happen, and what to do about it."""
    blocking: bool = True
    """False for what was chosen, or cannot be closed inside of this process."""


def verify(
    guard: Guard, target: Any, *, refuse: bool, accept: Collection[str], canary: bool
) -> list[Gap]:
    """See `Guard.verify`."""
    framework = framework_of(target)
    gaps: list[Gap] = _part(framework, "coverage").gaps(guard, target)
    if canary:
        run_canary(framework)
    blocking = [gap for gap in gaps if gap.blocking and gap.kind not in accept]
    if refuse and blocking:
        listed = "; ".join(f"{gap.kind}: `{gap.where}` {gap.what}" for gap in blocking)
        raise ConfigurationError(f"the guard does not cover everything: {listed}")
    return gaps


def framework_of(target: Any) -> str:
    """The framework that an agent, team or crew is made of."""
    for kind in type(target).__mro__:
        known = _FRAMEWORKS.get(kind.__module__.partition(".")[0])
        if known is not None:
            return known
    raise ConfigurationError(f"`{type(target).__name__}` is of no framework that a guard knows")


def run_canary(framework: str) -> None:
    """Let an agent of its own call a denied tool, then one that is allowed.

    Raises ConfigurationError where the denied one ran, where the other did not (then nothing was
    proved), and where the run did not end.
    """
    part = _part(framework, "canary")
    ran: list[str] = []
    error = _in_thread(lambda: part.run(CanaryGuard(), ran.append))
    if DENIED in ran:
        raise ConfigurationError(
            f"a denied tool ran: in this installation the guard does not hold {framework}"
        )
    if ran != [CONTROL]:
        why = f" ({place(error)})" if error is not None else ""
        raise ConfigurationError(
            f"the canary of {framework} proved nothing: the run did not go as it should{why}"
        )


class CanaryGuard(Guard):
    """Denies every call but that of the control, without a server."""

    def __init__(self) -> None:
        """Nothing is connected to."""
        self.also = self.code_tools = frozenset()
        self.sessions = Sessions()
        self._clients, self._outcomes = {}, None

    @property
    def agents(self) -> dict[str, str]:
        """The canary alone."""
        return {CANARY: ""}

    def decide(self, _agent: str, call: Call, *, session: Session | None = None) -> Decision:  # noqa: ARG002
        """Allow the control and nothing else."""
        if isinstance(call, ToolCall) and call.tool == CONTROL:
            return Decision(allowed=True, message="the control of the canary.")
        return refused("the canary's tool is denied", "FORBIDDEN")

    async def decide_async(
        self, agent: str, call: Call, *, session: Session | None = None
    ) -> Decision:
        """Allow the control and nothing else."""
        return self.decide(agent, call, session=session)


def _in_thread(function: Callable[[], Any]) -> Exception | None:
    """Run where no event loop is, and not for ever: a hung framework cannot be cancelled."""
    results: queue.Queue[Exception | None] = queue.Queue()

    def target() -> None:
        try:
            contextvars.Context().run(function)
            results.put(None)
        except Exception as error:  # noqa: BLE001 - told to the caller
            results.put(error)

    threading.Thread(target=target, daemon=True, name=CANARY).start()
    try:
        return results.get(timeout=_TIMEOUT_S)
    except queue.Empty:
        return TimeoutError(f"no end within {_TIMEOUT_S:.0f} s")


def _part(framework: str, part: str) -> ModuleType:
    return importlib.import_module(f"zta.integrations._{framework}_{part}")
