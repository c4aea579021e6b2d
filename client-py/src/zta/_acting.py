"""Acting on somebody's behalf: an access token for a grant, kept fresh.

The token is bound to the certificate of the connection that it was asked for on, so it is kept with
that connection: on the next one, after a renewal, another is asked for.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import grpc

from zta import v1
from zta._errors import RpcError, from_grpc

if TYPE_CHECKING:
    from zta._channel import Connection

_EXCHANGE = "/zta.v1.AuthenticationService/ExchangeToken"
_FRESH = 0.5  # of a token's life; then another is asked for
_RETRY_S = 1.0


class Acting:
    """A grant that names the client, and the token that it was turned into last."""

    def __init__(self, grant: str) -> None:
        self._grant = grant
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._token = ""
        self._refresh = self._end = 0.0

    def is_fresh(self, connection: Connection) -> bool:
        """Whether `authorization` would return at once."""
        return connection is self._connection and time.monotonic() < self._refresh

    def authorization(self, connection: Connection, timeout_s: float) -> str:
        """Return the header of a call on this connection, which proves its key in TLS."""
        return f"Bearer {self.token(connection, timeout_s)}"

    def token(self, connection: Connection, timeout_s: float) -> str:
        """Return the token of a call on this connection.

        Raises RpcError where there is no token: the call must not be made on the client's own
        behalf.
        """
        with self._lock:
            if not self.is_fresh(connection):
                self._renew(connection, timeout_s)
            return self._token

    def _renew(self, connection: Connection, timeout_s: float) -> None:
        try:
            answer, life_s = self._exchange(connection, timeout_s)
        except RpcError:
            if connection is not self._connection or time.monotonic() >= self._end:
                raise
            self._refresh = time.monotonic() + _RETRY_S
            return
        self._connection, self._token = connection, answer.token
        self._end = time.monotonic() + life_s
        self._refresh = time.monotonic() + life_s * _FRESH

    def _exchange(
        self, connection: Connection, timeout_s: float
    ) -> tuple[v1.ExchangeTokenResponse, float]:
        request = v1.ExchangeTokenRequest(act=v1.Act(grant=self._grant))
        method = connection.callable(
            "unary_unary",
            _EXCHANGE,
            v1.ExchangeTokenRequest.SerializeToString,
            v1.ExchangeTokenResponse.FromString,
        )
        try:
            answer: v1.ExchangeTokenResponse
            if connection.possession is None:
                answer = method(request, timeout=timeout_s)
            else:
                answer = connection.possession.call(
                    connection,
                    _EXCHANGE,
                    lambda metadata: method.with_call(request, timeout_s, metadata),
                )
        except grpc.RpcError as error:
            raise from_grpc(error) from None
        return answer, max(0.0, answer.expire_time.seconds - time.time())
