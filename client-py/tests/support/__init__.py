"""What the tests of several frameworks share."""

import contextvars
import json
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLICIES = Path(__file__).parents[3] / "policies"
READ = ("read_file", {"path": "a"})
DELETE = ("delete_file", {"path": "b"})
FAIL = ("read_file", {"path": "missing"})
"""Allowed like any other, and the tool raises."""


def text(arguments: Any) -> str:
    """Arguments as a model writes them; a string stays as it is."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


@dataclass
class Ran:
    """Which tool bodies ran, in order."""

    calls: list[tuple[str, Any]] = field(default_factory=list)

    def __call__(self, tool: str, argument: Any) -> None:
        self.calls.append((tool, argument))
        if argument == "missing":
            raise FileNotFoundError("no such file")


@dataclass
class Outcome:
    """What came of a run."""

    ran: list[tuple[str, Any]]
    seen: str
    """Everything that the model was shown."""
    final: str


def within(seconds: float, function: Callable[[], Any]) -> Any:
    """Run in a thread of its own: a hung framework cannot be cancelled, only left behind."""
    results: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()
    context = contextvars.copy_context()

    def target() -> None:
        try:
            results.put((context.run(function), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=target, daemon=True).start()
    try:
        value, error = results.get(timeout=seconds)
    except queue.Empty:
        raise AssertionError(f"the run hung for {seconds} s") from None
    if error is not None:
        raise error
    return value
