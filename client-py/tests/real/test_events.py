"""Following the log of the real server, by both clients."""

import asyncio
import threading
from pathlib import Path

import pytest

from zta import AsyncClient, Client, RpcError, ToolCall, v1
from zta.testing import EmbeddedServer

SEARCH = ToolCall("web_search", {"query": "x"})


def test_a_stream_goes_on_over_restarts_and_from_a_kept_cursor(own_server: EmbeddedServer) -> None:
    folder = own_server.agent("research", ["researcher"])
    made: list[int] = []

    def decide(times: int) -> None:
        with Client(folder, server=own_server.endpoint) as agent:
            made.extend(agent.authorize(SEARCH).sequence for _ in range(times))

    with own_server.admin.watch_events(
        v1.WatchEventsRequest(sequence=0, types=["decision"])
    ) as stream:
        seen: list[int] = []
        for end in (own_server.kill, own_server.stop):
            decide(5)
            while len(seen) < len(made):
                seen.append(next(stream).sequence)
                assert stream.cursor.rpartition(":")[2].isdigit()
            end()
            own_server.start()
        decide(2)
        kept = stream.cursor
    assert seen == made[:10]
    request = v1.WatchEventsRequest(cursor=kept, types=["decision"])
    with own_server.admin.watch_events(request) as again:
        assert [next(again).sequence for _ in range(2)] == made[10:]


def test_the_async_stream_hands_out_each_event_once(
    crew_server: EmbeddedServer, crew_credentials: dict[str, Path]
) -> None:
    async def follow() -> tuple[list[int], list[int]]:
        research = crew_credentials["research"]
        async with (
            AsyncClient(crew_server.admin_credential, server=crew_server.endpoint) as admin,
            AsyncClient(research, server=crew_server.endpoint) as agent,
            admin.watch_events(v1.WatchEventsRequest(session_id="followed")) as stream,
        ):
            assert stream.cursor
            request = v1.AuthorizeRequest(
                action=v1.EntityRef(type="ZTA::Action", id="call_tool"),
                resource=v1.EntityRef(type="ZTA::Tool", id="web_search"),
                session_id="followed",
            )
            answers = [await agent.authorization.Authorize(request) for _ in range(5)]
            seen = [(await anext(stream)).sequence for _ in range(5)]
            return [answer.sequence for answer in answers], seen

    made, seen = asyncio.run(asyncio.wait_for(follow(), 30))
    assert seen == made


def test_what_cannot_be_mended_is_raised_and_a_stream_can_be_closed(
    crew_server: EmbeddedServer, crew_credentials: dict[str, Path]
) -> None:
    with (
        Client(crew_credentials["research"], server=crew_server.endpoint) as agent,
        pytest.raises(RpcError, match="NOT_PERMITTED"),
    ):
        agent.watch_events()
    admin = crew_server.admin
    for request, reason in [
        (v1.WatchEventsRequest(cursor="x"), "CURSOR_INVALID"),
        (v1.WatchEventsRequest(sequence=1 << 40), "CURSOR_BEYOND_LOG"),
    ]:
        with pytest.raises(RpcError, match=reason):
            admin.watch_events(request)
    stream = admin.watch_events(v1.WatchEventsRequest(session_id="nobody's"))
    closing = threading.Timer(0.2, stream.close)
    closing.start()
    assert list(stream) == []
    closing.join()
