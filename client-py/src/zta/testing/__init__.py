"""For tests of your own agents.

`FakeServer` decides from a table, in this process, over the same mutual TLS as the real one.
`EmbeddedServer` starts the real `zta` binary on a store in a temporary folder, for tests of your
policies::

    with FakeServer(allow={"research": ["web_search"]}) as server:
        guard = server.guard("research")

    with EmbeddedServer() as server:
        server.apply("policies/my_crew")
        guard = server.guard({"research": ["researcher"]})
"""

from zta.testing._embedded import EmbeddedServer, embedded_server, find_binary
from zta.testing._fake import FakeServer, Recorded, Reported

__all__ = ["EmbeddedServer", "FakeServer", "Recorded", "Reported", "embedded_server", "find_binary"]
