"""Acting on somebody's behalf, against the real server."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import POLICIES
from support.proxy import Proxy

from zta import AsyncClient, Client, Credential, Guard, RpcError, Session, ToolCall, v1
from zta.testing import EmbeddedServer

SEARCH = ToolCall("web_search", {"query": "x"})
DATASET = ToolCall("read_document", {"collection": "dataset", "path": "p"})
PEOPLE = """
@id("people.delegate") permit (principal is ZTA::User, action == ZTA::Action::"delegate", resource);
@id("people.search") permit (principal in ZTA::Role::"administrator",
  action in ZTA::Action::"call_tool", resource == ZTA::Tool::"web_search");
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("people")
    (folder / "people.cedar").write_text(PEOPLE)
    with EmbeddedServer() as server:
        server.apply(POLICIES, POLICIES / "examples" / "research_crew", folder)
        yield server


@pytest.fixture(scope="module")
def guard(server: EmbeddedServer) -> Iterator[Guard]:
    identities = {
        "research": server.agent("research", ["researcher"]),
        "analysis": server.agent("analysis", ["analyst"]),
    }
    with Guard(identities, timeout_ms=5_000) as guard:
        yield guard


def test_an_agent_may_for_somebody_only_what_both_may(server: EmbeddedServer, guard: Guard) -> None:
    admin = server.admin
    grants = {
        agent: admin.delegate(agent, scope=["call_tool"], lifetime_s=600)
        for agent in ("research", "analysis")
    }
    assert guard.decide("analysis", DATASET).allowed
    with guard.session(grants=grants):
        assert guard.decide("research", SEARCH).allowed
        denied = guard.decide("analysis", DATASET)
        assert (denied.allowed, denied.reason) == (False, "DELEGATION")
        # A session that an adapter was installed with does not make it the agent's own call.
        assert not guard.decide("analysis", DATASET, session=Session(user="alice")).allowed
    assert guard.decide("analysis", DATASET).allowed
    page = admin.audit.ListEvents(
        v1.ListEventsRequest(page_size=50, descending=True, types=["decision"])
    )
    [leaf] = [e.leaf.decode() for e in page.events if e.sequence == denied.sequence]
    assert '"denied_by":{"party":{"id":"spiffe://zta.local#admin"' in leaf


def test_behind_a_proxy_the_key_acts(server: EmbeddedServer, tmp_path: Path) -> None:
    folder = server.agent("field", ["researcher", "analyst"])
    credential = Credential.load(folder)
    proxy = Proxy(tmp_path, credential.endpoint, credential.ca_pem)
    grant = server.admin.delegate("field", scope=["call_tool"], lifetime_s=60)
    roots = proxy.authority.pem
    with Client(folder, server=proxy.endpoint, dpop=True, server_roots=roots) as client:
        acting = client.act_for(grant)
        assert acting.authorize(SEARCH).allowed
        assert acting.authorize(DATASET).reason == "DELEGATION"
        assert client.authorize(DATASET).allowed
    proxy.close()


def test_the_same_for_asyncio(server: EmbeddedServer, guard: Guard) -> None:
    async def run() -> None:
        grants = {"analysis": await AsyncClient(sharing=server.admin).delegate("analysis")}
        with guard.session(grants=grants):
            decision = await guard.decide_async("analysis", DATASET)
        assert (decision.allowed, decision.reason) == (False, "DELEGATION")
        assert (await guard.decide_async("analysis", DATASET)).allowed

    asyncio.run(run())


def test_without_a_token_there_is_no_call(guard: Guard) -> None:
    with guard.session(grants={"analysis": "not a grant"}):
        decision = guard.decide("analysis", DATASET)
    assert (decision.allowed, decision.reason) == (False, "DELEGATION_INVALID")
    assert not decision.decided


def test_a_grant_is_for_the_agent_that_it_names(server: EmbeddedServer, guard: Guard) -> None:
    with guard.session(grants={"analysis": server.admin.delegate("research")}):
        assert guard.decide("analysis", DATASET).reason == "DELEGATION_INVALID"
    with pytest.raises(RpcError) as raised:
        server.admin.delegate("nobody")
    assert raised.value.reason == "AGENT_NOT_FOUND"
