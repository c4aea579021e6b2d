"""Reading an answer: what is not plainly an allow is a deny."""

import json
from typing import Any

import pytest

from zta import Session, ToolCall, v1
from zta._messages import authorize_request, read_decision, refused

REQUEST = authorize_request(
    ToolCall("read_file", {"path": "a"}, framework="f", visible_name="v", origin="o"),
    Session("alice", "s", "t"),
    "fin",
    ("redact",),
)


def allow(**changes: Any) -> v1.AuthorizeResponse:
    fields: dict[str, Any] = {
        "effect": v1.EFFECT_ALLOW,
        "decision_id": "d",
        "sequence": 7,
        "correlation_id": REQUEST.correlation_id,
        "revision": 3,
        "policy_ids": ["p"],
    }
    return v1.AuthorizeResponse(**{**fields, **changes})


def test_request() -> None:
    assert (REQUEST.action.type, REQUEST.action.id) == ("ZTA::Action", "call_tool")
    assert (REQUEST.resource.type, REQUEST.resource.id) == ("ZTA::Tool", "read_file")
    assert (REQUEST.user, REQUEST.session_id, REQUEST.task_id) == ("alice", "s", "t")
    assert json.loads(REQUEST.context_json) == {
        "framework": "f",
        "tool_name": "v",
        "origin": "o",
        "agent_name": "fin",
    }


def test_no_arguments_are_an_empty_object() -> None:
    request = authorize_request(ToolCall("t"), Session())
    assert request.arguments_json == b"{}"
    assert request.context_json == b"{}"


def test_a_state_of_the_log_is_demanded_where_the_caller_says_so() -> None:
    request = authorize_request(ToolCall("t"), Session(at_least_as_fresh="log:7"))
    assert request.at_least_as_fresh.value == "log:7"
    assert not authorize_request(ToolCall("t"), Session()).HasField("at_least_as_fresh")


def test_two_requests_have_different_correlation_ids() -> None:
    ids = {authorize_request(ToolCall("t"), Session()).correlation_id for _ in range(50)}
    assert len(ids) == 50


def test_allow() -> None:
    decision = read_decision(REQUEST, allow())
    assert decision.allowed
    assert (decision.sequence, decision.revision, decision.policy_ids) == (7, 3, ("p",))
    assert read_decision(REQUEST, allow(obligations=[v1.Obligation(name="redact")])).allowed


@pytest.mark.parametrize(
    "answer",
    [
        v1.AuthorizeResponse(),
        allow(effect=v1.EFFECT_UNSPECIFIED),
        allow(effect=v1.EFFECT_DENY),
        allow(effect=9),
        allow(correlation_id=""),
        allow(correlation_id="another"),
        allow(decision_id=""),
        allow(reason=v1.DENY_REASON_FORBIDDEN),
        allow(reason=99),
        allow(obligations=[v1.Obligation(name="unheard-of")]),
    ],
)
def test_everything_else_is_a_deny(answer: v1.AuthorizeResponse) -> None:
    decision = read_decision(REQUEST, answer)
    assert not decision.allowed
    assert decision.refusal.startswith("DENIED: ")
    assert decision.refusal.endswith("The tool was not run.")


def test_reasons() -> None:
    deny = allow(effect=v1.EFFECT_DENY, reason=v1.DENY_REASON_SUSPENDED)
    assert read_decision(REQUEST, deny).reason == "SUSPENDED"
    newer = allow(effect=v1.EFFECT_DENY, reason=77)
    assert read_decision(REQUEST, newer).reason == "UNSPECIFIED"
    assert read_decision(REQUEST, newer).decided


def test_a_message_stays_on_one_line_and_is_bounded() -> None:
    text = refused("first\nsecond\r\x1b[31m\u2028third" + "x" * 5000, "R").refusal
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < 700


def test_names_of_the_context_are_bounded() -> None:
    request = authorize_request(ToolCall("t", visible_name="é" * 5000), Session())
    assert len(json.loads(request.context_json)["tool_name"].encode()) <= 1024


def test_no_payload_is_shown_by_repr() -> None:
    assert "secret" not in repr(ToolCall("t", {"a": "secret"}))
