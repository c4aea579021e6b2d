"""The examples run as their first lines say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zta.testing import FakeServer

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *credential: Path) -> str:
    environment = {**os.environ, "ZTA_CREDENTIAL": str(*credential)}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *credential],
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


AGENTS = ["strands_agent.py", "crewai_agent.py", "autogen_agent.py"]


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_runs_without_anything(name: str) -> None:
    out = run(name)
    assert "(web_search runs: agents)" in out
    assert "(publish_report runs" not in out
    assert "DENIED: no policy permits research to call publish_report" in out


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_searches_and_does_not_publish(name: str) -> None:
    with FakeServer(allow={"research": ["web_search"]}) as server:
        out = run(name, server.credential("research"))
        requests = [record.request for record in server.records]
    assert "(web_search runs: agents)" in out
    assert "(publish_report runs" not in out
    assert "DENIED: no policy permits research to call publish_report" in out
    assert [request.user for request in requests] == ["alice", "alice"]


def test_direct_calls() -> None:
    with FakeServer(allow={"research": ["web_search"]}) as server:
        out = run("direct_rpc.py", server.credential("research"))
    assert "EFFECT_ALLOW" in out
    assert "\nallowed\n" in out
    assert "may not list agents" in out
