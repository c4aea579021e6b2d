"""The client against the real server: identity, decisions, bad input, life and death."""

import datetime
import json
import time
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from zta import (
    AsyncClient,
    Client,
    Credential,
    EnrollmentError,
    Guard,
    RpcError,
    Session,
    ToolCall,
    enroll,
    v1,
)
from zta._arguments import digest, parse
from zta._errors import ArgumentsError
from zta._identity import spiffe_ids
from zta.testing import EmbeddedServer
from zta.testing._pki import Authority, key_pem, new_key

SEARCH = ToolCall("web_search", {"query": "x"})
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "argument_digest.json").read_text())


def document(collection: Any, path: Any = "p") -> ToolCall:
    return ToolCall("read_document", {"collection": collection, "path": path})


@pytest.mark.parametrize(
    ("agent", "call", "reason"),
    [
        ("research", SEARCH, ""),
        ("research", ToolCall("publish_report", {"title": "t", "body": "b"}), "NOT_PERMITTED"),
        ("research", ToolCall("never_heard_of"), "NOT_PERMITTED"),
        ("analysis", document("dataset"), ""),
        ("analysis", document("secret"), "FORBIDDEN"),
        ("writing", document("dataset"), "NOT_PERMITTED"),
        ("writing", document("report"), ""),
        ("writing", document("secret"), "FORBIDDEN"),
        ("writing", document(5), "INVALID_ARGUMENTS"),
        ("writing", document({"__entity": {"type": "ZTA::Role", "id": "x"}}), "INVALID_ARGUMENTS"),
        ("writing", ToolCall("read_document", {"collection": "report"}), "INVALID_ARGUMENTS"),
    ],
)
def test_decisions(crew_guard: Guard, agent: str, call: ToolCall, reason: str) -> None:
    decision = crew_guard.decide(agent, call)
    assert decision.decided
    assert (decision.allowed, decision.reason) == (not reason, reason)
    assert decision.decision_id
    assert decision.sequence is not None
    assert decision.revision >= 2
    if decision.allowed or reason == "FORBIDDEN":
        assert decision.policy_ids
        if reason:
            assert decision.policy_ids[0] in decision.refusal


def test_what_is_decided_is_on_record(crew_guard: Guard, crew_server: EmbeddedServer) -> None:
    with crew_guard.session(user="alice", session_id="s-1"):
        decision = crew_guard.decide("research", SEARCH)
    page = crew_server.admin.audit.ListEvents(
        v1.ListEventsRequest(page_size=50, descending=True, types=["decision"])
    )
    [event] = [event for event in page.events if event.sequence == decision.sequence]
    leaf = event.leaf.decode()
    assert "spiffe://zta.local/agent/research" in leaf
    assert decision.decision_id in leaf
    assert "alice" in leaf


def test_a_line_break_in_a_users_name_is_refused_or_escaped(
    crew_guard: Guard, crew_server: EmbeddedServer
) -> None:
    with crew_guard.session(user="alice\n2026 forged line"):
        decision = crew_guard.decide("research", SEARCH)
    assert decision.allowed == decision.decided
    assert "\n2026 forged line" not in crew_server.log.read_text()


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS if not v.get("error")], ids=lambda vector: vector["name"]
)
def test_the_server_computes_the_same_digest(crew_guard: Guard, vector: dict[str, Any]) -> None:
    decision = crew_guard.decide("research", ToolCall("web_search", parse(vector["json"])))
    assert decision.allowed, decision


@pytest.mark.parametrize(
    "vector",
    # On the wire no arguments at all are an empty object.
    [vector for vector in VECTORS if vector.get("error") and vector["json"]],
    ids=lambda vector: vector["name"],
)
def test_the_server_refuses_the_same_texts(
    crew_credentials: dict[str, Path], vector: dict[str, Any]
) -> None:
    with pytest.raises(ArgumentsError):
        digest(parse(vector["json"]))
    request = v1.AuthorizeRequest(
        action=v1.EntityRef(type="ZTA::Action", id="call_tool"),
        resource=v1.EntityRef(type="ZTA::Tool", id="web_search"),
        arguments_json=vector["json"].encode(),
    )
    with Client(crew_credentials["research"]) as client:
        decision = client.authorize(request)
    assert decision.reason == "INVALID_ARGUMENTS"


def test_a_digest_that_does_not_fit(crew_credentials: dict[str, Path]) -> None:
    request = v1.AuthorizeRequest(
        action=v1.EntityRef(type="ZTA::Action", id="call_tool"),
        resource=v1.EntityRef(type="ZTA::Tool", id="web_search"),
        arguments_json=b'{"query":"x"}',
        arguments_sha256=bytes(32),
    )
    with Client(crew_credentials["research"]) as client:
        assert client.authorize(request).reason == "INVALID_ARGUMENTS"


def test_the_context_cannot_set_the_servers_facts(crew_credentials: dict[str, Path]) -> None:
    request = v1.AuthorizeRequest(
        action=v1.EntityRef(type="ZTA::Action", id="call_tool"),
        resource=v1.EntityRef(type="ZTA::Tool", id="web_search"),
        context_json=b'{"zta": {"risk": 0}}',
    )
    with Client(crew_credentials["research"]) as client:
        assert client.authorize(request).reason == "INVALID_ARGUMENTS"


def test_arguments_over_the_limit_are_named(crew_credentials: dict[str, Path]) -> None:
    request = v1.AuthorizeRequest(
        action=v1.EntityRef(type="ZTA::Action", id="call_tool"),
        resource=v1.EntityRef(type="ZTA::Tool", id="web_search"),
        arguments_json=json.dumps({"query": "x" * 300_000}).encode(),
    )
    with Client(crew_credentials["research"]) as client:
        decision = client.authorize(request)
    assert decision.reason == "INVALID_ARGUMENTS"
    assert "262144" in decision.message


def test_an_unknown_action_is_an_error(crew_credentials: dict[str, Path]) -> None:
    request = v1.AuthorizeRequest(
        action=v1.EntityRef(type="ZTA::Action", id="no_such_action"),
        resource=v1.EntityRef(type="ZTA::Tool", id="web_search"),
    )
    with Client(crew_credentials["research"]) as client, pytest.raises(RpcError) as error:
        client.authorize(request)
    assert error.value.reason == "ACTION_UNKNOWN"
    assert error.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_a_batch_keeps_order_and_one_bad_item_is_only_its_own(
    crew_credentials: dict[str, Path],
) -> None:
    bad = v1.AuthorizeRequest(
        action=v1.EntityRef(type="ZTA::Action", id="no_such_action"),
        resource=v1.EntityRef(type="ZTA::Tool", id="x"),
        correlation_id="bad",
    )
    with Client(crew_credentials["research"]) as client:
        results = client.batch_authorize([SEARCH, bad, ToolCall("publish_report"), SEARCH])
    assert isinstance(results[1], RpcError)
    assert [getattr(result, "allowed", None) for result in results] == [True, None, False, True]


async def _authenticate(credential: Path) -> v1.AuthenticateResponse:
    client = AsyncClient(credential)
    answer = await client.authenticate()
    await client.aclose()
    return answer


def test_access_tokens(crew_credentials: dict[str, Path]) -> None:
    import asyncio

    answer = asyncio.run(_authenticate(crew_credentials["research"]))
    assert answer.principal.id == "spiffe://zta.local/agent/research"
    bearer = (("authorization", f"Bearer {answer.access_token}"),)
    request = v1.AuthorizeRequest(
        action=v1.EntityRef(type="ZTA::Action", id="call_tool"),
        resource=v1.EntityRef(type="ZTA::Tool", id="web_search"),
    )
    with Client(crew_credentials["research"]) as client:
        accepted = client.authorization.Authorize(request, metadata=bearer)
        assert accepted.effect == v1.EFFECT_ALLOW
        tampered = (("authorization", f"Bearer {answer.access_token[:-6]}AAAAAA"),)
        with pytest.raises(RpcError) as error:
            client.authorization.Authorize(request, metadata=tampered)
        assert error.value.reason == "TOKEN_INVALID"
    with Client(crew_credentials["writing"]) as thief, pytest.raises(RpcError) as error:
        thief.authorization.Authorize(request, metadata=bearer)
    assert error.value.reason == "TOKEN_BINDING"


def test_a_challenge_is_good_once_and_only_for_its_key(crew_credentials: dict[str, Path]) -> None:
    with Client(crew_credentials["research"]) as client, Client(crew_credentials["writing"]) as two:
        challenge = client.authentication.GetChallenge(v1.GetChallengeRequest()).challenge
        client.authentication.Authenticate(client._signed(challenge))
        with pytest.raises(RpcError) as error:
            client.authentication.Authenticate(client._signed(challenge))
        assert error.value.reason == "CHALLENGE_INVALID"
        challenge = client.authentication.GetChallenge(v1.GetChallengeRequest()).challenge
        with pytest.raises(RpcError) as error:
            client.authentication.Authenticate(two._signed(challenge))
        assert error.value.reason == "SIGNATURE_INVALID"


def test_renewal(crew_server: EmbeddedServer) -> None:
    folder = crew_server.agent(f"renewing-{uuid.uuid4().hex[:8]}", ["researcher"])
    with Client(folder) as client:
        before = client.credential
        time.sleep(1.1)
        client._renewer._renew()
        assert client.credential.not_after > before.not_after
        assert client.credential.key_pem == before.key_pem
        assert client.authorize(SEARCH).allowed
        assert Credential.load(folder) == client.credential


def test_a_join_token_is_good_once(crew_server: EmbeddedServer, tmp_path: Path) -> None:
    name = f"once-{uuid.uuid4().hex[:8]}"
    admin = crew_server.admin
    admin.agents.Register(v1.RegisterRequest(name=name))
    token = admin.agents.CreateJoinToken(v1.CreateJoinTokenRequest(agent=name)).join_token
    enroll(token, crew_server.endpoint, tmp_path / "one")
    with pytest.raises(EnrollmentError, match="JOIN_TOKEN_INVALID"):
        enroll(token, crew_server.endpoint, tmp_path / "two")
    with pytest.raises(RpcError) as error:
        admin.agents.Register(v1.RegisterRequest(name=name))
    assert error.value.reason == "AGENT_EXISTS"


def test_a_csr_that_asks_for_more_gets_neither(crew_server: EmbeddedServer) -> None:
    name = f"greedy-{uuid.uuid4().hex[:8]}"
    admin = crew_server.admin
    admin.agents.Register(v1.RegisterRequest(name=name))
    token = admin.agents.CreateJoinToken(v1.CreateJoinTokenRequest(agent=name)).join_token
    foreign = x509.UniformResourceIdentifier("spiffe://zta.local/agent/admin")
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([foreign]), critical=False)
        .sign(new_key(), hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    ca = Credential.load(crew_server.admin_credential).ca_pem
    with grpc.secure_channel(crew_server.endpoint, grpc.ssl_channel_credentials(ca)) as channel:
        answer = v1.AgentServiceStub(channel).Enroll(
            v1.EnrollRequest(join_token=token, csr_der=csr), timeout=10
        )
    leaf = x509.load_pem_x509_certificate(answer.certificate.certificate_pem.encode())
    assert spiffe_ids(leaf) == [f"spiffe://zta.local/agent/{name}"]
    try:
        basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not basic.ca
    except x509.ExtensionNotFound:
        pass


@pytest.mark.parametrize("kind", ["no certificate", "a certificate of another authority"])
def test_without_an_identity_nothing_is_decided(crew_server: EmbeddedServer, kind: str) -> None:
    ca = Credential.load(crew_server.admin_credential).ca_pem
    credentials = grpc.ssl_channel_credentials(ca)
    if kind != "no certificate":
        key = new_key()
        hour = datetime.timedelta(hours=1)
        issued = Authority().agent("research", key.public_key(), hour)
        credentials = grpc.ssl_channel_credentials(
            ca, key_pem(key), issued.certificate_pem.encode()
        )
    with grpc.secure_channel(crew_server.endpoint, credentials) as channel:
        request = v1.AuthorizeRequest(
            action=v1.EntityRef(type="ZTA::Action", id="call_tool"),
            resource=v1.EntityRef(type="ZTA::Tool", id="web_search"),
        )
        with pytest.raises(grpc.RpcError) as error:
            v1.AuthorizationServiceStub(channel).Authorize(request, timeout=5)
    assert error.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize(
    ("act", "reason"), [("Suspend", "SUSPENDED"), ("Isolate", "ISOLATED"), ("Revoke", "REVOKED")]
)
def test_the_next_call_of_an_open_connection_is_denied(
    crew_server: EmbeddedServer, act: str, reason: str
) -> None:
    name = f"{act.lower()}-{uuid.uuid4().hex[:8]}"
    admin = crew_server.admin.agents
    with crew_server.guard({name: ["researcher"]}, timeout_ms=5_000) as guard:
        assert guard.decide(name, SEARCH).allowed
        getattr(admin, act)(getattr(v1, f"{act}Request")(agent=name, note="test"))
        decision = guard.decide(name, SEARCH)
        assert not decision.allowed
        assert decision.reason == reason
        if act != "Revoke":
            admin.Reinstate(v1.ReinstateRequest(agent=name))
            assert guard.decide(name, SEARCH).allowed


def test_an_agent_may_not_administer(crew_credentials: dict[str, Path]) -> None:
    with Client(crew_credentials["research"]) as client, pytest.raises(RpcError) as error:
        client.agents.Register(v1.RegisterRequest(name="friend", roles=["administrator"]))
    assert error.value.reason == "NOT_PERMITTED"


def test_a_restart_keeps_everything(own_server: EmbeddedServer) -> None:
    with own_server.guard({"research": ["researcher"]}, timeout_ms=5_000) as guard:
        first = guard.decide("research", SEARCH)
        own_server.stop()
        assert not guard.decide("research", SEARCH).allowed
        own_server.start()
        deadline = time.monotonic() + 15
        while not (again := guard.decide("research", SEARCH)).allowed:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert again.sequence > first.sequence
    own_server.cli("audit", "verify")


def test_a_kill_loses_no_answered_decision(own_server: EmbeddedServer) -> None:
    with own_server.guard({"research": ["researcher"]}, timeout_ms=5_000) as guard:
        answered = [guard.decide("research", SEARCH) for _ in range(50)]
        own_server.kill()
    assert all(decision.allowed for decision in answered)
    own_server.start()
    own_server.cli("audit", "verify")
    request = v1.ListEventsRequest(page_size=1000, types=["decision"])
    leaves = [event.leaf.decode() for event in own_server.admin.audit.ListEvents(request).events]
    for decision in answered:
        assert any(decision.decision_id in leaf for leaf in leaves)


def test_a_message_of_the_log_never_holds_arguments(own_server: EmbeddedServer) -> None:
    secret = "s3cr3t-argument-value"
    with own_server.guard({"research": ["researcher"]}, timeout_ms=5_000) as guard:
        guard.decide("research", ToolCall("web_search", {"query": secret}))
        guard.decide("research", document({"x": secret}), session=Session(user="alice"))
    own_server.stop()
    assert secret not in own_server.log.read_text()
