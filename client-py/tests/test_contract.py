"""One table, every framework: whom an agent turns to, for whom it acts, and what else it does."""

import concurrent.futures
import contextvars
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import DELETE, FAIL, READ, Ran
from support.rows import (
    FRAMEWORKS,
    in_every_framework,
    in_every_mode,
    where_control_is_handed_over,
)

from zta import Call, Decision, Outcome, ToolCall
from zta._arguments import digest, parse
from zta.testing import FakeServer

VECTORS = json.loads((Path(__file__).parent / "vectors" / "argument_digest.json").read_text())


@pytest.fixture(autouse=True)
def no_guard_in_crewai() -> Any:
    """CrewAI's hook is process-wide: each test begins and ends without it."""
    from crewai.hooks import clear_all_hooks

    from zta.integrations import crewai as adapter

    clear_all_hooks()
    adapter._claims.__init__()  # type: ignore[misc]
    yield
    clear_all_hooks()


@in_every_mode
def test_four_at_a_time_keep_their_sessions_apart(
    server: FakeServer, module: ModuleType, mode: str
) -> None:
    calls = [("read_file", {"path": str(n)}) for n in range(2)] + [DELETE]

    def as_user(number: int) -> Any:
        with guard.session(user=f"user-{number}", session_id=f"s-{number}"):
            return module.run(guard, "fin", calls, mode)

    pool = concurrent.futures.ThreadPoolExecutor(4)
    with server.guard("fin", timeout_ms=10_000) as guard, pool:
        contexts = [contextvars.copy_context() for _ in range(4)]
        running = [pool.submit(c.run, as_user, n) for n, c in enumerate(contexts)]
        outcomes = [future.result(timeout=100) for future in running]
    for outcome in outcomes:
        assert sorted(outcome.ran) == [("read_file", "0"), ("read_file", "1")]
        assert "DENIED: no policy permits fin to call delete_file" in outcome.seen
    decided = sorted((r.request.user, r.request.session_id, r.tool) for r in server.records)
    assert decided == sorted(
        (f"user-{n}", f"s-{n}", tool)
        for n in range(4)
        for tool in ("read_file", "read_file", "delete_file")
    )


@in_every_framework
def test_whoever_is_called_acts_for_the_caller(server: FakeServer, module: ModuleType) -> None:
    server.allow["main"] = {"delegate:fin", "read_file"}
    server.allow["fin"] = {"read_file", "delete_file"}
    with server.guard("main", "fin") as guard, guard.session(user="alice"):
        outcome = module.call_another(guard, "main", "fin", [READ, DELETE])
    # Both may read; only the one that was called may delete, and it was talked into it.
    assert outcome.ran == [("read_file", "a")]
    assert "acts for main, who may not call_tool delete_file" in outcome.seen
    assert "the end" in outcome.final
    asked = [(r.agent, r.action, r.tool, r.on_behalf_of, r.request.user) for r in server.records]
    assert asked[0] == ("main", "delegate", "fin", (), "alice")
    assert sorted(asked[1:]) == [
        ("fin", "call_tool", "delete_file", ("main",), "alice"),
        ("fin", "call_tool", "read_file", ("main",), "alice"),
    ]


@in_every_framework
def test_a_call_that_is_denied_does_not_reach_the_other_agent(
    server: FakeServer, module: ModuleType
) -> None:
    server.allow["main"] = {"read_file"}
    with server.guard("main", "fin") as guard:
        outcome = module.call_another(guard, "main", "fin", [READ])
    assert outcome.ran == []
    assert "DENIED: no policy permits main to delegate fin" in outcome.seen
    assert "the end" in outcome.final
    assert [r.agent for r in server.records] == ["main"]


@in_every_framework
def test_one_without_an_identity_is_not_called(server: FakeServer, module: ModuleType) -> None:
    server.allow["main"] = {"delegate:fin", "read_file"}
    with server.guard("main") as guard:
        outcome = module.call_another(guard, "main", "fin", [READ])
    assert outcome.ran == []
    assert "the other agent has no identity of its own" in outcome.seen
    assert server.records == []


@in_every_framework
@pytest.mark.parametrize("extend_chain", [True, False])
def test_whoever_acts_for_somebody_cannot_shed_it_by_calling_another(
    server: FakeServer, module: ModuleType, extend_chain: bool
) -> None:
    server.allow["boss"] = {"delegate:main", "delegate:fin"}
    server.allow["main"] = {"delegate:fin", "read_file"}
    with server.guard("boss", "main", "fin", extend_chain=extend_chain) as guard:
        grant = guard._clients["boss"].delegate("main")
        with guard.session(grants={"main": grant}):
            outcome = module.call_another(guard, "main", "fin", [READ])
    assert outcome.ran == []
    [record] = [r for r in server.records if r.agent == "fin"]
    assert (record.allowed, record.on_behalf_of) == (False, ("boss", "main"))


@in_every_framework
def test_without_a_chain_each_agent_acts_in_its_own_right(
    server: FakeServer, module: ModuleType
) -> None:
    server.allow["main"] = {"delegate:fin"}
    with server.guard("main", "fin", extend_chain=False) as guard:
        outcome = module.call_another(guard, "main", "fin", [READ, DELETE])
    assert outcome.ran == [("read_file", "a")]
    assert {r.on_behalf_of for r in server.records} == {()}


@in_every_framework
def test_the_chain_ends_with_the_call(server: FakeServer, module: ModuleType) -> None:
    server.allow["main"] = {"delegate:fin"}
    with server.guard("main", "fin") as guard, guard.session():
        assert module.call_another(guard, "main", "fin", [READ]).ran == []
        assert module.run(guard, "fin", [READ], module.MODES[0]).ran == [("read_file", "a")]


@in_every_framework
def test_a_chain_that_the_server_refuses_is_a_denial(
    server: FakeServer, module: ModuleType
) -> None:
    server.allow["main"] = {"delegate:fin", "read_file"}

    def refuse(*_args: Any) -> Any:
        raise ValueError("too deep")

    server.exchange = refuse  # type: ignore[method-assign]
    with server.guard("main", "fin") as guard:
        outcome = module.call_another(guard, "main", "fin", [READ])
    assert outcome.ran == []
    assert "the other agent may not act on behalf of this one" in outcome.seen
    assert "the end" in outcome.final


@where_control_is_handed_over
def test_a_hand_off_extends_the_chain(server: FakeServer, module: ModuleType) -> None:
    server.allow["main"] = {"delegate:fin", "read_file"}
    server.allow["fin"] = {"read_file", "delete_file"}
    with server.guard("main", "fin") as guard, guard.session(session_id="s"):
        outcome = module.hand_over(guard, "main", "fin", [READ, DELETE])
    assert outcome.ran == [("read_file", "a")]
    asked = [(r.agent, r.action, r.tool, r.on_behalf_of) for r in server.records]
    assert asked[0] == ("main", "delegate", "fin", ())
    assert {on for _, _, _, on in asked[1:]} == {("main",)}


@where_control_is_handed_over
@pytest.mark.parametrize("down", [False, True])
def test_a_hand_off_that_is_denied_does_not_happen(
    server: FakeServer, module: ModuleType, down: bool
) -> None:
    if down:
        server.allow["main"] = {"delegate:fin"}
    with server.guard("main", "fin") as guard:
        if down:
            server.stop()
        outcome = module.hand_over(guard, "main", "fin", [READ])
    assert outcome.ran == []
    assert "DENIED" in outcome.seen


@where_control_is_handed_over
def test_control_for_somebody_is_handed_over_inside_a_session_only(
    server: FakeServer, module: ModuleType
) -> None:
    from zta import Session

    server.allow["boss"] = {"delegate:main", "delegate:fin", "read_file"}
    server.allow["main"] = {"delegate:fin", "read_file"}
    with server.guard("boss", "main", "fin") as guard:
        grants = {"main": guard._clients["boss"].delegate("main")}
        original = guard.sessions.grant
        installed = Session(grants=grants)
        guard.sessions.grant = lambda agent, own: original(agent, own or installed)  # type: ignore[method-assign]
        outcome = module.hand_over(guard, "main", "fin", [READ])
    assert outcome.ran == []
    assert "control can be handed on only inside a session" in outcome.seen


@in_every_framework
@pytest.mark.parametrize("state", ["allowed", "denied", "down"])
def test_a_model_is_called_only_when_allowed(
    server: FakeServer, module: ModuleType, state: str
) -> None:
    with server.guard("fin", also=["call_model"]) as guard:
        if state == "down":
            server.stop()
        # Its name is the framework's: learn it from a first answer.
        calls, final = module.ask_model(guard, "fin")
        assert calls == 0
        assert "DENIED" in final
        if state == "allowed":
            [record] = server.records
            assert (record.action, record.request.resource.type) == ("call_model", "ZTA::Model")
            assert record.request.arguments_json == b"{}"
            server.allow["fin"].add(f"call_model:{record.tool}")
            assert module.ask_model(guard, "fin") == (1, "the end")


@in_every_framework
def test_models_and_messages_are_decided_only_where_asked_for(
    server: FakeServer, module: ModuleType
) -> None:
    with server.guard("fin", "ops") as guard:
        assert module.ask_model(guard, "fin")[0] == 1
        assert module.pass_on(guard, "fin", "ops")
    assert server.records == []


@in_every_framework
@pytest.mark.parametrize("state", ["allowed", "denied", "down"])
def test_a_message_arrives_only_when_allowed(
    server: FakeServer, module: ModuleType, state: str
) -> None:
    if state == "allowed":
        server.allow["fin"].add("send_message:ops")
    with server.guard("fin", "ops", also=["send_message"]) as guard:
        if state == "down":
            server.stop()
        arrived = module.pass_on(guard, "fin", "ops")
    assert arrived == (state == "allowed")
    if state != "down":
        [record] = server.records
        assert (record.agent, record.action, record.tool) == ("fin", "send_message", "ops")
        assert b"secret word" not in record.request.SerializeToString()


@in_every_framework
def test_only_permitted_tools_are_offered(server: FakeServer, module: ModuleType) -> None:
    with server.guard("fin") as guard:
        assert guard.permitted_tools("fin") == {"read_file"}
        assert guard.permitted_tools("fin", ["delete_file"]) == frozenset()
        assert guard.permitted_tools("nobody") == frozenset()
        assert module.offered(guard, "fin") == {"read_file"}
        server.allow["fin"].add("delete_file")
        assert module.offered(guard, "fin") == {"read_file", "delete_file"}
        server.stop()
        assert module.offered(guard, "fin") == set()


@in_every_framework
def test_a_tool_that_is_named_as_one_that_runs_code_asks_to_execute(
    server: FakeServer, module: ModuleType
) -> None:
    mode = module.MODES[0]
    with server.guard("fin", code_tools=["read_file"]) as guard:
        assert module.run(guard, "fin", [READ], mode).ran == []
        server.allow["fin"] = {"execute:read_file"}
        assert module.run(guard, "fin", [READ], mode).ran == [("read_file", "a")]
        assert module.offered(guard, "fin") == {"read_file"}
    assert {record.action for record in server.records} == {"execute"}


@in_every_mode
def test_outcomes_of_allowed_calls_are_told(
    server: FakeServer, module: ModuleType, mode: str
) -> None:
    told: list[tuple[str, Call, Decision, Outcome]] = []
    with server.guard("fin", outcomes=lambda *args: told.append(args)) as guard:
        module.run(guard, "fin", [READ, DELETE], mode)
    [(agent, call, decision, outcome)] = told
    assert agent == "fin"
    assert isinstance(call, ToolCall)
    assert (call.tool, decision.allowed, outcome.ok) == ("read_file", True, True)
    assert decision.decision_id == next(r.response.decision_id for r in server.records if r.allowed)
    assert outcome.duration_ms >= 0
    assert outcome.size_bytes is not None
    assert len("contents of a") <= outcome.size_bytes < 100


@in_every_mode
def test_the_server_learns_what_became_of_each_allowed_call(
    server: FakeServer, module: ModuleType, mode: str
) -> None:
    with server.guard("fin") as guard:
        module.run(guard, "fin", [READ, FAIL, DELETE], mode)
    assert guard.outcomes_lost == 0
    allowed = [r.response.decision_id for r in server.records if r.allowed]
    told = [reported.outcome.decision_id for reported in server.outcomes]
    assert sorted(told) == sorted(allowed), "each allowed call, and no denied one"
    by_path = {json.loads(r.record.request.arguments_json)["path"]: r.ok for r in server.outcomes}
    assert by_path == {"a": True, "missing": False}


@in_every_framework
def test_an_observer_of_outcomes_that_raises_changes_nothing(
    server: FakeServer, module: ModuleType
) -> None:
    def broken(*_args: Any) -> None:
        raise RuntimeError("secret detail")

    with server.guard("fin", outcomes=broken) as guard:
        outcome = module.run(guard, "fin", [READ], module.MODES[0])
    assert outcome.ran == [("read_file", "a")]
    assert "secret detail" not in outcome.seen
    assert "the end" in outcome.final


@in_every_framework
def test_an_mcp_tool_is_decided_by_its_servers_name_for_it(
    server: FakeServer, module: ModuleType, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.touch()
    server.allow["fin"] = {"files/read_file"}
    with server.guard("fin") as guard:
        module.through_mcp(guard, "fin", log)
    assert log.read_text().split() == ["read_file"]
    assert {r.tool for r in server.records} == {"files/read_file", "files/delete_file"}


@in_every_framework
def test_a_tool_runs_in_the_session_of_its_call(server: FakeServer, module: ModuleType) -> None:
    """Agents that it runs act for the same user and chain, in whatever thread it runs."""
    users = []

    class Look(Ran):
        """Notes for whom each tool ran."""

        def __call__(self, tool: str, argument: Any) -> None:
            users.append((tool, guard.current_session().user))
            super().__call__(tool, argument)

    server.allow["fin"].add("delete_file")
    with server.guard("fin") as guard, guard.session(user="alice"):
        module.run(guard, "fin", [READ, DELETE], module.MODES[0], Look())
    assert sorted(users) == [("delete_file", "alice"), ("read_file", "alice")]


@in_every_framework
def test_a_session_may_be_required(server: FakeServer, module: ModuleType) -> None:
    with server.guard("fin", require_session=True) as guard:
        outcome = module.run(guard, "fin", [READ], module.MODES[0])
        assert outcome.ran == []
        assert "it is in no session" in outcome.seen
        assert "the end" in outcome.final
        assert server.records == []
        with guard.session(user="alice"):
            assert module.run(guard, "fin", [READ], module.MODES[0]).ran == [("read_file", "a")]


@in_every_framework
def test_a_guard_that_is_closed_lets_nothing_run(server: FakeServer, module: ModuleType) -> None:
    guard = server.guard("fin")
    guard.close()
    outcome = module.run(guard, "fin", [READ], module.MODES[0])
    assert outcome.ran == []
    assert "DENIED" in outcome.seen
    assert "the end" in outcome.final


def _written(vector: dict[str, Any]) -> str:
    return f'{{"value": {vector["json"]}}}'


@in_every_framework
@pytest.mark.parametrize(
    "vector", [v for v in VECTORS if not v.get("error")], ids=lambda vector: vector["name"]
)
def test_the_digest_is_that_of_the_object_that_the_tool_receives(
    server: FakeServer, module: ModuleType, vector: dict[str, Any]
) -> None:
    server.allow["fin"] = {"take"}
    got: list[Any] = []
    with server.guard("fin") as guard:
        module.received(guard, "fin", _written(vector), got)
    try:
        wanted = digest(parse(_written(vector)))
    except ValueError:  # one level deeper than the vector, which is at the limit
        assert got == []
        return
    [record] = server.records
    assert record.allowed
    assert record.request.arguments_sha256 == wanted == digest({"value": got[0]})


MALFORMED = [v for v in VECTORS if v.get("error")]


@in_every_framework
@pytest.mark.parametrize("vector", MALFORMED, ids=lambda vector: vector["name"])
def test_the_tool_receives_what_was_decided_on_or_does_not_run(
    server: FakeServer, module: ModuleType, vector: dict[str, Any]
) -> None:
    server.allow["fin"] = {"take"}
    got: list[Any] = []
    with server.guard("fin") as guard:
        try:
            module.received(guard, "fin", _written(vector), got)
        except (ValueError, RecursionError, UnicodeError):
            assert got == []  # the framework itself could not read it
    allowed = [r.request.arguments_sha256 for r in server.records if r.allowed]
    if module is FRAMEWORKS["strands"] and not got:
        # It makes {} of what is no JSON: that is decided on, and the tool misses its argument.
        assert allowed in ([], [digest({})])
        return
    assert [digest({"value": value}) for value in got] == allowed


def test_every_framework_has_a_row() -> None:
    assert set(FRAMEWORKS) == {"strands", "crewai", "autogen"}
