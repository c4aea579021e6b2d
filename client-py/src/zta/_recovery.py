"""A certificate for a key whose last one has expired.

No connection can be made with that one, so the key is proved in the metadata of the call instead
(DPoP, RFC 9449).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from zta import v1
from zta._dpop import RECOVER, Metadata, Possession
from zta._errors import from_grpc
from zta._identity import Credential


@dataclass
class _Call:
    """What a proof is made for."""

    credential: Credential


def recover(
    credential: Credential, server_roots: bytes | None, options: Any, timeout_s: float
) -> v1.Certificate:
    """The next certificate of the credential's key; raises RpcError."""
    request = v1.RecoverRequest(certificate_der=credential.certificate_der)
    possession = Possession(server_roots)
    secured = possession.channel_credentials(credential)
    with grpc.secure_channel(credential.endpoint, secured, options=options) as channel:
        stub = v1.AgentServiceStub(channel)

        def invoke(metadata: Metadata) -> Any:
            return stub.Recover.with_call(request, timeout=timeout_s, metadata=tuple(metadata))

        try:
            answer = possession.call(_Call(credential), RECOVER, invoke)
        except grpc.RpcError as error:
            raise from_grpc(error) from None
    certificate: v1.Certificate = answer.certificate
    return certificate
