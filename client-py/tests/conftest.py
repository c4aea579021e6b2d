"""Fixtures of every test. The environment is set before any framework is imported."""

import os
import tempfile
from collections.abc import Iterator

import pytest

os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_TRACING_ENABLED="false",
    CREWAI_DISABLE_VERSION_CHECK="true",
    CREWAI_TESTING="true",
    CREWAI_STORAGE_DIR=tempfile.mkdtemp(prefix="zta-crewai-"),
    OTEL_SDK_DISABLED="true",
    OPENAI_API_KEY="unused",
)
for name in [key for key in os.environ if key.startswith("ZTA_") and key != "ZTA_BIN"]:
    del os.environ[name]

from zta.testing import FakeServer  # noqa: E402


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A fake server where `fin` may read files and nothing else."""
    allow = {"fin": ["read_file"], "ops": ["delete_file"]}
    with FakeServer(allow=allow, forbid={"drop_table": "no-drops"}) as running:
        yield running
