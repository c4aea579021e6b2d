"""The deny for whatever goes wrong in a guard: fixed texts for models, no payload in logs."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

from zta._errors import ArgumentsError, RpcError
from zta._messages import UNAVAILABLE, Decision, refused

logger = logging.getLogger("zta")

IDENTITY_REFUSED = "the agent's identity was not accepted"
_IDENTITY_CODES = {"UNAUTHENTICATED", "PERMISSION_DENIED"}


class NoIdentityError(Exception):
    """The agent is not among those of the guard."""


class NoPeerError(Exception):
    """The agent that is called or written to is not among those of the guard."""


class ChainError(Exception):
    """The delegation chain could not be extended, for the reason of the server if it said one."""


class NoBlockError(Exception):
    """Control was handed on for somebody where no block of a session would carry the chain."""


class NoSessionError(Exception):
    """The guard requires a session, and the call is in none: it would be for nobody."""


def denied(agent: str, error: Exception) -> Decision:
    """The deny for whatever went wrong. Only fixed texts go to the model, no payload to the log."""
    if isinstance(error, NoIdentityError):
        logger.warning("denied: agent %r has no identity of its own in this guard", agent)
        return refused("this agent has no identity of its own", "NO_IDENTITY")
    if isinstance(error, NoPeerError):
        logger.warning("denied: what agent %r turns to has no identity in this guard", agent)
        return refused("the other agent has no identity of its own", "NO_IDENTITY")
    if isinstance(error, ChainError):
        logger.warning("denied: agent %r cannot be acted for: %s", agent, error)
        return refused("the other agent may not act on behalf of this one", str(error))
    if isinstance(error, NoBlockError):
        logger.warning("denied: agent %r hands over control outside of `guard.session`", agent)
        return refused("control can be handed on only inside a session", "GUARD_FAILED")
    if isinstance(error, NoSessionError):
        logger.warning("denied: agent %r acts outside of `guard.session`", agent)
        return refused("this agent acts for nobody: it is in no session", "GUARD_FAILED")
    if isinstance(error, ArgumentsError):
        logger.warning("denied: a call of agent %r: %s", agent, error)
        return refused(str(error), "INVALID_ARGUMENTS")
    if isinstance(error, RpcError):
        reason = error.reason or error.code.name
        # What the transport says helps and holds no payload; what a server says may hold one.
        local = error.code.name == "UNAVAILABLE" and error.reason is None
        said = repr(error.message[:300]) if local else reason
        logger.warning("denied: no decision for agent %r: %s: %s", agent, error.code.name, said)
        identity = error.code.name in _IDENTITY_CODES
        return refused(IDENTITY_REFUSED if identity else UNAVAILABLE, reason)
    logger.error("denied: the guard failed for agent %r: %s", agent, place(error))
    return refused(UNAVAILABLE, "GUARD_FAILED")


def place(error: Exception) -> str:
    """The type and place of an error; its text may hold arguments of a call."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def claimed_by_no_guard(agent: str) -> Decision:
    """The deny for an agent that runs beside guarded ones and belongs to no guard."""
    return denied(agent, NoIdentityError())


def adapter_failed(agent: str, error: Exception) -> Decision:
    """The deny for a defect in an adapter or a framework that has changed."""
    return denied(agent, error)
