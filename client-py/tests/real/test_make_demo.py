"""`make demo`, as it is run."""

import os
import subprocess
import sys
from pathlib import Path

from support import POLICIES

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "run.py"


def test_the_demo_succeeds() -> None:
    crew = POLICIES / "examples" / "research_crew"
    done = subprocess.run(
        [sys.executable, DEMO, "--zta", os.environ["ZTA_BIN"], "--policies", crew],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("FORBIDDEN") == 3
    assert done.stdout.count("8 tool calls tried, 8 refused, 0 ran") == 3


def test_the_demo_fails_when_something_is_not_as_expected(tmp_path: Path) -> None:
    crew = tmp_path / "examples" / "crew"
    source = POLICIES / "examples" / "research_crew"
    (tmp_path / "examples").mkdir()
    crew.mkdir()
    for folder, target in ((POLICIES, tmp_path), (source, crew)):
        for file in [*folder.glob("*.cedar"), *folder.glob("*.cedarschema")]:
            text = file.read_text().replace('context.input.collection == "secret"', "false")
            (target / file.name).write_text(text)
    done = subprocess.run(
        [sys.executable, DEMO, "--zta", os.environ["ZTA_BIN"], "--policies", crew],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 1
    assert "not as expected" in done.stdout
