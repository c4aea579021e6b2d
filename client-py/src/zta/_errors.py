"""What can go wrong, one class for each thing that a caller can do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

_DOMAIN = "zta"
_DETAILS_KEY = "grpc-status-details-bin"


class ZtaError(Exception):
    """Base of every error of this package."""


class CredentialError(ZtaError):
    """A credential folder cannot be used; the message says what to do."""


class EnrollmentError(ZtaError):
    """A join token could not be exchanged for an identity."""


class ConfigurationError(ZtaError):
    """A guard or an adapter was set up in a way that it could not enforce."""


class ArgumentsError(ZtaError, ValueError):
    """Tool arguments have no canonical form. The message never holds a value of theirs."""


class RpcError(ZtaError):
    """A call failed. For a PEP this is always a deny."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_delay_s: float | None = None,
    ) -> None:
        super().__init__(f"{code.name}{f' ({reason})' if reason else ''}: {message}")
        self.code = code
        """The gRPC status code."""
        self.message = message
        """The server's sentence for a person."""
        self.reason = reason
        """The stable reason (`ErrorReason` without its prefix), where the server gave one."""
        self.metadata: dict[str, str] = dict(metadata or {})
        """Details of the reason, for example the name of an exceeded limit."""
        self.retry_delay_s = retry_delay_s
        """When to try again, where the server said so."""


def from_grpc(error: Any) -> RpcError:
    """Translate an error of grpc, which also is a finished call, with its rich details."""
    if isinstance(error, grpc.FutureCancelledError):
        return RpcError(grpc.StatusCode.CANCELLED, "the call was cancelled")
    if not callable(getattr(error, "code", None)):
        return RpcError(grpc.StatusCode.UNKNOWN, type(error).__name__)
    code, message = error.code(), error.details() or ""
    try:
        trailers = dict(error.trailing_metadata() or ())
        status = status_pb2.Status.FromString(trailers.get(_DETAILS_KEY, b""))
    except Exception:  # noqa: BLE001 - a garbled trailer must not hide the error that carried it
        return RpcError(code, message)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    reason, metadata, delay = None, None, None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == _DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(retry.DESCRIPTOR) and detail.Unpack(retry):
            delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return RpcError(code, message, reason, metadata, delay)
