"""One authenticated channel that outlives its certificates.

grpc's client credentials cannot be reloaded, so each new certificate means a new channel. A call
holds a lease on the channel it began on; the old one closes when its last lease ends, so that no
call fails for a renewal. After a fork the child makes its own channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grpc

from zta._acting import Acting
from zta._dpop import Possession
from zta._errors import RpcError, from_grpc
from zta._identity import Credential

OPTIONS = [
    # A proxy of the environment cannot pass mutual TLS on, and must not see where agents call.
    ("grpc.enable_http_proxy", 0),
    # A new certificate must not ride on a connection that was made with the old one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]

_ANSWER_MARGIN_S = 1.0
_abandoned: list[object] = []
_sources: weakref.WeakSet[ConnectionSource] = weakref.WeakSet()


class Connection:
    """A channel made with one certificate."""

    def __init__(self, credential: Credential, possession: Possession | None) -> None:
        self.credential = credential
        self.possession = possession
        self.leases = 0
        self.retired = False
        self._callables: dict[tuple[str, str], Any] = {}
        if possession is None:
            secured = grpc.ssl_channel_credentials(
                credential.ca_pem, credential.key_pem, credential.certificate_pem
            )
        else:
            secured = possession.channel_credentials(credential)
        self.channel = grpc.secure_channel(credential.endpoint, secured, options=OPTIONS)

    def callable(self, kind: str, method: str, serializer: Any, deserializer: Any) -> Any:
        """The channel's multicallable for a method, made once."""
        key = (kind, method)
        if key not in self._callables:
            make = getattr(self.channel, kind)
            self._callables[key] = make(method, serializer, deserializer)
        return self._callables[key]


class Recovery(Protocol):
    """What makes an expired certificate good before a call."""

    def has_expired(self) -> bool:
        """Whether there is something to do."""

    def make_good(self) -> None:
        """Do it, over the network; never raises."""


class ConnectionSource:
    """Owns the current connection of one credential."""

    def __init__(
        self,
        credential: Credential,
        on_use: Callable[[], None],
        possession: Possession | None = None,
        recovery: Recovery | None = None,
    ) -> None:
        self._credential = credential
        self._on_use = on_use
        self._possession = possession
        # The recovery owns this source; a cycle would keep both, and a thread, alive.
        self._recovery = weakref.ref(recovery) if recovery is not None else None
        self._lock = threading.Lock()
        self._current: Connection | None = None
        self._closed = False
        _sources.add(self)

    @property
    def proves(self) -> bool:
        """Whether each call carries a proof of the key."""
        return self._possession is not None

    def acquire(self) -> Connection:
        """Lease the current connection; each lease is given back by `release`."""
        self._on_use()
        self.prepare()
        with self._lock:
            if self._closed:
                raise RpcError(grpc.StatusCode.CANCELLED, "the client is closed")
            if self._current is None:
                self._current = Connection(self._credential, self._possession)
            self._current.leases += 1
            return self._current

    def needs_recovery(self) -> bool:
        """Whether `prepare` would take a while."""
        recovery = self._recovery() if self._recovery is not None else None
        return recovery is not None and not self._closed and recovery.has_expired()

    def prepare(self) -> None:
        """Make an expired certificate good, if that is possible."""
        if self.needs_recovery():
            recovery = self._recovery() if self._recovery is not None else None
            if recovery is not None:
                recovery.make_good()

    def release(self, connection: Connection) -> None:
        """Give a lease back."""
        with self._lock:
            connection.leases -= 1
            close = connection.retired and connection.leases == 0
        if close:
            # This may be a thread of grpc's own, which close() waits for.
            threading.Thread(target=connection.channel.close, daemon=True).start()

    @contextlib.contextmanager
    def lease(self) -> Iterator[Connection]:
        """A lease for the length of a block."""
        connection = self.acquire()
        try:
            yield connection
        finally:
            self.release(connection)

    def replace(self, credential: Credential) -> None:
        """Use a new certificate from the next call on."""
        with self._lock:
            self._credential = credential
        self._retire()

    def close(self) -> None:
        """Refuse further calls; the channel closes when the calls in flight have ended."""
        with self._lock:
            self._closed = True
        self._retire()

    def _retire(self) -> None:
        with self._lock:
            connection, self._current = self._current, None
            if connection is None:
                return
            connection.retired = True
            close = connection.leases == 0
        if close:
            connection.channel.close()

    def after_fork(self) -> None:
        """Forget the parent's channel: its threads are not in this process."""
        self._lock = threading.Lock()
        if self._current is not None:
            # Never closed and never collected: that would wait for those threads.
            _abandoned.append(self._current)
            self._current = None


def _after_fork_in_child() -> None:
    for source in list(_sources):
        source.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


class _Method:
    """A method on whatever connection is current when it is called."""

    def __init__(
        self, on: tuple[ConnectionSource, float, Acting | None], kind: str, method: str, codec: Any
    ) -> None:
        self._source, self._timeout_s, self._acting = on
        self._kind, self._method, self._codec = kind, method, codec

    def _on(self, connection: Connection) -> Any:
        return connection.callable(self._kind, self._method, *self._codec)

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        if options.get("timeout") is None:
            options["timeout"] = self._timeout_s
        return options

    def _on_behalf(self, connection: Connection, options: dict[str, Any]) -> dict[str, Any]:
        """Add on whose behalf the call is made; without a token there is no call."""
        if self._acting is None:
            return options
        timeout_s = options.get("timeout") or self._timeout_s
        header = self._acting.authorization(connection, timeout_s)
        metadata = (*(options.get("metadata") or ()), ("authorization", header))
        return {**options, "metadata": metadata}


class _BlockingMethod(_Method):
    """Unary-unary, as grpc has it but raising RpcError."""

    def __call__(self, request: Any, **options: Any) -> Any:
        with self._source.lease() as connection:
            try:
                options = self._options(options)
                if connection.possession is not None:
                    return self._proven(connection, request, options)
                options = self._on_behalf(connection, options)
                return self._on(connection)(request, **options)
            except grpc.RpcError as error:
                raise from_grpc(error) from None

    def _proven(self, connection: Connection, request: Any, options: dict[str, Any]) -> Any:
        """The call with a proof of the key; one without a nonce is made again with it."""
        possession = connection.possession
        if possession is None:
            raise ValueError("this connection proves no key")
        acting = self._acting
        token = acting.token(connection, options["timeout"]) if acting is not None else None
        own = list(options.pop("metadata", None) or ())

        def invoke(metadata: list[tuple[str, str]]) -> Any:
            return self._on(connection).with_call(request, metadata=own + metadata, **options)

        return possession.call(connection, self._method, invoke, token)

    def future(self, request: Any, **options: Any) -> grpc.Future[Any]:
        """Start the call; the lease ends with it."""
        connection = self._source.acquire()
        try:
            _unproven(connection)
            options = self._on_behalf(connection, self._options(options))
            call = self._on(connection).future(request, **options)
        except BaseException:
            self._source.release(connection)
            raise
        call.add_done_callback(lambda _call: self._source.release(connection))
        future: grpc.Future[Any] = call
        return future


class _AwaitableMethod(_BlockingMethod):
    """Unary-unary for asyncio, on any loop and thread, over the same blocking channel."""

    async def __call__(self, request: Any, **options: Any) -> Any:
        if self._source.needs_recovery():
            await asyncio.to_thread(self._source.prepare)
        options = self._options(options)
        if self._source.proves:
            # A proof may need a login first, and a nonce a second attempt.
            call = super().__call__
            return await asyncio.to_thread(call, request, **options)
        if self._acting is not None:
            # A token that has to be asked for first must not hold up the loop.
            await asyncio.to_thread(self._warm, self._acting, options["timeout"])
        return await wait_for(self.future(request, **options), options["timeout"])

    def _warm(self, acting: Acting, timeout_s: float) -> None:
        with self._source.lease() as connection:
            if not acting.is_fresh(connection):
                acting.authorization(connection, timeout_s)


class _StreamMethod(_Method):
    """Any streaming method; an answer stream may outlive the certificate it began with."""

    def __call__(self, request: Any, **options: Any) -> Any:
        connection = self._source.acquire()
        try:
            _unproven(connection)
            call = self._on(connection)(request, **self._on_behalf(connection, options))
        except BaseException:
            self._source.release(connection)
            raise
        call.add_done_callback(lambda _call: self._source.release(connection))
        return call


def _unproven(connection: Connection) -> None:
    if connection.possession is not None:
        raise RpcError(
            grpc.StatusCode.UNIMPLEMENTED,
            "a client with dpop=True makes unary calls only, and no `.future` of them",
        )


async def wait_for(call: grpc.Future[Any], timeout_s: float) -> Any:
    """Await a call of a blocking channel from the running loop; cancelling cancels the call."""
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not finished.done():
            finished.set_result(None)

    def done(_call: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(wake)

    call.add_done_callback(done)
    try:
        # grpc keeps the deadline; this one is for a core that is wedged.
        await asyncio.wait({finished}, timeout=timeout_s + _ANSWER_MARGIN_S)
    finally:
        if not call.done():
            call.cancel()
    if not call.done():
        raise RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer")
    try:
        return call.result()
    except (grpc.RpcError, grpc.FutureCancelledError) as error:
        raise from_grpc(error) from None


class RenewingChannel(grpc.Channel):
    """A `grpc.Channel` for any generated stub, always on the current certificate."""

    def __init__(
        self,
        source: ConnectionSource,
        timeout_s: float,
        *,
        awaitable: bool,
        acting: Acting | None = None,
    ) -> None:
        self._source, self._on = source, (source, timeout_s, acting)
        self._unary = _AwaitableMethod if awaitable else _BlockingMethod

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        """A unary method."""
        codec = (request_serializer, response_deserializer)
        return self._unary(self._on, "unary_unary", method, codec)

    def _stream(self, kind: str, method: str, serializer: Any, deserializer: Any) -> Any:
        codec = (serializer, deserializer)
        return _StreamMethod(self._on, kind, method, codec)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        """A method that answers with a stream."""
        return self._stream("unary_stream", method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        """A method that takes a stream."""
        return self._stream("stream_unary", method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        """A method that takes and answers with a stream."""
        return self._stream("stream_stream", method, request_serializer, response_deserializer)

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:
        """Watch the state of the connection that is current now."""
        with self._source.lease() as connection:
            connection.channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        """End a `subscribe`."""
        with self._source.lease() as connection:
            connection.channel.unsubscribe(callback)

    def close(self) -> None:
        """Close the client's connection for good."""
        self._source.close()

    def __enter__(self) -> RenewingChannel:
        return self

    def __exit__(self, *_error: object) -> bool | None:
        self.close()
        return None
