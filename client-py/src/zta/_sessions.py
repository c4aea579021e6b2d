"""Who is asking, for whom, and in which run of calls: what context variables carry for a guard.

A link is one step of a delegation chain: the grant by which an agent acts for the one that called
it. The link of a call holds inside that call. That of a hand-off, which returns at once while the
other agent goes on, holds to the end of the session's block.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from zta._messages import Session


@dataclass(frozen=True)
class Link:
    """By which grant an agent acts for its caller."""

    agent: str
    """The agent that acts."""
    grant: str = field(default="", repr=False)
    """Empty: the agent acts on its own behalf, or goes on as it did before."""
    parties: tuple[str, ...] = ()
    """The agents it acts for, by the guard's names, the first one first."""


@dataclass(frozen=True)
class _Run:
    session: Session
    calls: Mapping[str, Link] = field(default_factory=dict)
    handed: dict[str, Link] | None = None


_runs: contextvars.ContextVar[Mapping[object, _Run] | None] = contextvars.ContextVar(
    "zta_sessions", default=None
)
_OUTSIDE = _Run(Session())


class Sessions:
    """The sessions of one guard; those of others are not seen."""

    def __init__(self) -> None:
        self._key = object()

    def _run(self) -> _Run:
        return (_runs.get() or {}).get(self._key) or _OUTSIDE

    def _set(self, run: _Run) -> contextvars.Token[Mapping[object, _Run] | None]:
        return _runs.set({**(_runs.get() or {}), self._key: run})

    def current(self) -> Session:
        """The session that the running code is in."""
        return self._run().session

    @contextlib.contextmanager
    def block(self, session: Session) -> Iterator[None]:
        """Run the code inside in this session."""
        token = self._set(_Run(session, handed={}))
        try:
            yield
        finally:
            _runs.reset(token)

    def link(self, agent: str) -> Link | None:
        """The innermost link by which an agent acts, if it was called or handed control."""
        run = self._run()
        return run.calls.get(agent) or (run.handed or {}).get(agent)

    def grant(self, agent: str, installed: Session | None) -> str | None:
        """The grant by which an agent acts, or None where it acts on its own behalf.

        The narrowest holds: what a call or a hand-off gave, then what an adapter was installed
        with, then the block's. Without the block's, a call would be on the agent's own behalf.
        """
        link = self.link(agent)
        own = installed.grants.get(agent) if installed is not None else None
        return (link.grant if link else None) or own or self.current().grants.get(agent)

    @contextlib.contextmanager
    def on_behalf(self, *links: Link | None) -> Iterator[None]:
        """Run the code inside with more links; None is none."""
        added = {link.agent: link for link in links if link is not None}
        if not added:
            yield
            return
        run = self._run()
        token = self._set(replace(run, calls={**run.calls, **added}))
        try:
            yield
        finally:
            _runs.reset(token)

    def push(self, link: Link | None) -> contextvars.Token[Any] | None:
        """Add a link until `pop`, where a framework calls before and after instead of around."""
        if link is None:
            return None
        run = self._run()
        return self._set(replace(run, calls={**run.calls, link.agent: link}))

    @staticmethod
    def pop(token: contextvars.Token[Any] | None) -> None:
        """Take back what `push` added. In another context there is nothing to take back."""
        if token is not None:
            with contextlib.suppress(ValueError):
                _runs.reset(token)

    async def each_on_behalf(
        self, events: AsyncIterator[Any], *links: Link | None
    ) -> AsyncGenerator[Any, None]:
        """Pass on what another generator yields, with more links only while it runs itself."""
        while True:
            with self.on_behalf(*links):
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    return
            yield event

    def in_block(self) -> bool:
        """Whether the running code is in a block of this guard's session."""
        return self._run().handed is not None

    def hand_over(self, link: Link) -> None:
        """Let a link hold to the end of the block. Outside of one there is nothing to hold it."""
        handed = self._run().handed
        if handed is not None:
            handed[link.agent] = link
