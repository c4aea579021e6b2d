"""What a guard costs in Python: each call decided by a real server, beside the same call without.

`tools/python.sh tools/bench_guard.py [--out FILE]`; ZTA_BIN names the server, optimised. The
figures are printed, and merged into FILE, which `make bench` has written. Milliseconds are of one
call at a time; `python_guard_calls_per_s` is of 32 threads.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from zta import Guard, ToolCall
from zta.testing import EmbeddedServer

_RULE = """
@id("bench.read") permit (principal in ZTA::Role::"reader",
  action == ZTA::Action::"call_tool", resource == ZTA::Tool::"read_file");
"""
_POLICIES = Path(__file__).parents[2] / "policies"
_AGENT = "fin"
_WARM_UP, _CALLS = 200, 2_000
_THREADS, _LOAD_S = 32, 5.0


def tool(path: str) -> int:
    """What is called: next to nothing, so that the difference is the guard."""
    return len(path)


def guarded(guard: Guard, arguments: dict[str, str]) -> int:
    """The call as an adapter makes it."""
    decision = guard.decide(_AGENT, ToolCall("read_file", arguments, framework="bench"))
    if not decision.allowed:
        raise RuntimeError(f"a call of the benchmark was denied: {decision.reason}")
    return tool(**arguments)


async def guarded_async(guard: Guard, arguments: dict[str, str]) -> int:
    """The call as an asynchronous adapter makes it."""
    call = ToolCall("read_file", arguments, framework="bench")
    decision = await guard.decide_async(_AGENT, call)
    if not decision.allowed:
        raise RuntimeError(f"a call of the benchmark was denied: {decision.reason}")
    return tool(**arguments)


def milliseconds(call: Callable[[int], object], count: int) -> list[float]:
    """How long each of so many calls takes, one after another."""
    took = []
    for number in range(count):
        began = time.perf_counter()
        call(number)
        took.append((time.perf_counter() - began) * 1000)
    return took


async def milliseconds_async(guard: Guard, count: int) -> list[float]:
    """The same on an event loop."""
    took = []
    for number in range(count):
        began = time.perf_counter()
        await guarded_async(guard, {"path": str(number)})
        took.append((time.perf_counter() - began) * 1000)
    return took


def per_second(guard: Guard) -> float:
    """How many calls a second 32 threads make."""
    end = time.perf_counter() + _LOAD_S

    def work(thread: int) -> int:
        made = 0
        while time.perf_counter() < end:
            guarded(guard, {"path": f"{thread}-{made}"})
            made += 1
        return made

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return sum(pool.map(work, range(_THREADS))) / _LOAD_S


def measure(guard: Guard) -> dict[str, float]:
    """Every figure."""

    def decided(number: int) -> int:
        return guarded(guard, {"path": str(number)})

    milliseconds(decided, _WARM_UP)
    figures = {}
    series = {
        "python_direct": milliseconds(lambda number: tool(path=str(number)), _CALLS),
        "python_guard": milliseconds(decided, _CALLS),
        "python_guard_async": asyncio.run(milliseconds_async(guard, _CALLS)),
    }
    for name, took in series.items():
        cuts = statistics.quantiles(took, n=100)
        figures[f"{name}_ms_p50"] = round(cuts[49], 4)
        figures[f"{name}_ms_p99"] = round(cuts[98], 4)
    figures["python_guard_calls_per_s"] = round(per_second(guard))
    return figures


def main() -> None:
    """Measure, print, merge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="a JSON file to put the figures into")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer() as server:
        (Path(folder) / "bench.cedar").write_text(_RULE)
        server.apply(_POLICIES, folder)
        with server.guard({_AGENT: ["reader"]}, timeout_ms=10_000) as guard:
            figures = measure(guard)
    print(json.dumps(figures, indent=2))
    if out is not None:
        known = json.loads(out.read_text()) if out.exists() else {}
        out.write_text(json.dumps({**known, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
