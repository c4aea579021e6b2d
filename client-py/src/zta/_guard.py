"""The policy enforcement point inside an agent's process.

A guard never raises into a framework and never lets a tool run without an allow of the server:
an unknown agent, unfit arguments, no answer, a strange answer and a defect in here are all denials.
Each execution has a decision of its own; nothing is remembered by a call id, which models choose.

It is cooperative: code in the process can call a function directly. Where that matters, enforce
on the side of the resource as well.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zta import v1
from zta._calls import OPTIONAL_ACTIONS, Call, Delegation, Message, Outcome
from zta._client import AsyncClient, Client
from zta._denials import (
    ChainError,
    NoBlockError,
    NoIdentityError,
    NoPeerError,
    NoSessionError,
    denied,
    place,
)
from zta._errors import ConfigurationError, CredentialError, RpcError
from zta._identity import FACTS, Credential
from zta._messages import Decision, Session, authorize_request
from zta._outcomes import OutcomeReporter, call_outcome
from zta._permitted import permitted
from zta._sessions import Link, Sessions

if TYPE_CHECKING:
    from zta._coverage import Gap
    from zta.integrations.strands import StrandsGuard

logger = logging.getLogger("zta")

_TIMEOUT_MS = 1_000
_NO_ANSWER = {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
_ACTING_MAX = 256  # grants whose tokens are kept
_Target = TypeVar("_Target")
_ClientT = TypeVar("_ClientT", Client, AsyncClient)

Observer = Callable[[str, Call, Decision], None]
"""Sees the agent's name, the call and its decision."""
ObligationHandler = Callable[[str, Call, Decision], None]
"""Carries out an obligation before the tool runs; if it raises, the tool does not run."""
OutcomeObserver = Callable[[str, Call, Decision, Outcome], None]
"""Sees what came of a call that was allowed. It must not block: tools wait for it."""


class Guard:
    """Decides what the agents of a process do, each under its own identity."""

    def __init__(
        self,
        identities: Mapping[str, str | os.PathLike[str] | Credential],
        *,
        server: str | None = None,
        timeout_ms: int = _TIMEOUT_MS,
        obligations: Mapping[str, ObligationHandler] | None = None,
        observer: Observer | None = None,
        outcomes: OutcomeObserver | None = None,
        report_outcomes: bool = True,
        also: Iterable[str] = (),
        code_tools: Iterable[str] = (),
        extend_chain: bool = True,
        require_session: bool = False,
    ) -> None:
        """Map the name of each framework agent to a credential folder of its own.

        An agent without one is denied. `obligations` are those that this process can carry out;
        an allow with any other is a deny. `observer` is told each decision, `outcomes` what came
        of each call that was allowed. The server is told that, too, in the background and without
        results, except where `report_outcomes` is False.

        Tool calls, code and delegations are always decided; `also` adds `call_model` and
        `send_message`. `code_tools` names the tools that run code: they are asked for as
        `execute`. An agent that another one calls acts on its behalf: policy must permit what it
        does to both. Without `extend_chain` that is so only where the caller acts for somebody.
        With `require_session` whatever happens outside of a session is denied.
        """
        if not identities:
            raise ConfigurationError("a guard needs at least one agent with an identity")
        self.also = frozenset(also)
        if not self.also <= OPTIONAL_ACTIONS:
            unknown = ", ".join(sorted(self.also - OPTIONAL_ACTIONS))
            raise ConfigurationError(f"`also` names what no guard decides: {unknown}")
        self.code_tools = frozenset(code_tools)
        self._obligations = dict(obligations or {})
        self._observer, self._outcomes = observer, outcomes
        self._extend_chain, self._require_session = extend_chain, require_session
        self.sessions = Sessions()
        self._clients: dict[str, Client] = {}
        owners: dict[str, str] = {}
        for agent, credential in identities.items():
            client = Client(credential, server=server, timeout_ms=timeout_ms)
            spiffe_id = client.credential.spiffe_id
            other = owners.setdefault(spiffe_id, agent)
            if other != agent:
                raise ConfigurationError(
                    f"agents `{other}` and `{agent}` share {spiffe_id}; enroll each of them"
                )
            self._clients[agent] = client
        self._async_clients = {
            agent: AsyncClient(sharing=client) for agent, client in self._clients.items()
        }
        self._reporter = OutcomeReporter(self._clients) if report_outcomes else None
        self._acting_lock = threading.Lock()
        self._acting_clients: dict[tuple[str, str], Client] = {}
        self._acting_async_clients: dict[tuple[str, str], AsyncClient] = {}

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], **options: Any) -> Guard:
        """Use every credential folder in `folder`; its name is the agent's name."""
        path = Path(folder)
        found = {facts.parent.name: facts.parent for facts in sorted(path.glob(f"*/{FACTS}"))}
        if not found:
            raise CredentialError(f"`{path}` holds no credential folder: enroll the agents first")
        return cls(found, **options)

    @property
    def agents(self) -> dict[str, str]:
        """The SPIFFE ID of each agent that has an identity here."""
        return {agent: client.credential.spiffe_id for agent, client in self._clients.items()}

    @contextlib.contextmanager
    def session(
        self,
        *,
        user: str = "",
        session_id: str = "",
        task_id: str = "",
        at_least_as_fresh: str = "",
        grants: Mapping[str, str] | None = None,
    ) -> Iterator[None]:
        """Name the user, the session and the task of the calls inside the block.

        With `at_least_as_fresh`, the `consistency_token` of another answer, they are decided no
        earlier than that state of the log. `grants` says by the agents' names on whose behalf they
        act: the grants of `Client.delegate`. What the one they act for may not, they may not then.
        """
        session = Session(user, session_id, task_id, at_least_as_fresh, dict(grants or {}))
        with self.sessions.block(session):
            yield

    def current_session(self) -> Session:
        """The session of this guard that the running code is in."""
        return self.sessions.current()

    def decide(self, agent: str, call: Call, *, session: Session | None = None) -> Decision:
        """Decide one call. Raises no Exception, ever."""
        try:
            request = self._request(agent, call, session)
            decision = self._client(agent, session).authorize(request)
            self._carry_out(agent, call, decision)
        except Exception as error:  # noqa: BLE001 - a framework may take an exception for an allow
            decision = denied(agent, error)
        return self._told(agent, call, decision)

    async def decide_async(
        self, agent: str, call: Call, *, session: Session | None = None
    ) -> Decision:
        """Decide one call from any event loop. Raises no Exception, ever."""
        try:
            request = self._request(agent, call, session)
            decision = await self._async_client(agent, session).authorize(request)
            self._carry_out(agent, call, decision)
        except Exception as error:  # noqa: BLE001 - a framework may take an exception for an allow
            decision = denied(agent, error)
        return self._told(agent, call, decision)

    def decide_delegation(
        self,
        agent: str,
        call: Delegation,
        *,
        session: Session | None = None,
        hand_over: bool = False,
    ) -> tuple[Decision, Link | None]:
        """Decide whether an agent may call another, and extend the delegation chain if so.

        Run the other agent inside `sessions.on_behalf(link)`; with `hand_over` the link holds to
        the end of the session's block instead. Raises no Exception, ever.
        """
        decision = self.decide(agent, call, session=session)
        link = None
        if decision.allowed:
            try:
                link = self._link_before(agent, call.to, session, hand_over)
                if link is None:
                    peer = self._clients[call.to].credential.spiffe_id
                    link = self._link(agent, call.to, self._client(agent, session).delegate(peer))
                if hand_over:
                    self.sessions.hand_over(link)
            except Exception as error:  # noqa: BLE001 - as in decide
                decision = self._told(agent, call, denied(agent, _of_chain(error)))
        return decision, link if decision.allowed else None

    async def decide_delegation_async(
        self,
        agent: str,
        call: Delegation,
        *,
        session: Session | None = None,
        hand_over: bool = False,
    ) -> tuple[Decision, Link | None]:
        """Decide whether an agent may call another, from any event loop; as decide_delegation."""
        decision = await self.decide_async(agent, call, session=session)
        link = None
        if decision.allowed:
            try:
                link = self._link_before(agent, call.to, session, hand_over)
                if link is None:
                    peer = self._clients[call.to].credential.spiffe_id
                    client = self._async_client(agent, session)
                    link = self._link(agent, call.to, await client.delegate(peer))
                if hand_over:
                    self.sessions.hand_over(link)
            except Exception as error:  # noqa: BLE001 - as in decide
                decision = self._told(agent, call, denied(agent, _of_chain(error)))
        return decision, link if decision.allowed else None

    def _link_before(
        self, agent: str, target: str, session: Session | None, hand_over: bool
    ) -> Link | None:
        """The link where no grant is needed, or None where one has to be asked for."""
        known = self.sessions.link(agent)
        if hand_over and known is not None and target in known.parties:
            # Control goes back to one that the chain began with: it goes on as it did before.
            return self.sessions.link(target) or Link(target)
        own = self.sessions.grant(agent, session) is None
        if hand_over and not self.sessions.in_block():
            # Nothing would carry a grant to the other agent's turn.
            if own:
                return Link(target)
            raise NoBlockError
        return Link(target) if own and not self._extend_chain else None

    def _link(self, agent: str, target: str, grant: str) -> Link:
        known = self.sessions.link(agent)
        return Link(target, grant, (*(known.parties if known else ()), agent))

    def permitted_tools(
        self,
        agent: str,
        tools: Iterable[str] | None = None,
        *,
        session: Session | None = None,
        action: str = "call_tool",
    ) -> frozenset[str]:
        """Ask which tools an agent may call now, of those named or of all the server knows.

        For offering an agent no more than that. It is no decision: each call is decided all the
        same, and one that depends on arguments is listed. Raises RpcError.
        """
        if agent not in self._clients:
            return frozenset()
        client = self._client(agent, session)
        return permitted(client, session or self.current_session(), agent, tools, action)

    def report(self, agent: str, call: Call, decision: Decision, outcome: Outcome) -> None:
        """Tell what came of a call that was allowed. Raises no Exception and does not wait."""
        if self._reporter is not None and decision.allowed and decision.decided:
            try:
                self._reporter.put(agent, call_outcome(decision, outcome))
            except Exception as error:  # noqa: BLE001 - the call is over
                logger.warning("an outcome could not be reported: %s", place(error))
        if self._outcomes is not None:
            try:
                self._outcomes(agent, call, decision, outcome)
            except Exception as error:  # noqa: BLE001 - the call is over
                logger.warning("the guard's observer of outcomes raised %s", place(error))

    @property
    def outcomes_lost(self) -> int:
        """How many outcomes the server was not told of."""
        return 0 if self._reporter is None else self._reporter.lost

    def flush_outcomes(self, timeout_ms: int = 2_000) -> bool:
        """Wait until the server was told of all outcomes; whether that came about in time."""
        return self._reporter is None or self._reporter.flush(timeout_ms / 1000)

    def verify(
        self,
        target: Any,
        *,
        refuse: bool = False,
        accept: Collection[str] = (),
        canary: bool = True,
    ) -> list[Gap]:
        """List what an agent, team or crew can do past this guard, as far as can be seen.

        With `refuse`, anything that is not among `accept` (kinds of gaps) raises
        ConfigurationError: call it at the start, before the first run. With `canary`, a tool that
        is denied is called once by an agent of its own, without the server; where it runs, this
        installation does not enforce, and that raises whatever else is set.
        """
        from zta._coverage import verify

        return verify(self, target, refuse=refuse, accept=accept, canary=canary)

    def _request(self, agent: str, call: Call, session: Session | None) -> v1.AuthorizeRequest:
        if agent not in self._clients:
            raise NoIdentityError
        if self._require_session and session is None and not self.sessions.in_block():
            raise NoSessionError
        peer = None
        if isinstance(call, (Delegation, Message)):
            if call.to not in self._clients:
                raise NoPeerError
            peer = self._clients[call.to].credential.spiffe_id
        return authorize_request(
            call, session or self.current_session(), agent, tuple(self._obligations), peer
        )

    def _client(self, agent: str, session: Session | None) -> Client:
        client, grant = self._clients[agent], self.sessions.grant(agent, session)
        return client if grant is None else self._acting(self._acting_clients, client, agent, grant)

    def _async_client(self, agent: str, session: Session | None) -> AsyncClient:
        client, grant = self._async_clients[agent], self.sessions.grant(agent, session)
        if grant is None:
            return client
        return self._acting(self._acting_async_clients, client, agent, grant)

    def _acting(
        self, clients: dict[tuple[str, str], _ClientT], client: _ClientT, agent: str, grant: str
    ) -> _ClientT:
        """Return the client of an agent for a grant, kept for its token."""
        with self._acting_lock:
            if (agent, grant) not in clients:
                while len(clients) >= _ACTING_MAX:
                    del clients[next(iter(clients))]
                clients[agent, grant] = client.act_for(grant)
            return clients[agent, grant]

    def _carry_out(self, agent: str, call: Call, decision: Decision) -> None:
        if decision.allowed:
            for name in decision.obligations:
                self._obligations[name](agent, call, decision)

    def _told(self, agent: str, call: Call, decision: Decision) -> Decision:
        if self._observer is not None:
            try:
                self._observer(agent, call, decision)
            except Exception as error:  # noqa: BLE001 - an observer decides nothing
                logger.warning("the guard's observer raised %s", place(error))
        return decision

    def strands(
        self,
        *,
        session: Session | None = None,
        mcp_servers: Mapping[Any, str] | None = None,
        only_permitted: bool = False,
    ) -> StrandsGuard:
        """A plugin for Strands: `Agent(name=..., plugins=[guard.strands()])`, one for each agent.

        Graphs and swarms take one of their own. `mcp_servers` names the server of each MCPClient
        for the resource `<server>/<tool>`. With `only_permitted` the model is offered no tool
        that the agent may not call.
        """
        from zta.integrations.strands import StrandsGuard

        return StrandsGuard(
            self, session=session, mcp_servers=mcp_servers, only_permitted=only_permitted
        )

    def crewai(
        self,
        target: Any = None,
        *,
        session: Session | None = None,
        mcp_servers: Mapping[str, str] | None = None,
        only_permitted: bool = False,
    ) -> None:
        """Guard a CrewAI crew or agent; without one, every agent that no other guard claims.

        `mcp_servers` gives CrewAI's names of MCP servers, which hold command lines, better ones.
        With `only_permitted` the agents lose the tools that they may not call now.
        """
        from zta.integrations import crewai

        crewai.install(
            self,
            target,
            session=session,
            mcp_servers=mcp_servers or {},
            only_permitted=only_permitted,
        )

    def autogen(
        self,
        target: _Target,
        *,
        session: Session | None = None,
        mcp_servers: Mapping[Any, str] | None = None,
        only_permitted: bool = False,
    ) -> _Target:
        """Guard an AutoGen agent or team, with all that it holds, in place; returns it.

        `mcp_servers` names the server of each McpWorkbench for the resource `<server>/<tool>`.
        With `only_permitted` a model is offered no tool that its agent may not call.
        """
        from zta.integrations import autogen

        autogen.install(
            self,
            target,
            session=session,
            mcp_servers=mcp_servers or {},
            only_permitted=only_permitted,
        )
        return target

    def close(self) -> None:
        """Report the last outcomes and close the connections.

        From then on everything that this guard guards is denied.
        """
        adapter = sys.modules.get("zta.integrations.crewai")
        if adapter is not None:
            adapter.uninstall(self)
        if self._reporter is not None:
            self._reporter.close()
        for client in self._clients.values():
            client.close()

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _of_chain(error: Exception) -> Exception:
    """What became of a chain that could not be extended; an unavailable server stays that."""
    if isinstance(error, RpcError) and error.code.name not in _NO_ANSWER:
        return ChainError(error.reason or error.code.name)
    return error
