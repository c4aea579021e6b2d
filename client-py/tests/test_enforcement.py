"""One table, every framework: what a guard must hold, with the real frameworks."""

import time
from types import ModuleType
from typing import Any

import pytest
from support import DELETE, READ, autogen_run, crewai_run, strands_run

from zta import Guard, v1
from zta.testing import FakeServer

FRAMEWORKS = {"strands": strands_run, "crewai": crewai_run, "autogen": autogen_run}
EVERY_MODE = [(module, mode) for module in FRAMEWORKS.values() for mode in module.MODES]
EVERY_MODE_IDS = [f"{name}-{mode}" for name, module in FRAMEWORKS.items() for mode in module.MODES]
in_every_mode = pytest.mark.parametrize(("module", "mode"), EVERY_MODE, ids=EVERY_MODE_IDS)
in_every_framework = pytest.mark.parametrize(
    ("module", "mode"), [(m, m.MODES[0]) for m in FRAMEWORKS.values()], ids=list(FRAMEWORKS)
)


@pytest.fixture(autouse=True)
def no_guard_in_crewai() -> Any:
    """CrewAI's hook is process-wide: each test begins and ends without it."""
    from crewai.hooks import clear_all_hooks

    clear_all_hooks()
    yield
    clear_all_hooks()


@in_every_mode
def test_allowed_runs_once_and_denied_never(
    server: FakeServer, module: ModuleType, mode: str
) -> None:
    with server.guard("fin") as guard:
        outcome = module.run(guard, "fin", [READ, DELETE], mode)
    assert outcome.ran == [("read_file", "a")]
    assert "contents of a" in outcome.seen
    assert "DENIED: no policy permits fin to call delete_file" in outcome.seen
    assert "the end" in outcome.final
    decided = sorted((record.tool, record.allowed) for record in server.records)
    assert decided == [("delete_file", False), ("read_file", True)]


@in_every_framework
def test_the_request_says_who_what_and_where_from(
    server: FakeServer, module: ModuleType, mode: str
) -> None:
    with server.guard("fin") as guard, guard.session(user="alice", session_id="s-1"):
        module.run(guard, "fin", [READ], mode)
    [record] = server.records
    request = record.request
    assert record.agent == "fin"
    assert request.resource.type == "ZTA::Tool"
    assert request.arguments_json == b'{"path":"a"}'
    assert (request.user, request.session_id) == ("alice", "s-1")
    assert b"read_file" in request.context_json
    assert b'"origin": "function:support.' in request.context_json
    assert len(request.arguments_sha256) == 32


def _slow(_agent: str, _request: Any, _context: Any) -> Any:
    time.sleep(1.5)
    return v1.AuthorizeResponse()


def _error(_agent: str, _request: Any, context: Any) -> Any:
    import grpc

    context.abort(grpc.StatusCode.INTERNAL, "secret path /srv/x")


def _allow_of_another_request(_agent: str, _request: Any, _context: Any) -> Any:
    return v1.AuthorizeResponse(effect=v1.EFFECT_ALLOW, decision_id="d", correlation_id="another")


def _allow_with_an_obligation(_agent: str, request: Any, _context: Any) -> Any:
    return v1.AuthorizeResponse(
        effect=v1.EFFECT_ALLOW,
        decision_id="d",
        correlation_id=request.correlation_id,
        obligations=[v1.Obligation(name="redact", policy_id="p")],
    )


def _allow_and_deny(_agent: str, request: Any, _context: Any) -> Any:
    return v1.AuthorizeResponse(
        effect=v1.EFFECT_ALLOW,
        decision_id="d",
        correlation_id=request.correlation_id,
        reason=v1.DENY_REASON_FORBIDDEN,
    )


FAULTS = {
    "garbage": lambda *_: b"\xff\xff\xff\xff",
    "empty": lambda *_: b"",
    "timeout": _slow,
    "error": _error,
    "another-request": _allow_of_another_request,
    "unknown-obligation": _allow_with_an_obligation,
    "contradiction": _allow_and_deny,
    "unknown-effect": lambda *_: v1.AuthorizeResponse(effect=7),
}


@in_every_framework
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_answer_lets_nothing_run(
    server: FakeServer, module: ModuleType, mode: str, fault: str
) -> None:
    server.fault = FAULTS[fault]
    with server.guard("fin", timeout_ms=400) as guard:
        outcome = module.run(guard, "fin", [READ], mode)
    assert outcome.ran == []
    assert "DENIED" in outcome.seen
    assert "secret path" not in outcome.seen
    assert "the end" in outcome.final


@in_every_mode
def test_server_down_lets_nothing_run(server: FakeServer, module: ModuleType, mode: str) -> None:
    with server.guard("fin") as guard:
        server.stop()
        outcome = module.run(guard, "fin", [READ, DELETE], mode)
    assert outcome.ran == []
    assert "DENIED: authorisation service unavailable. The tool was not run." in outcome.seen
    assert "the end" in outcome.final


@in_every_framework
@pytest.mark.parametrize("where", ["_request", "_carry_out", "_told"])
def test_a_defect_in_the_guard_lets_nothing_run(
    server: FakeServer, module: ModuleType, mode: str, where: str, monkeypatch: Any
) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("secret detail")

    with server.guard("fin") as guard:
        monkeypatch.setattr(guard, where, broken)
        outcome = module.run(guard, "fin", [READ], mode)
    assert outcome.ran == []
    assert "secret detail" not in outcome.seen
    assert "the end" in outcome.final


@in_every_framework
def test_an_unmapped_agent_is_denied(server: FakeServer, module: ModuleType, mode: str) -> None:
    with server.guard("ops") as guard:
        outcome = module.run(guard, "fin", [READ, DELETE], mode)
    assert outcome.ran == []
    assert "this agent has no identity of its own" in outcome.seen
    assert server.records == []


@in_every_framework
def test_two_guards_do_not_mix(server: FakeServer, module: ModuleType, mode: str) -> None:
    with FakeServer(allow={"fin": ["delete_file"]}) as other:
        one, two = server.guard("fin"), other.guard("fin")
        with one, two:
            assert module.run(one, "fin", [READ, DELETE], mode).ran == [("read_file", "a")]
            assert module.run(two, "fin", [READ, DELETE], mode).ran == [("delete_file", "b")]
        assert len(server.records) == len(other.records) == 2


@in_every_framework
def test_the_same_call_is_decided_each_time(
    server: FakeServer, module: ModuleType, mode: str
) -> None:
    with server.guard("fin") as guard:
        outcome = module.run(guard, "fin", [READ, ("read_file", {"path": "c"})], mode)
        assert outcome.ran.sort() is None
        server.allow["fin"] = set()
        again = module.run(guard, "fin", [READ], mode)
    assert sorted(outcome.ran) == [("read_file", "a"), ("read_file", "c")]
    assert again.ran == []
    assert len(server.records) == 3


def test_guards_share_nothing_by_session(server: FakeServer) -> None:
    with server.guard("fin") as one, server.guard("ops") as two, one.session(user="alice"):
        assert one.current_session().user == "alice"
        assert two.current_session().user == ""


def test_one_identity_for_two_agents_is_refused(server: FakeServer) -> None:
    from zta import ConfigurationError

    folder = server.credential("fin")
    with pytest.raises(ConfigurationError, match="share"):
        Guard({"fin": folder, "ops": folder})
