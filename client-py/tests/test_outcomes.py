"""What became of calls is told in the background, once, within bounds, and never in the way."""

import threading
from typing import Any

import pytest

from zta import Guard, Outcome, RpcError, ToolCall, v1
from zta import _outcomes as outcomes
from zta._messages import Decision
from zta._outcomes import OutcomeReporter, call_outcome
from zta.testing import FakeServer

CALL = ToolCall("read_file", {"path": "a"})
OK = Outcome(True, 1.5, 12)


def decided(guard: Guard) -> Decision:
    decision = guard.decide("fin", CALL)
    assert decision.allowed
    return decision


def test_an_outcome_is_reported_with_what_the_guard_saw(server: FakeServer) -> None:
    failed = Outcome(False, 2.25, None, "TimeoutError", ("pii",))
    with server.guard("fin") as guard:
        for outcome in (OK, failed):
            guard.report("fin", CALL, decided(guard), outcome)
        assert guard.flush_outcomes()
        first, second = server.outcomes
    assert (first.agent, first.ok, first.outcome.size_bytes) == ("fin", True, 12)
    assert first.outcome.duration_us == 1500
    assert (second.ok, second.outcome.error_class) == (False, "TimeoutError")
    assert list(second.outcome.labels) == ["pii"]
    assert not second.outcome.HasField("size_bytes")


def test_what_was_denied_or_not_decided_is_not_reported(server: FakeServer) -> None:
    with server.guard("fin") as guard:
        denied = guard.decide("fin", ToolCall("delete_file", {}))
        guard.report("fin", CALL, denied, OK)
        server.stop()
        guard.report("fin", CALL, guard.decide("fin", CALL), OK)
        server.start()
    assert server.outcomes == []
    assert guard.outcomes_lost == 0


def test_reporting_can_be_turned_off(server: FakeServer) -> None:
    with server.guard("fin", report_outcomes=False) as guard:
        guard.report("fin", CALL, decided(guard), OK)
        assert guard.flush_outcomes()
    assert server.outcomes == []


def test_a_text_of_an_error_is_no_error_class() -> None:
    decision = Decision(allowed=True, message="", decision_id="d")
    for text in ("card 4111 was refused", "x" * 129, "a\nb", "é"):
        assert call_outcome(decision, Outcome(False, 1, None, text)).error_class == ""
    assert call_outcome(decision, Outcome(True, 1, None, "TimeoutError")).error_class == ""


def test_outcomes_wait_for_a_server_that_is_away(server: FakeServer) -> None:
    with server.guard("fin") as guard:
        decision = decided(guard)
        server.stop()
        guard.report("fin", CALL, decision, OK)
        assert not guard.flush_outcomes(300)
        server.start()
        assert guard.flush_outcomes(20_000)
    assert [r.outcome.decision_id for r in server.outcomes] == [decision.decision_id]
    assert guard.outcomes_lost == 0


def test_what_a_server_that_stays_away_is_not_told_is_counted(server: FakeServer) -> None:
    guard = server.guard("fin")
    decision = decided(guard)
    server.stop()
    for _ in range(3):
        guard.report("fin", CALL, decision, OK)
    guard.close()
    assert guard.outcomes_lost == 3


def test_what_the_server_refuses_is_counted_and_not_told_again(server: FakeServer) -> None:
    with server.guard("fin") as guard:
        decision = decided(guard)
        guard.report("fin", CALL, decision, OK)
        assert guard.flush_outcomes()
        guard.report("fin", CALL, decision, OK)  # the same again is no loss
        guard.report("fin", CALL, decision, Outcome(False, 1))
        assert guard.flush_outcomes()
        assert guard.outcomes_lost == 1
    assert len(server.outcomes) == 1


def test_the_queue_is_bounded_and_nobody_waits(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "QUEUE_MAX", 5)
    held, go = threading.Event(), threading.Event()

    class Stuck:
        def report_outcomes(self, reports: Any, **_: Any) -> list[Any]:
            held.set()
            assert go.wait(30)
            return [v1.RecordedOutcome() for _ in reports]

    reporter = OutcomeReporter({"fin": Stuck()})  # type: ignore[dict-item]
    reporter.put("fin", v1.CallOutcome())
    assert held.wait(30)
    for _ in range(7):
        reporter.put("fin", v1.CallOutcome())
    assert reporter.lost == 2
    go.set()
    assert reporter.flush(30)
    reporter.close()
    assert reporter.lost == 2
    reporter.put("fin", v1.CallOutcome())
    assert reporter.lost == 3, "after the end nothing is told"


def test_a_client_tells_what_became_of_each(server: FakeServer) -> None:
    with server.guard("fin", "ops") as guard:
        mine = v1.CallOutcome(decision_id=decided(guard).decision_id, result=v1.CALL_RESULT_OK)
        own, other = guard._clients["fin"], guard._clients["ops"]
        [refused] = other.report_outcomes([mine])
        assert isinstance(refused, RpcError)
        assert refused.reason == "DECISION_NOT_FOUND"
        [first], [again] = own.report_outcomes([mine]), own.report_outcomes([mine])
        assert isinstance(first, v1.RecordedOutcome)
        assert isinstance(again, v1.RecordedOutcome)
        assert (first.repeated_report, again.repeated_report) == (False, True)
