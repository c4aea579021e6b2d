"""The two clients: `Client` blocks, `AsyncClient` is for asyncio. Both raise RpcError.

They differ in how they wait and in nothing else; what they say is in `_messages`. Each runs over
one blocking channel, which unlike grpc's asyncio channel is not tied to an event loop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, cast

import grpc

from zta import v1
from zta._acting import Acting
from zta._calls import Call
from zta._channel import RenewingChannel
from zta._dpop import Possession
from zta._errors import CredentialError, RpcError
from zta._events import AsyncEventStream, EventStream
from zta._identity import Credential
from zta._log import (
    Checkpoint,
    LogError,
    LogView,
    Recorded,
    confirm_extension,
    consistency_request,
)
from zta._messages import (
    Decision,
    Session,
    authorize_request,
    delegate_request,
    read_decision,
)
from zta._proving import signed
from zta._renewal import Renewer

_TIMEOUT_MS = 5_000


class _Base:
    """What both clients own: an identity that renews itself, and a channel that follows it."""

    def __init__(
        self,
        credential: str | os.PathLike[str] | Credential | None = None,
        *,
        server: str | None = None,
        timeout_ms: int = _TIMEOUT_MS,
        dpop: bool = False,
        server_roots: bytes | None = None,
        sharing: _Base | None = None,
        acting: Acting | None = None,
    ) -> None:
        """Use a credential folder (or `ZTA_CREDENTIAL`) and its server (or `server`, `ZTA_SERVER`).

        With `dpop`, for a server behind a proxy that ends TLS: no client certificate is shown,
        each call carries a proof of the key instead; `server_roots` are the CAs (PEM) of the
        proxy's certificate. `timeout_ms` bounds each call that names no timeout of its own. With
        `sharing`, the identity and the connection are those of another client, which closes them;
        with `acting`, each call is made on somebody's behalf.
        """
        self._acting = acting
        self._timeout_s: float
        self._renewer: Renewer
        if sharing is not None:
            self._timeout_s, self._renewer = sharing._timeout_s, sharing._renewer
            return
        if credential is None:
            credential = os.environ.get("ZTA_CREDENTIAL")
            if not credential:
                raise CredentialError("name a credential folder, or set ZTA_CREDENTIAL")
        if not isinstance(credential, Credential):
            credential = Credential.load(credential, server or os.environ.get("ZTA_SERVER"))
        if timeout_ms <= 0:
            raise ValueError("timeout_ms must be positive")
        self._timeout_s = timeout_ms / 1000
        if server_roots is not None and not dpop:
            raise ValueError("server_roots are for dpop: over mutual TLS the credential has them")
        possession = Possession(server_roots) if dpop else None
        self._renewer = Renewer(credential, possession=possession)

    @property
    def credential(self) -> Credential:
        """The credential in use now."""
        return self._renewer.credential

    def _channel(self, *, awaitable: bool) -> RenewingChannel:
        return RenewingChannel(
            self._renewer.source, self._timeout_s, awaitable=awaitable, acting=self._acting
        )

    def _requests(
        self, calls: Sequence[Call | v1.AuthorizeRequest], session: Session | None
    ) -> list[v1.AuthorizeRequest]:
        return [
            call
            if isinstance(call, v1.AuthorizeRequest)
            else authorize_request(call, session or Session(), self.credential.name)
            for call in calls
        ]

    def _signed(self, challenge: bytes) -> v1.AuthenticateRequest:
        return signed(self.credential, challenge)


def _once_more(error: RpcError, attempt: int, deadline: float) -> bool:
    """Whether to ask again: a connection may have gone away between two calls (fork, restart).

    Safe for decisions: one that was recorded and did not arrive lets nothing run.
    """
    unavailable = error.code == grpc.StatusCode.UNAVAILABLE and error.reason is None
    return unavailable and attempt == 0 and deadline > time.monotonic()


def _left_s(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _batch(
    requests: list[v1.AuthorizeRequest], response: v1.BatchAuthorizeResponse
) -> list[Decision | RpcError]:
    if len(response.items) != len(requests):
        raise RpcError(grpc.StatusCode.INTERNAL, "the answer does not have one item per request")
    results: list[Decision | RpcError] = []
    for request, item in zip(requests, response.items, strict=True):
        if item.HasField("decision"):
            results.append(read_decision(request, item.decision))
        else:
            results.append(_item_error(item.error))
    return results


def _outcomes(
    request: v1.ReportOutcomeRequest, response: v1.ReportOutcomeResponse
) -> list[v1.RecordedOutcome | RpcError]:
    told = [outcome.decision_id for outcome in request.outcomes]
    if [item.decision_id for item in response.items] != told:
        raise RpcError(grpc.StatusCode.INTERNAL, "the answer does not have one item per outcome")
    return [
        item.recorded if item.HasField("recorded") else _item_error(item.error)
        for item in response.items
    ]


def _item_error(error: v1.ItemError) -> RpcError:
    codes = {code.value[0]: code for code in grpc.StatusCode}
    code = codes.get(error.code, grpc.StatusCode.UNKNOWN)
    return RpcError(code, error.message, error.reason or None)


class Client(_Base):
    """A blocking client under one identity. Safe to share between threads."""

    def __init__(
        self,
        credential: str | os.PathLike[str] | Credential | None = None,
        *,
        server: str | None = None,
        timeout_ms: int = _TIMEOUT_MS,
        dpop: bool = False,
        server_roots: bytes | None = None,
        sharing: _Base | None = None,
        acting: Acting | None = None,
    ) -> None:
        """See `_Base`: a credential folder, and its server unless another is named."""
        super().__init__(
            credential,
            server=server,
            timeout_ms=timeout_ms,
            dpop=dpop,
            server_roots=server_roots,
            sharing=sharing,
            acting=acting,
        )
        self.channel: grpc.Channel = self._channel(awaitable=False)
        """An authenticated channel for any stub of `zta.v1`; it renews itself."""
        self.authorization = v1.AuthorizationServiceStub(self.channel)
        self.authentication = v1.AuthenticationServiceStub(self.channel)
        self.agents = v1.AgentServiceStub(self.channel)
        self.users = v1.UserServiceStub(self.channel)
        self.policies = v1.PolicyServiceStub(self.channel)
        self.entities = v1.EntityServiceStub(self.channel)
        self.audit = v1.AuditServiceStub(self.channel)

    def authorize(
        self,
        call: Call | v1.AuthorizeRequest,
        *,
        session: Session | None = None,
        timeout_ms: int | None = None,
    ) -> Decision:
        """Have one call decided. A deny is an answer; an RpcError is a deny for an enforcer."""
        request = self._requests([call], session)[0]
        deadline = time.monotonic() + (timeout_ms / 1000 if timeout_ms else self._timeout_s)
        for attempt in range(2):
            try:
                response = self.authorization.Authorize(request, timeout=_left_s(deadline))
                return read_decision(request, response)
            except RpcError as error:
                if not _once_more(error, attempt, deadline):
                    raise
        raise AssertionError("the second attempt returns or raises")

    def batch_authorize(
        self,
        calls: Sequence[Call | v1.AuthorizeRequest],
        *,
        session: Session | None = None,
        timeout_ms: int | None = None,
    ) -> list[Decision | RpcError]:
        """Have up to 64 calls decided, in order; an item that could not be is an RpcError."""
        requests = self._requests(calls, session)
        timeout_s = timeout_ms / 1000 if timeout_ms else self._timeout_s
        response = self.authorization.BatchAuthorize(
            v1.BatchAuthorizeRequest(requests=requests), timeout=timeout_s
        )
        return _batch(requests, response)

    def report_outcomes(
        self, outcomes: Sequence[v1.CallOutcome], *, timeout_ms: int | None = None
    ) -> list[v1.RecordedOutcome | RpcError]:
        """Tell what became of up to 256 permitted calls, in order; may be told again.

        A guard does so by itself.
        """
        request = v1.ReportOutcomeRequest(outcomes=outcomes)
        timeout_s = timeout_ms / 1000 if timeout_ms else self._timeout_s
        return _outcomes(request, self.authorization.ReportOutcome(request, timeout=timeout_s))

    def authenticate(self) -> v1.AuthenticateResponse:
        """Sign a challenge for an access token that is bound to this client's certificate."""
        challenge = self.authentication.GetChallenge(v1.GetChallengeRequest()).challenge
        return self.authentication.Authenticate(self._signed(challenge))

    def delegate(self, agent: str, *, scope: Sequence[str] = (), lifetime_s: int = 0) -> str:
        """Let an agent (name or SPIFFE ID) act on this client's behalf; return the grant for it.

        Policy must permit `delegate` on it. `scope` names what for, as `action` or
        `action:resource`; empty means whatever both may do. `lifetime_s` is at most 3600, which
        0 means, and never longer than this client's certificate. Raises RpcError.
        """
        request = delegate_request(agent, scope, lifetime_s)
        return self.authentication.ExchangeToken(request).token

    def act_for(self, grant: str) -> Client:
        """Return this client acting on the behalf of whoever made the grant.

        Each of its calls is made with a token for it, kept fresh while the grant lives; after
        that they raise RpcError. None is ever made on the client's own behalf. It shares this
        client's connection, which this client closes.
        """
        return Client(sharing=self, acting=Acting(grant))

    def receipt(self, sequence: int) -> v1.Receipt:
        """Ask for what proves that an event is on record; verify it with `LogKey`.

        A record is covered within a second: before that the call fails with NOT_READY.
        """
        return self.audit.GetEvent(v1.GetEventRequest(sequence=sequence)).receipt

    def follow_log(self, view: LogView) -> Checkpoint:
        """Take the server's newest checkpoint into the view.

        Raises RolledBackError or SplitViewError where the log does not extend what was seen.
        """
        known = view.last()
        while True:
            try:
                newest = view.key.open(self.audit.GetCheckpoint(v1.GetCheckpointRequest()).note)
                return view.advance(newest.note, self._consistency(known, newest))
            except LogError:
                # Somebody else with the same file may have gone on meanwhile: that is no split.
                if (last := view.last()) == known:
                    raise
                known = last

    def verify_recorded(self, view: LogView, sequence: int) -> Recorded:
        """Show that an event is on record in the log that this client has always seen."""
        recorded = view.key.verify_receipt(self.receipt(sequence))
        if recorded.sequence != sequence:
            raise LogError("the answer is the receipt of another event")
        newest = self.follow_log(view)
        proof = self._consistency(recorded.checkpoint, newest)
        confirm_extension(recorded.checkpoint, newest, proof)
        return recorded

    def _consistency(self, old: Checkpoint | None, new: Checkpoint) -> Sequence[bytes]:
        request = consistency_request(old, new)
        return self.audit.GetConsistencyProof(request).hashes if request else ()

    def watch_events(self, request: v1.WatchEventsRequest | None = None) -> EventStream:
        """Follow the log: iterate for events, in order and each once, for as long as it takes.

        It begins at the request's cursor or place, or now: what is appended after this returned
        is not missed. A cut connection or a server that restarts is no end. Keep the stream's
        `cursor` with what was made of the events, and begin with it the next time. Raises
        RpcError for what no other attempt can mend, such as a permission that has gone.
        """
        return EventStream(self.audit.WatchEvents, request or v1.WatchEventsRequest())

    def close(self) -> None:
        """Stop renewing and close the connection."""
        self._renewer.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(_Base):
    """A client for asyncio under one identity. It may be used from any event loop."""

    def __init__(
        self,
        credential: str | os.PathLike[str] | Credential | None = None,
        *,
        server: str | None = None,
        timeout_ms: int = _TIMEOUT_MS,
        dpop: bool = False,
        server_roots: bytes | None = None,
        sharing: _Base | None = None,
        acting: Acting | None = None,
    ) -> None:
        """See `_Base`: a credential folder, and its server unless another is named."""
        super().__init__(
            credential,
            server=server,
            timeout_ms=timeout_ms,
            dpop=dpop,
            server_roots=server_roots,
            sharing=sharing,
            acting=acting,
        )
        self.channel: Any = self._channel(awaitable=True)
        """For any stub of `zta.v1`: its unary methods return awaitables."""

        self.authorization = cast(
            "v1.authorization_service_pb2_grpc.AuthorizationServiceAsyncStub",
            v1.AuthorizationServiceStub(self.channel),
        )
        self.authentication = cast(
            "v1.authentication_service_pb2_grpc.AuthenticationServiceAsyncStub",
            v1.AuthenticationServiceStub(self.channel),
        )
        self.agents = cast(
            "v1.agent_service_pb2_grpc.AgentServiceAsyncStub", v1.AgentServiceStub(self.channel)
        )
        self.users = cast(
            "v1.user_service_pb2_grpc.UserServiceAsyncStub", v1.UserServiceStub(self.channel)
        )
        self.policies = cast(
            "v1.policy_service_pb2_grpc.PolicyServiceAsyncStub",
            v1.PolicyServiceStub(self.channel),
        )
        self.entities = cast(
            "v1.entity_service_pb2_grpc.EntityServiceAsyncStub",
            v1.EntityServiceStub(self.channel),
        )
        self.audit = cast(
            "v1.audit_service_pb2_grpc.AuditServiceAsyncStub", v1.AuditServiceStub(self.channel)
        )

    async def authorize(
        self,
        call: Call | v1.AuthorizeRequest,
        *,
        session: Session | None = None,
        timeout_ms: int | None = None,
    ) -> Decision:
        """Have one call decided. A deny is an answer; an RpcError is a deny for an enforcer."""
        request = self._requests([call], session)[0]
        deadline = time.monotonic() + (timeout_ms / 1000 if timeout_ms else self._timeout_s)
        for attempt in range(2):
            try:
                response = await self.authorization.Authorize(request, timeout=_left_s(deadline))
                return read_decision(request, response)
            except RpcError as error:
                if not _once_more(error, attempt, deadline):
                    raise
        raise AssertionError("the second attempt returns or raises")

    async def batch_authorize(
        self,
        calls: Sequence[Call | v1.AuthorizeRequest],
        *,
        session: Session | None = None,
        timeout_ms: int | None = None,
    ) -> list[Decision | RpcError]:
        """Have up to 64 calls decided, in order; an item that could not be is an RpcError."""
        requests = self._requests(calls, session)
        timeout_s = timeout_ms / 1000 if timeout_ms else self._timeout_s
        response = await self.authorization.BatchAuthorize(
            v1.BatchAuthorizeRequest(requests=requests), timeout=timeout_s
        )
        return _batch(requests, response)

    async def report_outcomes(
        self, outcomes: Sequence[v1.CallOutcome], *, timeout_ms: int | None = None
    ) -> list[v1.RecordedOutcome | RpcError]:
        """Tell what became of up to 256 permitted calls, in order; may be told again."""
        request = v1.ReportOutcomeRequest(outcomes=outcomes)
        timeout_s = timeout_ms / 1000 if timeout_ms else self._timeout_s
        response = await self.authorization.ReportOutcome(request, timeout=timeout_s)
        return _outcomes(request, response)

    async def authenticate(self) -> v1.AuthenticateResponse:
        """Sign a challenge for an access token that is bound to this client's certificate."""
        challenge = (await self.authentication.GetChallenge(v1.GetChallengeRequest())).challenge
        return await self.authentication.Authenticate(self._signed(challenge))

    async def delegate(self, agent: str, *, scope: Sequence[str] = (), lifetime_s: int = 0) -> str:
        """Let an agent act on this client's behalf; see `Client.delegate`."""
        request = delegate_request(agent, scope, lifetime_s)
        return (await self.authentication.ExchangeToken(request)).token

    def act_for(self, grant: str) -> AsyncClient:
        """Return this client acting on the behalf of the grant's maker; see `Client.act_for`."""
        return AsyncClient(sharing=self, acting=Acting(grant))

    async def receipt(self, sequence: int) -> v1.Receipt:
        """Ask for what proves that an event is on record; see `Client.receipt`."""
        return (await self.audit.GetEvent(v1.GetEventRequest(sequence=sequence))).receipt

    async def follow_log(self, view: LogView) -> Checkpoint:
        """Take the server's newest checkpoint into the view; see `Client.follow_log`."""
        known = view.last()
        while True:
            try:
                answer = await self.audit.GetCheckpoint(v1.GetCheckpointRequest())
                newest = view.key.open(answer.note)
                return view.advance(newest.note, await self._consistency(known, newest))
            except LogError:
                # Somebody else with the same file may have gone on meanwhile: that is no split.
                if (last := view.last()) == known:
                    raise
                known = last

    async def verify_recorded(self, view: LogView, sequence: int) -> Recorded:
        """Show that an event is on record in the log that this client has always seen."""
        recorded = view.key.verify_receipt(await self.receipt(sequence))
        if recorded.sequence != sequence:
            raise LogError("the answer is the receipt of another event")
        newest = await self.follow_log(view)
        proof = await self._consistency(recorded.checkpoint, newest)
        confirm_extension(recorded.checkpoint, newest, proof)
        return recorded

    async def _consistency(self, old: Checkpoint | None, new: Checkpoint) -> Sequence[bytes]:
        request = consistency_request(old, new)
        return (await self.audit.GetConsistencyProof(request)).hashes if request else ()

    def watch_events(self, request: v1.WatchEventsRequest | None = None) -> AsyncEventStream:
        """Follow the log with `async for`; see `Client.watch_events`.

        It begins when it is entered (`async with`) or first asked for an event.
        """
        return AsyncEventStream(self.audit.WatchEvents, request or v1.WatchEventsRequest())

    async def aclose(self) -> None:
        """Stop renewing and close the connection."""
        self._renewer.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
