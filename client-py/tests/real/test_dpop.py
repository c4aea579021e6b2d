"""Proof of possession with each call, through a proxy that ends TLS, against the real server."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.proxy import Proxy

from zta import AsyncClient, Client, Credential, RpcError, ToolCall, v1
from zta.testing import EmbeddedServer

SEARCH = ToolCall("web_search", {"query": "x"})


@pytest.fixture
def proxied(
    tmp_path: Path, crew_server: EmbeddedServer, crew_credentials: dict[str, Path]
) -> Iterator[tuple[Proxy, Path]]:
    """A proxy before the crew's server, and an agent's folder."""
    credential = Credential.load(crew_credentials["research"])
    proxy = Proxy(tmp_path, credential.endpoint, credential.ca_pem)
    yield proxy, crew_credentials["research"]
    proxy.close()


def test_each_call_is_proved_through_a_proxy(proxied: tuple[Proxy, Path]) -> None:
    proxy, folder = proxied
    roots = proxy.authority.pem
    with Client(folder, server=proxy.endpoint, dpop=True, server_roots=roots) as client:
        for _ in range(3):
            assert client.authorize(SEARCH).allowed
        batch = client.batch_authorize([SEARCH, ToolCall("never_heard_of")])
        assert [getattr(item, "allowed", None) for item in batch] == [True, False]
        before = client.credential.not_after
        client._renewer._renew()
        assert client.credential.not_after >= before
        assert client.authorize(SEARCH).allowed


def test_a_stolen_token_is_worth_nothing(proxied: tuple[Proxy, Path]) -> None:
    proxy, folder = proxied
    roots = proxy.authority.pem
    with Client(folder, server=proxy.endpoint, dpop=True, server_roots=roots) as client:
        assert client.authorize(SEARCH).allowed
        possession = client._renewer.source._possession
        assert possession is not None
        assert possession._token is not None
        token = possession._token[0]
    credentials = grpc.ssl_channel_credentials(roots)
    with grpc.secure_channel(proxy.endpoint, credentials) as channel:
        stub = v1.AuthorizationServiceStub(channel)
        request = v1.AuthorizeRequest(
            action=v1.EntityRef(type="ZTA::Action", id="call_tool"),
            resource=v1.EntityRef(type="ZTA::Tool", id="web_search"),
        )
        for scheme in ("DPoP", "Bearer"):
            with pytest.raises(grpc.RpcError) as refused:
                stub.Authorize(request, metadata=[("authorization", f"{scheme} {token}")])
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_the_async_client_proves_its_calls_too(proxied: tuple[Proxy, Path]) -> None:
    proxy, folder = proxied
    roots = proxy.authority.pem

    async def run() -> None:
        options = {"server": proxy.endpoint, "dpop": True, "server_roots": roots}
        async with AsyncClient(folder, **options) as client:  # type: ignore[arg-type]
            decisions = await asyncio.gather(*(client.authorize(SEARCH) for _ in range(8)))
            assert all(decision.allowed for decision in decisions)
            with pytest.raises(RpcError, match="unary calls only"):
                client.channel.unary_unary("/x").future(b"")

    asyncio.run(run())


def test_a_proxy_of_another_ca_is_not_believed(proxied: tuple[Proxy, Path]) -> None:
    proxy, folder = proxied
    with (
        Client(folder, server=proxy.endpoint, dpop=True, timeout_ms=1_000) as client,
        pytest.raises(RpcError) as refused,
    ):
        client.authorize(SEARCH)
    assert refused.value.code in {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }


def test_roots_without_dpop_are_a_mistake(crew_credentials: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="server_roots"):
        Client(crew_credentials["research"], server_roots=b"x")
