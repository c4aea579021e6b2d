"""Tests against the real server. Without its binary they fail: leaving them out is explicit."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import POLICIES

from zta import Guard
from zta.testing import EmbeddedServer

CREW = {"research": ["researcher"], "analysis": ["analyst"], "writing": ["writer"]}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.fspath).parents:
            item.add_marker(pytest.mark.real)


def new_server() -> EmbeddedServer:
    assert os.environ.get("ZTA_BIN"), (
        'ZTA_BIN must name the server\'s binary; to leave these tests out: -m "not real"'
    )
    return EmbeddedServer()


@pytest.fixture(scope="session")
def crew_server() -> Iterator[EmbeddedServer]:
    """A server with the crew's policies, shared by tests that do not stop it."""
    with new_server() as server:
        server.apply(POLICIES, POLICIES / "examples" / "research_crew")
        yield server


@pytest.fixture(scope="session")
def crew_credentials(crew_server: EmbeddedServer) -> dict[str, Path]:
    """The three agents of the crew."""
    return {name: crew_server.agent(name, roles) for name, roles in CREW.items()}


@pytest.fixture
def crew_guard(crew_credentials: dict[str, Path]) -> Iterator[Guard]:
    """A guard for the crew."""
    with Guard(crew_credentials, timeout_ms=5_000) as guard:
        yield guard


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server of this test's own, which it may stop or kill."""
    with new_server() as server:
        server.apply(POLICIES, POLICIES / "examples" / "research_crew")
        yield server
