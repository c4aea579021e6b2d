"""Translation between what a guard knows and the wire. Pure: no I/O, no clock."""

from __future__ import annotations

import json
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from zta import v1
from zta._arguments import encode
from zta._calls import Call

UNAVAILABLE = "authorisation service unavailable"
"""What a model reads when no decision could be had, whatever the cause."""

_TEXT_MAX = 600
_NAME_BYTES_MAX = 1024


@dataclass(frozen=True)
class Session:
    """Who is asking and in which run of calls. The user is an unproven claim of the guard."""

    user: str = ""
    session_id: str = ""
    task_id: str = ""
    at_least_as_fresh: str = ""
    """The `consistency_token` of another answer: decide no earlier than that state of the log."""
    grants: Mapping[str, str] = field(default_factory=dict, repr=False)
    """For agents of a guard, by name: the grant of the one on whose behalf it acts."""


@dataclass(frozen=True)
class Decision:
    """What was decided on one call. Only `allowed` lets a tool run."""

    allowed: bool
    message: str
    """One sentence for a person or a model."""
    reason: str = ""
    """On a deny: a `DenyReason` without its prefix, or the reason why there is no decision."""
    decided: bool = False
    """Whether the server decided. False: the guard refused without an answer."""
    decision_id: str = ""
    sequence: int | None = None
    """The place of the decision's event in the log."""
    policy_ids: tuple[str, ...] = ()
    errored_policy_ids: tuple[str, ...] = ()
    obligations: tuple[str, ...] = ()
    revision: int = 0
    consistency_token: str = field(default="", repr=False)

    @property
    def refusal(self) -> str:
        """What the model reads in place of the tool's result."""
        return f"DENIED: {self.message} The tool was not run."


def refused(message: str, reason: str) -> Decision:
    """A deny that the guard gives without an answer of the server."""
    return Decision(allowed=False, message=_sentence(message), reason=reason)


def delegate_request(agent: str, scope: Sequence[str], lifetime_s: int) -> v1.ExchangeTokenRequest:
    """Build the request to let an agent act on the caller's behalf."""
    delegate = v1.Delegate(agent=agent, scope=scope, lifetime_s=lifetime_s)
    return v1.ExchangeTokenRequest(delegate=delegate)


def authorize_request(
    call: Call,
    session: Session,
    agent_name: str | None = None,
    supported_obligations: Sequence[str] = (),
    resource_id: str | None = None,
) -> v1.AuthorizeRequest:
    """Build the request for one call; raise ArgumentsError if its arguments are unfit.

    `resource_id` stands in for the name that the call has for its resource.
    """
    arguments_json, arguments_sha256 = encode(call.arguments)
    context = {
        "framework": call.framework,
        "tool_name": call.visible_name,
        "origin": call.origin,
        "agent_name": agent_name,
    }
    said = {key: _bounded(value) for key, value in context.items() if value}
    demanded = session.at_least_as_fresh
    return v1.AuthorizeRequest(
        action=v1.EntityRef(type="ZTA::Action", id=call.action),
        resource=v1.EntityRef(type=call.resource_type, id=resource_id or call.resource),
        arguments_json=arguments_json,
        arguments_sha256=arguments_sha256,
        context_json=json.dumps(said, ensure_ascii=False).encode(),
        session_id=session.session_id,
        task_id=session.task_id,
        user=session.user,
        correlation_id=str(uuid.uuid4()),
        supported_obligations=list(supported_obligations),
        at_least_as_fresh=v1.ConsistencyToken(value=demanded) if demanded else None,
    )


def read_decision(request: v1.AuthorizeRequest, response: v1.AuthorizeResponse) -> Decision:
    """Read an answer. Whatever is not plainly an allow of this very request is a deny."""
    names = tuple(obligation.name for obligation in response.obligations)
    reason = ""
    if response.effect == v1.EFFECT_ALLOW:
        flaw = _flaw(request, response, names)
        if flaw:
            return refused(UNAVAILABLE, flaw)
    else:
        reason = _reason_name(response.reason)
    return Decision(
        allowed=response.effect == v1.EFFECT_ALLOW,
        message=_sentence(response.message) or _default_message(reason, response.policy_ids),
        reason=reason,
        decided=response.effect in (v1.EFFECT_ALLOW, v1.EFFECT_DENY),
        decision_id=response.decision_id,
        sequence=response.sequence if response.decision_id else None,
        policy_ids=tuple(response.policy_ids),
        errored_policy_ids=tuple(response.errored_policy_ids),
        obligations=names,
        revision=response.revision,
        consistency_token=response.consistency_token.value,
    )


def _flaw(
    request: v1.AuthorizeRequest, response: v1.AuthorizeResponse, obligations: tuple[str, ...]
) -> str:
    """Why an allow cannot be believed, or an empty string."""
    if response.reason != v1.DENY_REASON_UNSPECIFIED or not response.decision_id:
        return "ANSWER_MALFORMED"
    if response.correlation_id != request.correlation_id:
        return "ANSWER_MISMATCHED"
    if not set(obligations) <= set(request.supported_obligations):
        return "OBLIGATION_UNSUPPORTED"
    return ""


def _reason_name(reason: v1.DenyReason.ValueType) -> str:
    try:
        return v1.DenyReason.Name(reason).removeprefix("DENY_REASON_")
    except ValueError:
        return "UNSPECIFIED"  # a reason of a newer server


def _default_message(reason: str, policy_ids: Sequence[str]) -> str:
    by = f" by {', '.join(policy_ids)}" if policy_ids else ""
    return _sentence(f"{reason or 'allowed'}{by}")


def _sentence(text: str) -> str:
    """Text on one line and of bounded length: it goes to a model and to logs."""
    printable = "".join(" " if unicodedata.category(char)[0] == "C" else char for char in text)
    line = " ".join(printable.split())[:_TEXT_MAX]
    return line if not line or line.endswith((".", "!", "?")) else f"{line}."


def _bounded(text: str) -> str:
    return text.encode("utf-8", "replace")[:_NAME_BYTES_MAX].decode("utf-8", "ignore")
