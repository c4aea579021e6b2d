"""What became of permitted calls, told to the server in the background.

No call waits for it and none fails of it: a bounded queue, a thread, batches. What cannot be told
is counted. The server takes the same report twice as one, so what got no answer is told again.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Mapping

from zta import v1
from zta._calls import Outcome
from zta._client import Client
from zta._errors import RpcError
from zta._messages import Decision

logger = logging.getLogger("zta")

QUEUE_MAX = 4096
"""Outcomes that may wait; of more, the newest are lost."""
BATCH_MAX = 256
_LINGER_S = 0.1  # how long the first of a batch waits for others
_CALL_TIMEOUT_MS = 5_000
_RETRY_S, _RETRY_MAX_S = 0.25, 30.0
_CLOSE_S = 2.0
_RETRIABLE = {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
_ERROR_CLASS = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")
_Item = tuple[str, v1.CallOutcome]


def call_outcome(decision: Decision, outcome: Outcome) -> v1.CallOutcome:
    """Build the report of one call. An error class that is no short word is left out."""
    report = v1.CallOutcome(
        decision_id=decision.decision_id,
        result=v1.CALL_RESULT_OK if outcome.ok else v1.CALL_RESULT_ERROR,
        duration_us=max(0, round(outcome.duration_ms * 1000)),
        labels=outcome.labels,
    )
    if outcome.size_bytes is not None:
        report.size_bytes = outcome.size_bytes
    if not outcome.ok and _ERROR_CLASS.fullmatch(outcome.error_class):
        report.error_class = outcome.error_class
    return report


class OutcomeReporter:
    """Tells the server what became of calls, each under the identity of the agent that made it."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        """Report by these clients, by the agents' names; a thread starts with the first report."""
        self._clients = dict(clients)
        self._lost = 0
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._queue: deque[_Item] = deque()
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy = 0
        self._asked = 0  # who waits in flush

    @property
    def lost(self) -> int:
        """How many outcomes the server was not told of: too many at once, unreachable, refused."""
        return self._lost

    def put(self, agent: str, report: v1.CallOutcome) -> None:
        """Queue a report; where there is no room it is lost. Does not wait."""
        if self._pid != os.getpid():
            self._begin()  # after a fork: the other process tells what was queued there
        with self._wake:
            if self._closing.is_set() or len(self._queue) >= QUEUE_MAX:
                self._lost += 1
                return
            self._queue.append((agent, report))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="zta-outcomes", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._wake.notify_all()

    def flush(self, timeout_s: float = _CLOSE_S) -> bool:
        """Wait until nothing is queued; whether that came about in time."""
        deadline = time.monotonic() + timeout_s
        with self._wake:
            self._asked += 1
            self._wake.notify_all()
            try:
                while self._queue or self._busy:
                    left = deadline - time.monotonic()
                    if left <= 0 or self._pid != os.getpid():
                        return False
                    self._wake.wait(left)
                return True
            finally:
                self._asked -= 1

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Tell what is queued, then stop; what is not told in time is lost."""
        atexit.unregister(self.close)
        self._closing.set()
        with self._wake:
            self._wake.notify_all()
        if self._thread is None or self._pid != os.getpid():
            return
        self._thread.join(timeout_s)
        with self._wake:
            untold = len(self._queue) + (self._busy if self._thread.is_alive() else 0)
            self._queue.clear()
            self._lost += untold
            self._busy = 0
            self._thread = None
        if untold:
            logger.warning("%d outcomes were not told to the server before the end", untold)

    def _run(self) -> None:
        while batch := self._take():
            for agent in dict.fromkeys(agent for agent, _ in batch):
                self._tell(agent, [report for of, report in batch if of == agent])
            with self._wake:
                self._busy = 0
                self._wake.notify_all()

    def _take(self) -> list[_Item]:
        """The next batch; none at the end."""
        with self._wake:
            while not self._queue and not self._closing.is_set():
                self._wake.wait()
            linger = time.monotonic() + _LINGER_S
            while len(self._queue) < BATCH_MAX and not self._asked and not self._closing.is_set():
                left = linger - time.monotonic()
                if left <= 0:
                    break
                self._wake.wait(left)
            batch = [self._queue.popleft() for _ in range(min(BATCH_MAX, len(self._queue)))]
            self._busy = len(batch)
            return batch

    def _tell(self, agent: str, reports: list[v1.CallOutcome]) -> None:
        wait_s = _RETRY_S
        while True:
            last_try = self._closing.is_set()
            reports, why = self._told(agent, reports)
            if not reports:
                return
            if last_try:
                self._lose(len(reports), agent, why)
                return
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, _RETRY_MAX_S)

    def _told(self, agent: str, reports: list[v1.CallOutcome]) -> tuple[list[v1.CallOutcome], str]:
        """Tell the server once; return what to tell again, and why."""
        try:
            results = self._clients[agent].report_outcomes(reports, timeout_ms=_CALL_TIMEOUT_MS)
        except RpcError as error:
            results = [error] * len(reports)
        except Exception as error:  # noqa: BLE001 - a thread that ends would tell nothing any more
            self._lose(len(reports), agent, type(error).__name__)
            return [], ""
        again, why = [], ""
        for report, result in zip(reports, results, strict=True):
            if not isinstance(result, RpcError):
                continue
            reason = result.reason or result.code.name
            if result.code.name in _RETRIABLE:
                again.append(report)
                why = reason
            else:
                self._lose(1, agent, reason)
        return again, why

    def _lose(self, count: int, agent: str, why: str) -> None:
        with self._wake:
            self._lost += count
        logger.warning("%d outcomes of `%s` are not on record: %s", count, agent, why)
