"""The actions of a guard against the real server: its policies, its chains, its record."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import DELETE, POLICIES, READ, Ran, strands_run
from support.rows import in_every_framework

from zta import Client, CodeExecution, Delegation, Guard, Message, ModelCall, ToolCall, v1
from zta.integrations.strands import SecurityWrapper
from zta.testing import EmbeddedServer

RULES = """
@id("all.read") permit (principal in ZTA::Role::"reader",
  action == ZTA::Action::"call_tool", resource == ZTA::Tool::"read_file");
@id("all.delete") permit (principal in ZTA::Role::"deleter",
  action == ZTA::Action::"call_tool", resource == ZTA::Tool::"delete_file");
@id("all.delegate") permit (principal in ZTA::Role::"boss",
  action == ZTA::Action::"delegate", resource is ZTA::Agent in ZTA::Role::"reader");
@id("all.talk") permit (principal in ZTA::Role::"reader",
  action == ZTA::Action::"send_message", resource is ZTA::Agent in ZTA::Role::"boss");
@id("all.models") permit (principal in ZTA::Role::"reader",
  action == ZTA::Action::"call_model", resource == ZTA::Model::"scripted");
@id("all.code") permit (principal in ZTA::Role::"reader",
  action == ZTA::Action::"execute", resource == ZTA::Tool::"code");
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server with the rules above."""
    folder = tmp_path_factory.mktemp("rules")
    (folder / "rules.cedar").write_text(RULES)
    with EmbeddedServer() as server:
        server.apply(POLICIES, folder)
        yield server


@pytest.fixture(scope="module")
def credentials(server: EmbeddedServer) -> dict[str, Path]:
    """The boss may have things read; the worker may read and delete."""
    return {
        "main": server.agent("main", ["boss", "reader"]),
        "fin": server.agent("fin", ["reader", "deleter"]),
    }


@pytest.fixture
def guard(credentials: dict[str, Path]) -> Iterator[Guard]:
    """A guard for both."""
    from crewai.hooks import clear_all_hooks

    clear_all_hooks()
    with Guard(credentials, timeout_ms=10_000) as guard:
        yield guard
    clear_all_hooks()


def events(admin: Client, after: int, kind: str = "decision") -> list[str]:
    """The newest events of the log, as they stand there."""
    request = v1.ListEventsRequest(page_size=200, descending=True, types=[kind])
    page = admin.audit.ListEvents(request)
    return [event.leaf.decode() for event in page.events if event.sequence > after]


def test_each_action_is_decided_on_its_own_kind_of_resource(guard: Guard) -> None:
    def allowed(agent: str, call: Any) -> bool:
        decision = guard.decide(agent, call)
        assert decision.decided, decision
        return decision.allowed

    assert allowed("fin", ModelCall("scripted"))
    assert not allowed("fin", ModelCall("another"))
    assert allowed("fin", Message("main"))
    assert not allowed("main", Message("fin"))
    assert allowed("fin", CodeExecution("code", {"language": "python", "code": "1"}))
    assert not allowed("fin", CodeExecution("shell", {"code": "1"}))
    assert not allowed("fin", ToolCall("code"))
    assert allowed("main", Delegation("fin"))
    assert not allowed("fin", Delegation("main"))


def test_what_is_permitted_is_listed(guard: Guard) -> None:
    assert guard.permitted_tools("fin") == {"read_file", "delete_file"}
    assert guard.permitted_tools("main", ["read_file", "delete_file"]) == {"read_file"}
    assert guard.permitted_tools("fin", action="execute") == {"code"}


def test_a_tool_that_a_schema_declares_is_listed_by_its_own_action(crew_guard: Guard) -> None:
    assert crew_guard.permitted_tools("analysis") == {"summarize", "read_document"}
    assert crew_guard.permitted_tools("research", ["read_document", "web_search"]) == {"web_search"}


@in_every_framework
def test_whoever_is_called_acts_for_the_caller(
    server: EmbeddedServer, guard: Guard, module: Any
) -> None:
    before = guard.decide("fin", ToolCall("read_file")).sequence
    assert before is not None
    with guard.session(user="alice", session_id="s-1"):
        outcome = module.call_another(guard, "main", "fin", [READ, DELETE])
    assert outcome.ran == [("read_file", "a")]
    assert "DENIED" in outcome.seen
    assert "the end" in outcome.final
    leaves = events(server.admin, before)
    of_worker = [leaf for leaf in leaves if '"delegation"' in leaf]
    assert len(of_worker) == 2
    assert all("spiffe://zta.local/agent/main" in leaf for leaf in of_worker)
    assert len(events(server.admin, before, "delegated")) == 1


@in_every_framework
def test_what_came_of_a_call_for_somebody_is_on_record_beside_its_decision(
    server: EmbeddedServer, guard: Guard, module: Any
) -> None:
    before = guard.decide("fin", ToolCall("read_file")).sequence
    assert before is not None
    with guard.session(user="alice", session_id="s-1"):
        module.call_another(guard, "main", "fin", [READ, DELETE])
    assert guard.flush_outcomes(10_000)
    assert guard.outcomes_lost == 0
    decisions = {leaf["id"]: leaf for leaf in map(json.loads, events(server.admin, before))}
    outcomes = [json.loads(leaf) for leaf in events(server.admin, before, "outcome")]
    of_tools = [outcome for outcome in outcomes if outcome["resource"]["type"] == "ZTA::Tool"]
    assert [outcome["resource"]["id"] for outcome in of_tools] == ["read_file"]
    assert of_tools[0]["detail"]["result"] == "ok"
    decision = decisions[of_tools[0]["detail"]["decision_id"]]
    assert decision["effect"] == "allow"
    assert "delegation" in decision["detail"]
    assert of_tools[0]["actor"] == decision["actor"]


@in_every_framework
def test_secrets_are_redacted_in_the_record(
    server: EmbeddedServer, guard: Guard, module: Any
) -> None:
    before = guard.decide("fin", ToolCall("read_file")).sequence
    assert before is not None
    secret = f"s3cr3t-{module.__name__}"
    known = f"plain-{module.__name__}"
    calls = [("read_file", {"path": known, "password": secret})]
    module.run(guard, "fin", calls, module.MODES[0])
    page = server.admin.audit.ListEvents(
        v1.ListEventsRequest(page_size=200, descending=True, types=["decision"])
    )
    recorded = [event for event in page.events if event.sequence > before]
    assert recorded
    for event in recorded:
        assert secret.encode() not in event.SerializeToString()
    stored = b"".join(file.read_bytes() for file in server.data_dir.rglob("*") if file.is_file())
    assert known.encode() in stored
    assert secret.encode() not in stored


def test_the_wrapper_against_the_real_server(guard: Guard) -> None:
    ran = Ran()
    fin = strands_run.agent(None, "fin", [[READ], "the end"], ran)
    wrapped = SecurityWrapper(fin, guard)
    assert wrapped.gaps == []
    assert str(wrapped("go")).strip() == "the end"
    assert ran.calls == [("read_file", "a")]
    assert set(fin.model.offered) == {"read_file", "delete_file"}
