"""The guides say what the code says."""

import re
from pathlib import Path

import pytest

import zta

GUIDES = Path(__file__).parents[2] / "docs" / "guards"
SOURCES = Path(zta.__file__).parent / "integrations"


@pytest.mark.parametrize("guide", sorted(GUIDES.glob("*.md")), ids=lambda path: path.stem)
def test_code_and_links_of_a_guide(guide: Path) -> None:
    text = guide.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, str(guide), "exec", flags=0x2000)  # await outside of a function
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (guide.parent / link).exists(), link


def test_each_kind_of_gap_is_explained() -> None:
    found = set()
    for source in SOURCES.glob("_*_coverage.py"):
        found |= set(re.findall(r'Gap\(\s*"(\w+)"', source.read_text()))
        found |= {"call_model" for _ in re.findall(r"Gap\(\s*MODEL_CALLS", source.read_text())}
        found |= {"send_message" for _ in re.findall(r"Gap\(\s*MESSAGES", source.read_text())}
    table = (GUIDES / "README.md").read_text().partition("| kind |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    explained = {kind for row in rows for kind in re.findall(r"`(\w+)`", row)}
    assert found
    assert found == explained


def test_every_framework_has_a_guide() -> None:
    adapters = {path.stem for path in SOURCES.glob("[a-z]*.py")}
    assert adapters == {path.stem for path in GUIDES.glob("[a-z]*.md")}
