"""The log as it grows: streams of events that go on by themselves after a cut."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from zta import v1
from zta._errors import RpcError, from_grpc

_WAIT_MIN_S, _WAIT_MAX_S = 0.1, 5.0
_CUT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
}
_Open = Callable[[v1.WatchEventsRequest], Any]


class _Position:
    """Where a stream is, and whether it goes on after an error; pure but for the server's words."""

    def __init__(self, request: v1.WatchEventsRequest) -> None:
        self._asked = v1.WatchEventsRequest()
        self._asked.CopyFrom(request)
        self._waiting: deque[v1.AuditEvent] = deque()
        self._reached = ""
        self.cursor = ""
        self._attempts = 0

    def request(self) -> v1.WatchEventsRequest:
        """What to ask for now."""
        request = v1.WatchEventsRequest()
        request.CopyFrom(self._asked)
        if self._reached:
            request.cursor = self._reached
        return request

    def take(self, told: v1.WatchEventsResponse) -> None:
        """Take an answer."""
        if not self.cursor:
            first = told.events[0].sequence if told.events else told.sequence
            self.cursor = _at(told.cursor, first)
        self._waiting.extend(told.events)
        self._reached = told.cursor
        self._attempts = 0

    def hand_out(self) -> v1.AuditEvent | None:
        """Hand out the next event that is here."""
        if not self._waiting:
            self.cursor = self._reached
            return None
        event = self._waiting.popleft()
        self.cursor = _at(self._reached, event.sequence + 1) if self._waiting else self._reached
        return event

    def wait_s(self, error: RpcError, *, begun: bool) -> float:
        """Say how long to wait before another attempt; raise what none can mend.

        A stream that had begun may have to wait for its own place, which the server keeps until
        it sees the cut; and it outlives certificates. Before the first answer nothing is tried
        again.
        """
        expired = error.reason in {"CERTIFICATE_EXPIRED", "TOKEN_EXPIRED"}
        stopping = {"STOPPING", "STORE_UNAVAILABLE", "OVERLOADED", "NOT_READY", "NOT_FRESH"}
        mends = (
            (error.reason is None and error.code in _CUT)
            or error.reason in stopping
            or error.reason == "RATE_LIMITED"
            or (error.reason == "LIMIT_EXCEEDED" and "watch_streams" in error.message)
            or (expired and begun and self._attempts == 0)
        )
        if not self._reached or not mends:
            raise error
        self._attempts += 1
        return min(_WAIT_MIN_S * 2.0 ** min(self._attempts - 1, 10), _WAIT_MAX_S)


def _at(cursor: str, place: int) -> str:
    """The cursor of a place in the same log: the log's id, a colon, the place."""
    return f"{cursor.rpartition(':')[0]}:{place}"


class EventStream:
    """Events of the log in order, each once; see `Client.watch_events`. For one thread."""

    def __init__(self, open_: _Open, request: v1.WatchEventsRequest) -> None:
        self._open, self._position = open_, _Position(request)
        self._call: Any = None
        self._closed = threading.Event()
        self._connect()

    @property
    def cursor(self) -> str:
        """Where to go on after the last event that was handed out: worth keeping."""
        return self._position.cursor

    def _connect(self) -> None:
        """Open, and take the first answer, which comes at once."""
        try:
            self._call = self._open(self._position.request())
            if self._closed.is_set():
                self._call.cancel()
            self._take()
        except grpc.RpcError as error:
            raise from_grpc(error) from None

    def _take(self) -> None:
        told = next(self._call, None)
        if told is None:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "the server ended the stream")
        self._position.take(told)

    def _more(self) -> None:
        """One more answer, over as many connections as it takes."""
        begun = self._call is not None
        try:
            if self._call is None:
                self._connect()
            else:
                self._take()
        except (grpc.RpcError, RpcError) as error:
            self._call = None
            named = error if isinstance(error, RpcError) else from_grpc(error)
            if not self._closed.is_set():
                self._closed.wait(self._position.wait_s(named, begun=begun))

    def __iter__(self) -> Iterator[v1.AuditEvent]:
        return self

    def __next__(self) -> v1.AuditEvent:
        """Wait for the next event. Raises RpcError where no other attempt can mend it."""
        while not self._closed.is_set():
            event = self._position.hand_out()
            if event is not None:
                return event
            self._more()
        raise StopIteration

    def close(self) -> None:
        """End the stream; from another thread, too, while one waits for it."""
        self._closed.set()
        if (call := self._call) is not None:
            call.cancel()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class AsyncEventStream:
    """Events of the log in order, each once; see `AsyncClient.watch_events`."""

    def __init__(self, open_: _Open, request: v1.WatchEventsRequest) -> None:
        self._open, self._request = open_, request
        self._stream: EventStream | None = None

    @property
    def cursor(self) -> str:
        """Where to go on after the last event that was handed out: worth keeping."""
        return self._stream.cursor if self._stream is not None else ""

    async def _begun(self) -> EventStream:
        if self._stream is None:
            self._stream = await asyncio.to_thread(EventStream, self._open, self._request)
        return self._stream

    def __aiter__(self) -> AsyncEventStream:
        return self

    async def __anext__(self) -> v1.AuditEvent:
        """Wait for the next event, on a thread of its own; cancelling ends the stream."""
        stream = await self._begun()
        try:
            event = await asyncio.to_thread(next, stream, None)
        except asyncio.CancelledError:
            stream.close()
            raise
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """End the stream."""
        if self._stream is not None:
            self._stream.close()

    async def __aenter__(self) -> AsyncEventStream:
        await self._begun()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()
