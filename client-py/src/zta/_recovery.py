"""A certificate for a key whose last one has expired.

No connection can be made with that one, so the key is proved in the metadata of the call instead
(DPoP, RFC 9449).
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import Any

import grpc
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from zta import v1
from zta._errors import RpcError, from_grpc
from zta._identity import CERTIFICATE, KEY, Credential, leaf_of, load_key

_METHOD = "/zta.v1.AgentService/Recover"
_NONCE = "dpop-nonce"
_COORDINATE_BYTES = 32
# The first proof has no nonce, the second has the server's.
_ATTEMPTS = 2


def recover(credential: Credential, options: Any, timeout_s: float) -> v1.Certificate:
    """The next certificate of the credential's key; raises RpcError."""
    leaf = leaf_of(credential.certificate_pem, credential.folder / CERTIFICATE)
    der = leaf.public_bytes(serialization.Encoding.DER)
    secured = grpc.ssl_channel_credentials(credential.ca_pem)
    nonce: str | None = None
    with grpc.secure_channel(credential.endpoint, secured, options=options) as channel:
        stub = v1.AgentServiceStub(channel)
        for attempt in range(_ATTEMPTS):
            metadata = (("dpop", _proof(credential, nonce)),)
            request = v1.RecoverRequest(certificate_der=der)
            try:
                answer = stub.Recover(request, timeout=timeout_s, metadata=metadata)
            except grpc.RpcError as error:
                refusal = from_grpc(error)
                nonce = dict(getattr(error, "trailing_metadata", tuple)() or ()).get(_NONCE)
                wants_nonce = refusal.reason == "NONCE_REQUIRED" and nonce is not None
                if attempt == _ATTEMPTS - 1 or not wants_nonce:
                    raise refusal from None
            else:
                return answer.certificate
    raise RpcError(grpc.StatusCode.INTERNAL, "no attempt was made")


def _proof(credential: Credential, nonce: str | None) -> str:
    key = load_key(credential.key_pem, credential.folder / KEY)
    numbers = key.public_key().public_numbers()
    jwk = {"kty": "EC", "crv": "P-256", "x": _coordinate(numbers.x), "y": _coordinate(numbers.y)}
    claims: dict[str, Any] = {
        "jti": secrets.token_urlsafe(16),
        "htm": "POST",
        "htu": f"https://{credential.endpoint}{_METHOD}",
        "iat": int(time.time()),
    }
    if nonce is not None:
        claims["nonce"] = nonce
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}
    text = f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(claims).encode())}"
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    fixed = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
    return f"{text}.{_encode(fixed)}"


def _coordinate(number: int) -> str:
    return _encode(number.to_bytes(_COORDINATE_BYTES, "big"))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
