"""A policy decision server in this process, which decides from a table."""

from __future__ import annotations

import datetime
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from google.protobuf.timestamp_pb2 import Timestamp

from zta import v1
from zta._arguments import digest, parse
from zta._errors import ArgumentsError
from zta._guard import Guard
from zta._identity import create_folder, write_folder
from zta.testing._pki import Authority, key_pem, new_key

_HOST = "127.0.0.1"
Fault = Callable[[str, v1.AuthorizeRequest, Any], "v1.AuthorizeResponse | bytes"]


@dataclass(frozen=True)
class Recorded:
    """One decision that the fake gave."""

    agent: str
    request: v1.AuthorizeRequest
    response: v1.AuthorizeResponse
    on_behalf_of: tuple[str, ...] = ()
    """The agents that it acted for, the first one first."""

    @property
    def tool(self) -> str:
        """The id of the resource; of an agent, its name."""
        return _resource(self.request)

    @property
    def action(self) -> str:
        """The id of the action, for example `call_tool`."""
        return self.request.action.id

    @property
    def allowed(self) -> bool:
        """Whether the answer was an allow."""
        return self.response.effect == v1.EFFECT_ALLOW


@dataclass(frozen=True)
class Reported:
    """What a guard said came of a call."""

    agent: str
    record: Recorded
    """The decision on the call."""
    outcome: v1.CallOutcome

    @property
    def ok(self) -> bool:
        """Whether the call ended with a result."""
        return self.outcome.result == v1.CALL_RESULT_OK


class FakeServer:
    """Answers the calls of agents over mutual TLS: decisions, outcomes, grants and renewals.

    `allow` names, for each agent, the tools it may call, and with the action before it whatever
    else: `delegate:ops`, `call_model:m`. Everything else is NOT_PERMITTED. Who acts for others
    may do what all of them may. `forbid` maps a tool to the id of the policy that forbids it to
    everyone.
    """

    def __init__(
        self,
        allow: Mapping[str, Iterable[str]] | None = None,
        forbid: Mapping[str, str] | None = None,
        *,
        lifetime_s: float = 3600.0,
    ) -> None:
        """Prepare a server; `start` or a `with` block starts it."""
        self.allow = {agent: set(tools) for agent, tools in (allow or {}).items()}
        self.forbid = dict(forbid or {})
        self.records: list[Recorded] = []
        """Every decision that was given, in order."""
        self.outcomes: list[Reported] = []
        """Every outcome that was reported, once for a decision; guards report after the call."""
        self.renewals: list[str] = []
        """The agents whose certificates were renewed."""
        self.fault: Fault | None = None
        """Replaces the table: return any answer, raw bytes, or abort with the grpc context."""
        self.obligations: tuple[str, ...] = ()
        """Asked for with each allow."""
        self.endpoint = ""
        self._lifetime = datetime.timedelta(seconds=lifetime_s)
        self._authority = Authority()
        self._server_pair = self._authority.server()
        self._lock = threading.Lock()
        self._folder = Path(tempfile.mkdtemp(prefix="zta-fake-"))
        self._server: grpc.Server | None = None

    def start(self) -> FakeServer:
        """Listen; after `stop` on the same port again."""
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
        server.add_generic_rpc_handlers((_handlers(self),))
        credentials = grpc.ssl_server_credentials(
            [self._server_pair], self._authority.pem, require_client_auth=True
        )
        port = server.add_secure_port(self.endpoint or f"{_HOST}:0", credentials)
        server.start()
        self._server, self.endpoint = server, f"{_HOST}:{port}"
        return self

    def stop(self) -> None:
        """Stop at once; calls in flight fail."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def credential(self, agent: str) -> Path:
        """A credential folder for an agent, made at the first ask."""
        folder = self._folder / agent
        if not folder.exists():
            key = new_key()
            create_folder(folder, key_pem(key))
            issued = self._authority.agent(agent, key.public_key(), self._lifetime)
            write_folder(folder, endpoint=self.endpoint, key_pem=key_pem(key), issued=issued)
        return folder

    def guard(self, *agents: str, **options: Any) -> Guard:
        """A guard for agents of these names, each under an identity of its own."""
        return Guard({agent: self.credential(agent) for agent in agents}, **options)

    def may(self, agent: str, action: str, resource: str) -> bool:
        """Whether the table allows it to an agent."""
        known = self.allow.get(agent, ())
        return f"{action}:{resource}" in known or (action == "call_tool" and resource in known)

    def decide(
        self, agent: str, request: v1.AuthorizeRequest, on_behalf_of: tuple[str, ...] = ()
    ) -> v1.AuthorizeResponse:
        """What the table says."""
        tool, action = _resource(request), request.action.id
        answer = v1.AuthorizeResponse(
            effect=v1.EFFECT_DENY,
            decision_id=str(uuid.uuid4()),
            correlation_id=request.correlation_id,
            revision=1,
            action=request.action,
        )
        if not _digest_fits(request):
            answer.reason = v1.DENY_REASON_INVALID_ARGUMENTS
            answer.message = "the digest does not fit the arguments"
        elif tool in self.forbid:
            answer.reason = v1.DENY_REASON_FORBIDDEN
            answer.policy_ids.append(self.forbid[tool])
            answer.message = f"policy {self.forbid[tool]} forbids {tool}"
        elif self.may(agent, action, tool) and (
            other := next((p for p in on_behalf_of if not self.may(p, action, tool)), "")
        ):
            answer.reason = v1.DENY_REASON_DELEGATION
            answer.message = f"{agent} acts for {other}, who may not {action} {tool}"
        elif self.may(agent, action, tool):
            answer.effect = v1.EFFECT_ALLOW
            answer.policy_ids.append(f"{agent}-tools")
            answer.message = f"permitted by {agent}-tools"
            answer.obligations.extend(v1.Obligation(name=name) for name in self.obligations)
        else:
            answer.reason = v1.DENY_REASON_NOT_PERMITTED
            verb = "call" if action == "call_tool" else action
            answer.message = f"no policy permits {agent} to {verb} {tool}"
        with self._lock:
            answer.sequence = len(self.records)
            self.records.append(Recorded(agent, request, answer, on_behalf_of))
        return answer

    def report(self, agent: str, outcome: v1.CallOutcome) -> v1.ReportOutcomeItem:
        """Take an outcome, or refuse it as the real server does."""
        item = v1.ReportOutcomeItem(decision_id=outcome.decision_id)

        def refuse(code: grpc.StatusCode, reason: str) -> v1.ReportOutcomeItem:
            item.error.code, item.error.reason = code.value[0], reason
            return item

        with self._lock:
            known = [r for r in self.records if r.response.decision_id == outcome.decision_id]
            if not known or known[0].agent != agent:
                return refuse(grpc.StatusCode.NOT_FOUND, "DECISION_NOT_FOUND")
            if not known[0].allowed:
                return refuse(grpc.StatusCode.FAILED_PRECONDITION, "DECISION_DENIED")
            before = [o for o in self.outcomes if o.record is known[0]]
            if before and before[0].outcome != outcome:
                return refuse(grpc.StatusCode.ALREADY_EXISTS, "OUTCOME_CONFLICT")
            if not before:
                self.outcomes.append(Reported(agent, known[0], outcome))
            event_id = uuid.uuid5(uuid.UUID(outcome.decision_id), "outcome")
            item.recorded.event_id, item.recorded.repeated_report = str(event_id), bool(before)
        return item

    def list_permitted(self, agent: str, request: v1.ListPermittedRequest) -> Any:
        """What the table has for an agent, on one page."""
        action = request.resources.action.id or "call_tool"
        listed = list(request.resources.resource_ids)
        known = listed or [t.removeprefix(f"{action}:") for t in self.allow.get(agent, ())]
        answer = v1.ListPermittedResponse(revision=1)
        for tool in sorted(t for t in known if self.may(agent, action, t)):
            item = answer.permitted.add()
            item.action.CopyFrom(v1.EntityRef(type="ZTA::Action", id=action))
            item.resource.CopyFrom(v1.EntityRef(type="ZTA::Tool", id=tool))
        return answer

    def exchange(
        self, agent: str, request: v1.ExchangeTokenRequest, on_behalf_of: tuple[str, ...]
    ) -> v1.ExchangeTokenResponse:
        """A grant to act for the caller, or a token for a grant. They are names, not secrets."""
        expires = Timestamp()
        expires.GetCurrentTime()
        expires.seconds += 600
        if request.HasField("delegate"):
            to, chain = _short(request.delegate.agent), (*on_behalf_of, agent)
            if to in chain:
                raise ValueError(f"{to} is a party already")
            if not self.may(agent, "delegate", to):
                raise ValueError(f"{agent} may not delegate to {to}")
            return v1.ExchangeTokenResponse(token="/".join((*chain, to)), expire_time=expires)
        if request.act.grant.split("/")[-1] != agent:
            raise ValueError("the grant names another agent")
        return v1.ExchangeTokenResponse(token=request.act.grant, expire_time=expires)

    def renew(self, agent: str, certificate_pem: bytes) -> v1.RenewResponse:
        """A fresh certificate for the key of the one that the caller showed."""
        shown = x509.load_pem_x509_certificate(certificate_pem)
        with self._lock:
            self.renewals.append(agent)
        issued = self._authority.agent(agent, shown.public_key(), self._lifetime)
        return v1.RenewResponse(certificate=issued)

    def __enter__(self) -> FakeServer:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _short(agent: str) -> str:
    return agent.rsplit("/", 1)[-1]


def _resource(request: v1.AuthorizeRequest) -> str:
    known = request.resource
    return _short(known.id) if known.type == "ZTA::Agent" else known.id


def _chain(context: grpc.ServicerContext) -> tuple[str, ...]:
    """Whom the caller acts for, as its token says."""
    metadata = dict(context.invocation_metadata() or ())
    token = str(metadata.get("authorization", "")).removeprefix("Bearer ")
    return tuple(token.split("/")[:-1])


def _digest_fits(request: v1.AuthorizeRequest) -> bool:
    try:
        computed = digest(parse(request.arguments_json or b"{}"))
        return request.arguments_sha256 in (b"", computed)
    except ArgumentsError:
        return False


def _caller(context: grpc.ServicerContext) -> tuple[str, bytes]:
    """The agent's name and certificate, from the handshake."""
    peer: Mapping[str, Any] = context.auth_context()
    names = [name.decode() for name in peer.get("peer_spiffe_id", ())]
    if len(names) != 1:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate names no agent")
    return names[0].rsplit("/", 1)[-1], peer["x509_pem_cert"][0]


def _report(
    fake: FakeServer, request: v1.ReportOutcomeRequest, context: grpc.ServicerContext
) -> v1.ReportOutcomeResponse:
    agent, _ = _caller(context)
    items = [fake.report(agent, outcome) for outcome in request.outcomes]
    return v1.ReportOutcomeResponse(items=items)


def _handlers(fake: FakeServer) -> grpc.GenericRpcHandler:
    def authorize(request: v1.AuthorizeRequest, context: grpc.ServicerContext) -> Any:
        agent, _ = _caller(context)
        if fake.fault is not None:
            return fake.fault(agent, request, context)
        return fake.decide(agent, request, _chain(context))

    def list_permitted(request: v1.ListPermittedRequest, context: grpc.ServicerContext) -> Any:
        return fake.list_permitted(_caller(context)[0], request)

    def exchange(request: v1.ExchangeTokenRequest, context: grpc.ServicerContext) -> Any:
        try:
            return fake.exchange(_caller(context)[0], request, _chain(context))
        except ValueError as error:
            return context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))

    def batch(request: v1.BatchAuthorizeRequest, context: grpc.ServicerContext) -> Any:
        agent, _ = _caller(context)
        items = [
            v1.BatchAuthorizeItem(
                correlation_id=item.correlation_id, decision=fake.decide(agent, item)
            )
            for item in request.requests
        ]
        return v1.BatchAuthorizeResponse(items=items)

    def renew(_request: v1.RenewRequest, context: grpc.ServicerContext) -> Any:
        return fake.renew(*_caller(context))

    methods: dict[str, tuple[Any, Any]] = {
        "/zta.v1.AuthorizationService/Authorize": (authorize, v1.AuthorizeRequest),
        "/zta.v1.AuthorizationService/BatchAuthorize": (batch, v1.BatchAuthorizeRequest),
        "/zta.v1.AuthorizationService/ReportOutcome": (
            partial(_report, fake),
            v1.ReportOutcomeRequest,
        ),
        "/zta.v1.AuthorizationService/ListPermitted": (list_permitted, v1.ListPermittedRequest),
        "/zta.v1.AuthenticationService/ExchangeToken": (exchange, v1.ExchangeTokenRequest),
        "/zta.v1.AgentService/Renew": (renew, v1.RenewRequest),
    }

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            if details.method not in methods:
                return None
            function, message = methods[details.method]
            return grpc.unary_unary_rpc_method_handler(function, message.FromString, _serialize)

    return Handlers()


def _serialize(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())
