"""A client proves its key again by itself, against the real server."""

import time

from support import POLICIES

from zta import Guard, ToolCall, v1
from zta.testing import EmbeddedServer

SEARCH = ToolCall("web_search", {"query": "x"})


def test_an_open_connection_stays_good_because_its_key_is_proved() -> None:
    with EmbeddedServer(environment={"ZTA_KEY_PROOF_INTERVAL_S": "2"}) as server:
        server.apply(POLICIES, POLICIES / "examples" / "research_crew")
        with Guard({"research": server.agent("research", ["researcher"])}) as guard:
            end = time.monotonic() + 7
            while time.monotonic() < end:
                assert guard.decide("research", SEARCH).allowed
                time.sleep(0.05)
        types = ["login", "proof_missed"]
        page = server.admin.audit.ListEvents(v1.ListEventsRequest(page_size=100, types=types))
        of_research = [e.leaf for e in page.events if b"agent/research" in e.leaf]
        assert 3 <= len(of_research) <= 12
        assert not any(b"proof_missed" in leaf for leaf in of_research)
