"""Renewal and recovery against the real server, by certificates of a few seconds."""

import asyncio
import threading
import time

import grpc
import pytest
from support import POLICIES

from zta import AsyncClient, Client, RpcError, ToolCall, v1
from zta.testing import EmbeddedServer

SEARCH = ToolCall("web_search", {"query": "x"})


def started(lifetime_s: int, **settings: str) -> EmbeddedServer:
    environment = {"ZTA_CERTIFICATE_LIFETIME_S": str(lifetime_s), **settings}
    return EmbeddedServer(environment=environment)


def key(server: EmbeddedServer) -> v1.Instance:
    request = v1.ListInstancesRequest(agent="research")
    [instance] = server.admin.agents.ListInstances(request).instances
    return instance


def crew(server: EmbeddedServer) -> None:
    server.apply(POLICIES, POLICIES / "examples" / "research_crew")


def test_thirty_renewals_with_a_restart_in_the_middle_fail_no_call() -> None:
    renewals = 30
    with started(6) as server:
        crew(server)
        folder = server.agent("research", ["researcher"])
        done = threading.Event()
        failures: list[tuple[float, RpcError]] = []
        made = 0
        with Client(folder, timeout_ms=10_000) as client:

            def call() -> None:
                nonlocal made
                while not done.wait(0.01):
                    made += 1
                    try:
                        assert client.authorize(SEARCH).allowed
                    except RpcError as error:
                        failures.append((time.monotonic(), error))

            def renewed(times: int) -> None:
                deadline = time.monotonic() + 240
                while key(server).generation <= times:
                    assert time.monotonic() < deadline, f"no {times} renewals"
                    time.sleep(0.25)

            thread = threading.Thread(target=call)
            thread.start()
            try:
                renewed(renewals // 2)
                stopped = time.monotonic()
                server.stop()
                server.start()
                back = time.monotonic() + 3
                renewed(renewals)
            finally:
                done.set()
                thread.join(30)
        for at, error in failures:
            assert stopped <= at <= back, error
            assert error.code == grpc.StatusCode.UNAVAILABLE, error
        assert made > 300
        assert key(server).state == v1.INSTANCE_STATE_ACTIVE
        found = server.admin.audit.ListEvents(v1.ListEventsRequest(types=["clone_detected"]))
        assert not found.events


def test_a_call_right_after_a_long_sleep_waits_for_the_recovery() -> None:
    with started(2) as server:
        crew(server)
        folder = server.agent("research", ["researcher"])
        time.sleep(3)
        with Client(folder) as client:
            assert client.authorize(SEARCH).allowed
        assert key(server).recoveries == 1
        time.sleep(3)

        async def ask() -> bool:
            async with AsyncClient(folder) as client:
                decisions = await asyncio.gather(*(client.authorize(SEARCH) for _ in range(4)))
                return all(decision.allowed for decision in decisions)

        assert asyncio.run(ask())
        assert key(server).recoveries == 2


def test_what_is_recovered_too_often_denies() -> None:
    with started(2, ZTA_RECOVERIES_MAX="0") as server:
        crew(server)
        folder = server.agent("research", ["researcher"])
        time.sleep(3)
        with Client(folder) as client, pytest.raises(RpcError):
            client.authorize(SEARCH, timeout_ms=2_000)
        assert key(server).recoveries == 0
