"""What is shipped."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_installs_nothing_but_zta(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"zta"}
    assert "zta/py.typed" in names
    assert "zta/v1/authorization_service_pb2.pyi" in names
    assert "zta/integrations/crewai.py" in names


def test_the_lock_names_no_host_and_pins_every_hash() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "--index" not in text
    for requirement in re.split(r"\n(?=\S)", text):
        assert "==" in requirement
        assert "--hash=sha256:" in requirement


def test_files_and_functions_stay_small() -> None:
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    for file in files:
        if "v1" not in file.parts:
            assert len(file.read_text().splitlines()) <= 500, file
