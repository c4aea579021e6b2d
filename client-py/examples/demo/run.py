"""The demo: three agents, in three frameworks, against a real server.

    run.py --zta PATH_TO_BINARY --policies policies/examples/research_crew

Ends with 0 only if every decision was as expected, no denied tool ran, every model read why, with
the server stopped nothing ran, and the audit log verifies.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from crew import ROLES, SCRIPT, Tools

from zta import Call, Decision, Guard, ZtaError, v1
from zta.testing import EmbeddedServer

_COLOURS = {"ALLOWED": "32", "DENIED": "31", "bold": "1", "dim": "2"}
_COLUMNS = "{:<9}{:<10}{:<16}{:<28}{:<9}{:<30}{:>5}"
_SUBJECT_WIDTH = 26
_UNAVAILABLE = "authorisation service unavailable"


class Demo:
    """One run; `problems` collects whatever was not as expected."""

    def __init__(self, server: EmbeddedServer, policies: Path) -> None:
        self.server, self.policies = server, policies
        self.problems: list[str] = []
        self.framework = ""
        self.quiet = False
        self.decisions: list[tuple[str, Call, Decision]] = []
        self.answered: list[Decision] = []

    def observe(self, agent: str, call: Call, decision: Decision) -> None:
        """Print one line for each decision."""
        self.decisions.append((agent, call, decision))
        if self.quiet:
            return
        if decision.decided:
            self.answered.append(decision)
        effect = "ALLOWED" if decision.allowed else "DENIED"
        by = ", ".join(decision.policy_ids)
        why = by if decision.allowed else f"{decision.reason} {by}".strip()
        place = "-" if decision.sequence is None else f"#{decision.sequence}"
        line = _COLUMNS.format(
            self.framework, agent, call.resource, _subject(call), effect, why, place
        )
        print(line.replace(effect, colour(effect, effect), 1), flush=True)

    def run(self) -> None:
        """Everything, step by step."""
        credentials = self.prepare()
        step("the crew works: each decision as it is made")
        print(colour("dim", _COLUMNS.format("", "agent", "tool", "on", "", "why", "audit")))
        with Guard(credentials, observer=self.observe, timeout_ms=5_000) as guard:
            for framework, run in _runs().items():
                self.crew_run(framework, run, guard)
            self.on_record()
            step("the server stops: what do the agents still get to do?")
            self.server.stop()
            for framework, run in _runs().items():
                self.stopped_run(framework, run, guard)
        self.verify()

    def prepare(self) -> dict[str, Path]:
        """Policies and agents."""
        step(f"applying the policies in {self.policies}")
        print(indent(self.server.apply(_base_policies(self.policies), self.policies)))
        step("registering and enrolling three agents; each makes its own key")
        credentials = {}
        for name, roles in ROLES.items():
            credentials[name] = self.server.agent(name, roles)
            print(f"    {name:<10} spiffe://zta.local/agent/{name:<10} role {', '.join(roles)}")
        return credentials

    def crew_run(self, framework: str, run: Callable[[Guard, Tools], str], guard: Guard) -> None:
        """The crew in one framework, and what must be true afterwards."""
        self.framework, self.decisions, tools = framework, [], Tools()
        with guard.session(user="demo", session_id=f"demo-{framework.lower()}"):
            seen = run(guard, tools)
        expected = [(agent, step_) for agent, steps in SCRIPT.items() for step_ in steps]
        if len(self.decisions) != len(expected):
            self.problem(f"{len(self.decisions)} decisions instead of {len(expected)}")
        for (agent, wanted), (asker, call, decision) in zip(expected, self.decisions, strict=False):
            got = "ALLOWED" if decision.allowed else decision.reason
            if (agent, wanted.tool, wanted.expected) != (asker, call.resource, got):
                self.problem(f"{asker} {call.resource}: {got} instead of {wanted.expected}")
            if not decision.allowed and decision.message not in seen:
                self.problem(f"the model of {agent} did not read why {call.resource} was denied")
        allowed = [(w.tool, w.arguments) for _, w in expected if w.expected == "ALLOWED"]
        if tools.ran != allowed:
            self.problem(f"the bodies that ran are {tools.ran}")

    def on_record(self) -> None:
        """Each decision that an agent got is an event of the log, at the place that it names."""
        request = v1.ListEventsRequest(page_size=1000, types=["decision"])
        events = self.server.admin.audit.ListEvents(request).events
        leaves = {event.sequence: event.leaf.decode() for event in events}
        for decision in self.answered:
            if decision.decision_id not in leaves.get(decision.sequence or 0, ""):
                self.problem(f"decision {decision.decision_id} is not on record")

    def stopped_run(self, framework: str, run: Callable[[Guard, Tools], str], guard: Guard) -> None:
        """The crew without a server: nothing may run."""
        self.framework, self.decisions, tools = framework, [], Tools()
        self.quiet = True
        seen = run(guard, tools)
        self.quiet = False
        tried, ran = len(self.decisions), len(tools.ran)
        refused = sum(not decision.allowed for _, _, decision in self.decisions)
        print(f"    {framework:<9} {tried} tool calls tried, {refused} refused, {ran} ran")
        if ran or refused != tried or tried == 0 or _UNAVAILABLE not in seen:
            self.problem(f"with the server stopped {ran} of {tried} tool calls ran")

    def verify(self) -> None:
        """The record."""
        step("verifying the audit log: `zta audit verify`")
        print(indent(self.server.cli("audit", "verify")))

    def problem(self, text: str) -> None:
        """Note something that is not as it must be."""
        self.problems.append(f"{self.framework}: {text}")
        print(colour("DENIED", f"    not as expected: {text}"))


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description="Real agents against a real server.")
    parser.add_argument("--zta", type=Path, required=True, help="the server's binary")
    parser.add_argument("--policies", type=Path, required=True, help="the crew's policy folder")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # frameworks have much to say about scripted models
    # The server must end with the demo, however that ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    step("starting the server on an embedded store in a temporary folder")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="zta-demo-") as scratch,
            EmbeddedServer(options.zta) as server,
        ):
            os.environ["CREWAI_STORAGE_DIR"] = scratch
            print(f"    listening on {server.endpoint}")
            demo = Demo(server, options.policies)
            demo.run()
    except ZtaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    if demo.problems:
        print(f"\nerror: {len(demo.problems)} things were not as expected", file=sys.stderr)
        return 1
    step(f"done in {time.monotonic() - began:.0f} s. What this showed:")
    print(
        f"    - {len(demo.answered)} decisions in three frameworks, each of them on record\n"
        "    - no denied tool body ran, and every model read why\n"
        "    - without the server no tool ran at all\n"
        "    - the log verifies: nothing in it was altered, removed or reordered"
    )
    return 0


def _runs() -> dict[str, Callable[[Guard, Tools], str]]:
    from frameworks import RUNS

    return RUNS


def _subject(call: Call) -> str:
    """What the call is about: its first arguments."""
    values = [str(value) for value in call.arguments.values()]
    text = "/".join(values) if "collection" in call.arguments else values[0]
    return textwrap.shorten(text, _SUBJECT_WIDTH, placeholder="...")


def _base_policies(crew: Path) -> Path:
    """The rules that always hold, two folders up from an example."""
    return crew.parent.parent


def step(text: str) -> None:
    """Say what happens now."""
    print(f"\n{colour('bold', '==> ' + text)}", flush=True)


def colour(name: str, text: str) -> str:
    """Text in colour on a terminal."""
    on = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m" if on else text


def indent(text: str) -> str:
    """Each line under its heading."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines())


if __name__ == "__main__":
    sys.exit(main())
