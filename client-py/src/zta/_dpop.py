"""Proof of possession with each call (DPoP, RFC 9449), where TLS ends before the server.

The client shows no certificate in TLS. It logs in with its certificate in a message and a proof
by its key, and proves the key again with each call: a token that is stolen is worth nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from zta import v1
from zta._errors import RpcError, from_grpc
from zta._identity import KEY, Credential, leaf_of, load_key

_LOGIN = "/zta.v1.AuthenticationService/Authenticate"
RECOVER = "/zta.v1.AgentService/Recover"
_NONCE = "dpop-nonce"
_COORDINATE_BYTES = 32
# A token is replaced before it ends, so that no call meets its end on the way.
_TOKEN_MARGIN_S = 30.0
_ATTEMPTS = 3

Metadata = list[tuple[str, str]]


class Possession:
    """The token and the nonce of one key; shared by the connections that prove it."""

    def __init__(self, server_roots: bytes | None) -> None:
        self.server_roots = server_roots
        """The CAs of the proxy's certificate (PEM); None for those of the credential."""
        self._lock = threading.Lock()
        self._nonce: str | None = None
        self._token: tuple[str, float] | None = None

    def channel_credentials(self, credential: Credential) -> grpc.ChannelCredentials:
        """TLS that shows no certificate."""
        return grpc.ssl_channel_credentials(self.server_roots or credential.ca_pem)

    def call(
        self,
        connection: Any,
        method: str,
        invoke: Callable[[Metadata], Any],
        acting: str | None = None,
    ) -> Any:
        """Make a call with its proof; `invoke` returns grpc's (answer, call) or raises.

        `acting` is the token of a call on somebody's behalf.
        """
        for attempt in range(_ATTEMPTS):
            token = acting
            if token is None and method not in {_LOGIN, RECOVER}:
                token = self._valid_token(connection)
            try:
                answer, call = invoke(self._metadata(connection.credential, method, token))
            except grpc.RpcError as error:
                if not self.learn(error, token) or attempt == _ATTEMPTS - 1:
                    raise
            else:
                self._take_nonce(call.initial_metadata())
                return answer
        raise AssertionError("the last attempt returns or raises")

    def learn(self, error: Any, token: str | None) -> bool:
        """Take the nonce of a refusal; whether the same call can pass with it."""
        trailers = getattr(error, "trailing_metadata", None)
        if trailers is None:
            return False
        self._take_nonce(trailers())
        reason = from_grpc(error).reason
        if reason in {"TOKEN_EXPIRED", "TOKEN_INVALID"}:
            with self._lock:
                is_own = self._token is not None and self._token[0] == token
                if is_own:
                    self._token = None
            return is_own
        return reason == "NONCE_REQUIRED"

    def _take_nonce(self, metadata: Any) -> None:
        nonce = dict(metadata or ()).get(_NONCE)
        if isinstance(nonce, str):
            self._nonce = nonce

    def _metadata(self, credential: Credential, method: str, token: str | None) -> Metadata:
        metadata = [("dpop", self._proof(credential, method, token))]
        if token is not None:
            metadata.append(("authorization", f"DPoP {token}"))
        return metadata

    def _valid_token(self, connection: Any) -> str:
        with self._lock:
            if self._token is not None and time.time() < self._token[1]:
                return self._token[0]
        token = self._log_in(connection)
        with self._lock:
            self._token = token
        return token[0]

    def _log_in(self, connection: Any) -> tuple[str, float]:
        credential: Credential = connection.credential
        leaf = leaf_of(credential.certificate_pem, "the certificate")
        der = leaf.public_bytes(serialization.Encoding.DER)
        request = v1.AuthenticateRequest(certificate=v1.CertificateProof(certificate_der=der))
        login = connection.callable(
            "unary_unary",
            _LOGIN,
            v1.AuthenticateRequest.SerializeToString,
            v1.AuthenticateResponse.FromString,
        )
        answer = self.call(
            connection, _LOGIN, lambda metadata: login.with_call(request, 10.0, metadata)
        )
        if not answer.access_token:
            raise RpcError(grpc.StatusCode.INTERNAL, "the answer to the login has no token")
        end = answer.expire_time.seconds
        margin_s = min(_TOKEN_MARGIN_S, max(0.0, (end - time.time()) / 4))
        return answer.access_token, end - margin_s

    def _proof(self, credential: Credential, method: str, token: str | None) -> str:
        key = load_key(credential.key_pem, credential.folder / KEY)
        numbers = key.public_key().public_numbers()
        jwk = {
            "kty": "EC",
            "crv": "P-256",
            "x": _encode(numbers.x.to_bytes(_COORDINATE_BYTES, "big")),
            "y": _encode(numbers.y.to_bytes(_COORDINATE_BYTES, "big")),
        }
        claims: dict[str, Any] = {
            "jti": secrets.token_urlsafe(16),
            "htm": "POST",
            "htu": f"https://{credential.endpoint}{method}",
            "iat": int(time.time()),
        }
        if self._nonce is not None:
            claims["nonce"] = self._nonce
        if token is not None:
            claims["ath"] = _encode(hashlib.sha256(token.encode()).digest())
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}
        text = f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(claims).encode())}"
        signature = key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(signature)
        fixed = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
        return f"{text}.{_encode(fixed)}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
