"""The demo's crews and checks, against the fake server."""

import sys
from pathlib import Path
from typing import Any

import pytest

DEMO = Path(__file__).parent.parent / "examples" / "demo"
sys.path.insert(0, str(DEMO))

import frameworks  # noqa: E402
import run as demo_run  # noqa: E402
from crew import ROLES, SCRIPT  # noqa: E402
from support import within  # noqa: E402

from zta import v1  # noqa: E402
from zta.testing import FakeServer  # noqa: E402


def as_the_crew_policies_say(agent: str, request: Any, _context: Any) -> v1.AuthorizeResponse:
    """What the script expects is what the crew's policies say."""
    import json
    import uuid

    arguments = json.loads(request.arguments_json)
    [step] = [
        step
        for step in SCRIPT[agent]
        if (step.tool, step.arguments) == (request.resource.id, arguments)
    ]
    answer = v1.AuthorizeResponse(
        effect=v1.EFFECT_ALLOW if step.expected == "ALLOWED" else v1.EFFECT_DENY,
        decision_id=str(uuid.uuid4()),
        correlation_id=request.correlation_id,
        message=f"{step.expected} for {agent}",
    )
    if step.expected != "ALLOWED":
        answer.reason = v1.DenyReason.Value(f"DENY_REASON_{step.expected}")
    return answer


@pytest.mark.parametrize("framework", frameworks.RUNS)
def test_a_crew_does_what_its_script_says(framework: str, capsys: Any) -> None:
    with FakeServer() as server:
        server.fault = as_the_crew_policies_say
        demo = demo_run.Demo(None, Path())
        with server.guard(*ROLES, observer=demo.observe) as guard:
            within(60, lambda: demo.crew_run(framework, frameworks.RUNS[framework], guard))
            assert demo.problems == []
            assert capsys.readouterr().out.count("DENIED") == 3
            server.stop()
            within(60, lambda: demo.stopped_run(framework, frameworks.RUNS[framework], guard))
    assert demo.problems == []
    assert "8 tool calls tried, 8 refused, 0 ran" in capsys.readouterr().out


def test_the_demo_notices_a_decision_that_is_wrong() -> None:
    allow = {agent: [step.tool for step in steps] for agent, steps in SCRIPT.items()}
    with FakeServer(allow=allow) as server:
        demo = demo_run.Demo(None, Path())
        with server.guard(*ROLES, observer=demo.observe) as guard:
            run = frameworks.RUNS["AutoGen"]
            within(60, lambda: demo.crew_run("AutoGen", run, guard))
    assert any("ALLOWED instead of NOT_PERMITTED" in problem for problem in demo.problems)
    assert any("the bodies that ran" in problem for problem in demo.problems)


def test_the_demo_notices_a_tool_that_runs_without_a_server() -> None:
    with FakeServer(allow={"research": ["web_search"]}) as server:
        demo = demo_run.Demo(None, Path())
        with server.guard(*ROLES, observer=demo.observe) as guard:
            run = frameworks.RUNS["AutoGen"]
            within(60, lambda: demo.stopped_run("AutoGen", run, guard))
    assert demo.problems
