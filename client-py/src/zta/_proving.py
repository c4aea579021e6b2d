"""Proves a client's key again, as often as the server asks for it, by itself.

A handshake proves the key once; a connection whose key is not proved again in time counts as
suspended. Where each call carries a proof of its own, there is nothing to do.
"""

from __future__ import annotations

import logging
import random
import threading
import weakref
from typing import TYPE_CHECKING

import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from zta import v1
from zta._channel import RenewingChannel
from zta._errors import RpcError, ZtaError
from zta._identity import KEY, Credential, load_key

if TYPE_CHECKING:
    from zta._renewal import Renewer

logger = logging.getLogger("zta")

_CONTEXT = b"zta-challenge-v1\0"
_FIRST_S = 1.0  # the server's interval is not known yet; the handshake is a proof
_RETRY_S_MIN, _RETRY_S_MAX = 0.5, 30.0
_LOOK_S = 3_600.0  # where the server never asks: another may be behind the name tomorrow
_RPC_TIMEOUT_S = 10.0


def signed(credential: Credential, challenge: bytes) -> v1.AuthenticateRequest:
    """Answer a challenge with the credential's key."""
    key = load_key(credential.key_pem, credential.folder / KEY)
    signature = key.sign(_CONTEXT + challenge, ec.ECDSA(hashes.SHA256()))
    return v1.AuthenticateRequest(
        signed_challenge=v1.SignedChallenge(challenge=challenge, signature=signature)
    )


class Prover:
    """Proves the key of one renewer's connection."""

    def __init__(self, renewer: Renewer) -> None:
        self._renewer = weakref.ref(renewer)
        self._interval_s = 0
        self._failures = 0

    def step(self, renewer: Renewer) -> float:
        """Ask how often, or prove the key; return the seconds until the next look."""
        try:
            channel = RenewingChannel(renewer.source, _RPC_TIMEOUT_S, awaitable=False)
            service = v1.AuthenticationServiceStub(channel)
            given = service.GetChallenge(v1.GetChallengeRequest())
            # To ask how often is no proof, and not on record.
            if self._interval_s:
                service.Authenticate(signed(renewer.credential, given.challenge))
        except (ZtaError, OSError) as error:
            if isinstance(error, RpcError) and error.code == grpc.StatusCode.UNIMPLEMENTED:
                return _LOOK_S
            self._failures += 1
            logger.debug("cannot prove the key of %s again", renewer.credential.spiffe_id)
            wait_s = min(_RETRY_S_MAX, _RETRY_S_MIN * 2 ** min(self._failures - 1, 10))
            return float(min(wait_s, 0.2 * self._interval_s or wait_s))
        self._failures = 0
        self._interval_s = given.proof_interval_s
        if not self._interval_s:
            return _LOOK_S
        # Twice as often as it must be: one that fails has time for another try.
        return float(self._interval_s * random.uniform(0.4, 0.5))  # noqa: S311

    def run(self, stop: threading.Event) -> None:
        """Prove until told to stop, or until the renewer is gone."""
        pause_s = _FIRST_S
        while not stop.wait(pause_s):
            renewer = self._renewer()
            if renewer is None:
                return
            try:
                pause_s = self.step(renewer)
            except Exception:
                # This thread must outlive any surprise: without it the key lapses.
                logger.exception("the proof of a key failed unexpectedly")
                pause_s = _RETRY_S_MAX
            del renewer
