"""The policy enforcement point inside an agent's process.

A guard never raises into a framework and never lets a tool run without an allow of the server:
an unknown agent, unfit arguments, no answer, a strange answer and a defect in here are all denials.
Each execution has a decision of its own; nothing is remembered by a call id, which models choose.

It is cooperative: code in the process can call a function directly. Where that matters, enforce
on the side of the resource as well.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zta import v1
from zta._client import AsyncClient, Client
from zta._errors import ArgumentsError, ConfigurationError, CredentialError, RpcError
from zta._identity import FACTS, Credential
from zta._messages import UNAVAILABLE, Decision, Session, ToolCall, authorize_request, refused

if TYPE_CHECKING:
    from zta.integrations.strands import StrandsGuard

logger = logging.getLogger("zta")

IDENTITY_REFUSED = "the agent's identity was not accepted"
_TIMEOUT_MS = 1_000
_IDENTITY_CODES = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
_ACTING_MAX = 256  # grants whose tokens are kept
_Target = TypeVar("_Target")
_ClientT = TypeVar("_ClientT", Client, AsyncClient)

Observer = Callable[[str, ToolCall, Decision], None]
"""Sees the agent's name, the call and its decision."""
ObligationHandler = Callable[[str, ToolCall, Decision], None]
"""Carries out an obligation before the tool runs; if it raises, the tool does not run."""

_sessions: contextvars.ContextVar[Mapping[object, Session] | None] = contextvars.ContextVar(
    "zta_sessions", default=None
)


class Guard:
    """Decides the tool calls of the agents of a process, each under its own identity."""

    def __init__(
        self,
        identities: Mapping[str, str | os.PathLike[str] | Credential],
        *,
        server: str | None = None,
        timeout_ms: int = _TIMEOUT_MS,
        obligations: Mapping[str, ObligationHandler] | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Map the name of each framework agent to a credential folder of its own.

        An agent without one is denied. `obligations` are those that this process can carry out;
        an allow with any other is a deny. `observer` is told each decision.
        """
        if not identities:
            raise ConfigurationError("a guard needs at least one agent with an identity")
        self._obligations = dict(obligations or {})
        self._observer = observer
        self._session_key = object()
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
        own = {self._session_key: session}
        token = _sessions.set({**(_sessions.get() or {}), **own})
        try:
            yield
        finally:
            _sessions.reset(token)

    def current_session(self) -> Session:
        """The session of this guard that the running code is in."""
        return (_sessions.get() or {}).get(self._session_key) or Session()

    def decide(self, agent: str, call: ToolCall, *, session: Session | None = None) -> Decision:
        """Decide one execution of a tool. Raises no Exception, ever."""
        try:
            request = self._request(agent, call, session)
            grant = self._grant(agent, session)
            client = self._clients[agent]
            if grant is not None:
                client = self._acting(self._acting_clients, client, agent, grant)
            decision = client.authorize(request)
            self._carry_out(agent, call, decision)
        except Exception as error:  # noqa: BLE001 - a framework may take an exception for an allow
            decision = _denied(agent, error)
        return self._told(agent, call, decision)

    async def decide_async(
        self, agent: str, call: ToolCall, *, session: Session | None = None
    ) -> Decision:
        """Decide one execution of a tool from any event loop. Raises no Exception, ever."""
        try:
            request = self._request(agent, call, session)
            grant = self._grant(agent, session)
            client = self._async_clients[agent]
            if grant is not None:
                client = self._acting(self._acting_async_clients, client, agent, grant)
            decision = await client.authorize(request)
            self._carry_out(agent, call, decision)
        except Exception as error:  # noqa: BLE001 - a framework may take an exception for an allow
            decision = _denied(agent, error)
        return self._told(agent, call, decision)

    def _request(self, agent: str, call: ToolCall, session: Session | None) -> v1.AuthorizeRequest:
        if agent not in self._clients:
            raise _NoIdentityError
        return authorize_request(
            call, session or self.current_session(), agent, tuple(self._obligations)
        )

    def _grant(self, agent: str, session: Session | None) -> str | None:
        # A block's grant holds whatever session an adapter was installed with: without it, the
        # call would be decided on the agent's own behalf.
        own = session.grants.get(agent) if session is not None else None
        return own or self.current_session().grants.get(agent)

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

    def _carry_out(self, agent: str, call: ToolCall, decision: Decision) -> None:
        if decision.allowed:
            for name in decision.obligations:
                self._obligations[name](agent, call, decision)

    def _told(self, agent: str, call: ToolCall, decision: Decision) -> Decision:
        if self._observer is not None:
            try:
                self._observer(agent, call, decision)
            except Exception as error:  # noqa: BLE001 - an observer decides nothing
                logger.warning("the guard's observer raised %s", _place(error))
        return decision

    def strands(
        self, *, session: Session | None = None, mcp_servers: Mapping[Any, str] | None = None
    ) -> StrandsGuard:
        """A plugin for Strands: `Agent(name=..., plugins=[guard.strands()])`, one for each agent.

        `mcp_servers` names the server of each MCPClient for the resource `<server>/<tool>`.
        """
        from zta.integrations.strands import StrandsGuard

        return StrandsGuard(self, session=session, mcp_servers=mcp_servers)

    def crewai(
        self,
        target: Any = None,
        *,
        session: Session | None = None,
        mcp_servers: Mapping[str, str] | None = None,
    ) -> None:
        """Guard a CrewAI crew or agent; without one, every agent that no other guard claims.

        `mcp_servers` gives CrewAI's names of MCP servers, which hold command lines, better ones.
        """
        from zta.integrations import crewai

        crewai.install(self, target, session=session, mcp_servers=mcp_servers or {})

    def autogen(
        self,
        target: _Target,
        *,
        session: Session | None = None,
        mcp_servers: Mapping[Any, str] | None = None,
    ) -> _Target:
        """Guard an AutoGen agent or team, with all that it holds, in place; returns it.

        `mcp_servers` names the server of each McpWorkbench for the resource `<server>/<tool>`.
        """
        from zta.integrations import autogen

        autogen.install(self, target, session=session, mcp_servers=mcp_servers or {})
        return target

    def close(self) -> None:
        """Close the connections. From then on everything that this guard guards is denied."""
        adapter = sys.modules.get("zta.integrations.crewai")
        if adapter is not None:
            adapter.uninstall(self)
        for client in self._clients.values():
            client.close()

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class _NoIdentityError(Exception):
    """The agent is not among those of the guard."""


def _denied(agent: str, error: Exception) -> Decision:
    """The deny for whatever went wrong. Only fixed texts go to the model, no payload to the log."""
    if isinstance(error, _NoIdentityError):
        logger.warning("denied: agent %r has no identity of its own in this guard", agent)
        return refused("this agent has no identity of its own", "NO_IDENTITY")
    if isinstance(error, ArgumentsError):
        logger.warning("denied: a call of agent %r: %s", agent, error)
        return refused(str(error), "INVALID_ARGUMENTS")
    if isinstance(error, RpcError):
        reason = error.reason or error.code.name
        # What the transport says helps and holds no payload; what a server says may hold one.
        local = error.code.name == "UNAVAILABLE" and error.reason is None
        said = repr(error.message[:300]) if local else reason
        logger.warning("denied: no decision for agent %r: %s: %s", agent, error.code.name, said)
        identity = error.code.name in _IDENTITY_CODES
        return refused(IDENTITY_REFUSED if identity else UNAVAILABLE, reason)
    logger.error("denied: the guard failed for agent %r: %s", agent, _place(error))
    return refused(UNAVAILABLE, "GUARD_FAILED")


def _place(error: Exception) -> str:
    """The type and place of an error; its text may hold arguments of a call."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def claimed_by_no_guard(agent: str) -> Decision:
    """The deny for an agent that runs beside guarded ones and belongs to no guard."""
    return _denied(agent, _NoIdentityError())


def adapter_failed(agent: str, error: Exception) -> Decision:
    """The deny for a defect in an adapter or a framework that has changed."""
    return _denied(agent, error)
