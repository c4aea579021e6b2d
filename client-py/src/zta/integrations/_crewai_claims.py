"""Which guard speaks for which crew and agent of CrewAI, whose hooks are process-wide."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crewai import Crew
from crewai.agents.agent_builder.base_agent import BaseAgent
from crewai.utilities.crew.crew_context import get_crew_context

from zta._calls import MODEL_CALLS
from zta._errors import ConfigurationError
from zta._messages import Session

if TYPE_CHECKING:
    from zta._guard import Guard


_RUNNING_MAX = 1024  # crews whose names are kept


@dataclass(frozen=True, eq=False)
class Claim:
    """A guard's word for a crew, an agent, or everyone else."""

    guard: Guard
    session: Session | None
    mcp_servers: Mapping[str, str]


def crew_name(crew: Any) -> str:
    """The name by which a crew asks for what it does beside its agents."""
    return str(crew.name or "crew").strip()


class Claims:
    """Which guard speaks for which crew and agent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._default: Claim | None = None
        self._objects: dict[int, tuple[Any, Claim]] = {}
        self._crew_keys: dict[str, list[Claim]] = {}
        self._running: dict[str, str] = {}
        self.decide_models = False
        """Whether a guard of this process decides models: then it stays so."""

    def add(self, claim: Claim, target: Any) -> None:
        """Let a claim stand for a crew, an agent, or with None for whoever no other one has."""
        guard = claim.guard
        with self._lock:
            self.decide_models |= MODEL_CALLS in guard.also
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

    def _add_object(self, target: Any, claim: Claim) -> None:
        key = id(target)
        known = self._objects.get(key)
        if known is not None and known[0]() is target and known[1].guard is not claim.guard:
            raise ConfigurationError("this crew or agent already belongs to another guard")
        reference = weakref.ref(target, lambda _gone: self._objects.pop(key, None))
        self._objects[key] = (reference, claim)

    def find(self, crew: Any, agent: Any) -> Claim | None:
        """The claim on an agent of a crew."""
        with self._lock:
            return self._of_crew(crew) or self._of_object(agent) or self._default

    def note(self, crew: Any) -> None:
        """Remember the name of a crew that runs: inside of the run only its id is known."""
        with self._lock:
            self._running[str(crew.id)] = crew_name(crew)
            while len(self._running) > _RUNNING_MAX:
                del self._running[next(iter(self._running))]

    def of_run(self) -> tuple[Claim | None, str]:
        """The claim on the crew whose run the code is in, and the crew's name."""
        run = get_crew_context()
        if run is None:
            return None, ""
        with self._lock:
            objects = list(self._objects.values())
            known = (c for r, c in objects if str(getattr(r(), "id", "")) == run.id)
            claims = self._crew_keys.get(run.key or "", ())
            of_key = claims[0] if len(claims) == 1 else self._default
            return next(known, of_key), self._running.get(run.id or "", "")

    def _of_crew(self, crew: Any) -> Claim | None:
        if crew is None:
            return None
        known = self._of_object(crew)
        if known is not None:
            return known
        claims = self._crew_keys.get(crew.key, ())
        return claims[0] if len(claims) == 1 else None

    def _of_object(self, target: Any) -> Claim | None:
        reference, claim = self._objects.get(id(target), (None, None))
        return claim if reference is not None and reference() is target else None

    def forget(self, guard: Guard) -> None:
        """Drop every claim of a guard."""
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
