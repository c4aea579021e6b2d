"""Keeps a client's certificate fresh: renews at half of its life, with jitter, by itself.

One that has expired, because the machine slept, is made good before the next call.
"""

from __future__ import annotations

import datetime
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable

from zta import v1
from zta._channel import OPTIONS, ConnectionSource, RenewingChannel
from zta._dpop import Possession
from zta._errors import RpcError, ZtaError
from zta._identity import Credential
from zta._proving import Prover
from zta._recovery import recover

logger = logging.getLogger("zta")

_POLL_S_MAX = 30.0
_RETRY_S_MIN, _RETRY_S_MAX = 0.5, 60.0
_RPC_TIMEOUT_S = 10.0
_JITTER = 0.1
# How long calls leave a failed recovery alone.
_RECOVERY_PAUSE_S = 5.0


def due_time(credential: Credential, jitter: float) -> datetime.datetime:
    """When to renew: at half of the lifetime, moved by up to a tenth of it (jitter -1 to 1)."""
    lifetime = credential.not_after - credential.not_before
    return credential.not_before + lifetime * (0.5 + _JITTER * jitter)


class Renewer:
    """Owns the thread that renews one credential; it ends with the client."""

    def __init__(
        self,
        credential: Credential,
        now: Callable[[], datetime.datetime] | None = None,
        possession: Possession | None = None,
    ) -> None:
        self.credential = credential
        self._possession = possession
        self.source = ConnectionSource(credential, self._ensure_running, possession, self)
        self._now = now or (lambda: datetime.datetime.now(datetime.timezone.utc))
        self._stop = threading.Event()
        self._pid = 0
        self._failures = 0
        self._renewing = threading.RLock()
        self._refused_at: float | None = None
        self._due = self._next_due()

    def _next_due(self) -> datetime.datetime:
        # Spread, so that a fleet that was enrolled together does not renew together.
        return due_time(self.credential, random.uniform(-1, 1))  # noqa: S311

    def _ensure_running(self) -> None:
        """Start the thread at the first use in this process; a fork does not copy it."""
        if self._pid == os.getpid() or self._stop.is_set():
            return
        self._pid = os.getpid()
        # A thread of the parent may have held it.
        self._renewing = threading.RLock()
        arguments = (weakref.ref(self), self._stop)
        threading.Thread(target=_run, args=arguments, name="zta-renewal", daemon=True).start()
        if not self.source.proves:
            run = Prover(self).run
            threading.Thread(target=run, args=(self._stop,), name="zta-proof", daemon=True).start()

    def close(self) -> None:
        """End the thread and the connection."""
        self._stop.set()
        self.source.close()

    def step(self) -> float:
        """Renew if it is time; return the seconds until the next look."""
        if self._now() < self._due:
            return self._pause()
        try:
            with self._renewing:
                self._renew()
            self._failures = 0
            return self._pause()
        except (ZtaError, OSError) as error:
            self._failures += 1
            left_s = (self.credential.not_after - self._now()).total_seconds()
            logger.warning(
                "cannot renew the certificate of %s (%s); it %s",
                self.credential.spiffe_id,
                _brief(error),
                f"is good for {left_s:.0f} s more" if left_s > 0 else "has expired: enroll again",
            )
            backoff = min(_RETRY_S_MAX, _RETRY_S_MIN * 2 ** min(self._failures - 1, 10))
            return float(backoff * random.uniform(0.5, 1.0))  # noqa: S311

    def has_expired(self) -> bool:
        """Whether no connection can be made with the certificate any more."""
        return self._now() >= self.credential.not_after

    def make_good(self) -> None:
        """Recover before a call, unless another one has, or failed to a moment ago."""
        with self._renewing:
            recently = (
                self._refused_at is not None
                and time.monotonic() - self._refused_at < _RECOVERY_PAUSE_S
            )
            if recently or not self.has_expired():
                return
            try:
                self._renew()
                self._refused_at = None
            except (ZtaError, OSError) as error:
                # The call fails by itself, and says why.
                self._refused_at = time.monotonic()
                logger.warning(
                    "cannot recover the certificate of %s (%s)",
                    self.credential.spiffe_id,
                    _brief(error),
                )

    def _pause(self) -> float:
        # Short looks: the wall clock may jump, and a laptop may sleep.
        wait_s = (self._due - self._now()).total_seconds()
        return float(min(_POLL_S_MAX, max(_RETRY_S_MIN, wait_s)))

    def _renew(self) -> None:
        roots = self._possession.server_roots if self._possession else None
        by_our_ca = roots is None
        with self.credential.renewal_lock():
            stored = Credential.load(self.credential.folder, self.credential.endpoint)
            if stored.not_after > self.credential.not_after:
                renewed = stored  # another process with this folder was faster
            elif self.has_expired():
                issued = recover(self.credential, roots, OPTIONS, _RPC_TIMEOUT_S)
                renewed = self.credential.renewed(issued, by_our_ca=by_our_ca)
            else:
                channel = RenewingChannel(self.source, _RPC_TIMEOUT_S, awaitable=False)
                # For a server that sees no certificate of ours in the handshake.
                request = v1.RenewRequest(certificate_der=self.credential.certificate_der)
                answer = v1.AgentServiceStub(channel).Renew(request)
                renewed = self.credential.renewed(answer.certificate, by_our_ca=by_our_ca)
        self.credential = renewed
        # Not at once again, even if the server dates its certificates far back.
        lifetime = renewed.not_after - renewed.not_before
        self._due = max(self._next_due(), self._now() + lifetime * _JITTER)
        self.source.replace(renewed)
        logger.info("renewed the certificate of %s", renewed.spiffe_id)


def _run(reference: weakref.ref[Renewer], stop: threading.Event) -> None:
    pause_s = 0.0
    while not stop.wait(pause_s):
        renewer = reference()
        if renewer is None:
            return
        try:
            pause_s = renewer.step()
        except Exception:
            # This thread must outlive any surprise: without it the identity expires.
            logger.exception("renewal failed unexpectedly")
            pause_s = _RETRY_S_MAX
        del renewer


def _brief(error: Exception) -> str:
    if isinstance(error, RpcError):
        return error.reason or error.code.name
    return str(error)
