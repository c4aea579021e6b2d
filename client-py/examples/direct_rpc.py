"""Calls the services directly, with the generated stubs of `zta.v1`.

    export ZTA_CREDENTIAL=path/to/credential   # for example <data_dir>/admin
    python direct_rpc.py

The client only brings the authenticated channel; every RPC of the contract is there.
"""

from __future__ import annotations

import json

from zta import Client, RpcError, ToolCall
from zta.v1 import (
    AgentServiceListRequest,
    AgentServiceStub,
    AuthorizationServiceStub,
    AuthorizeRequest,
    Effect,
    EntityRef,
)


def main() -> None:
    """Ask for a decision, twice, and list the agents."""
    with Client() as client:
        print("calling as", client.credential.spiffe_id)

        request = AuthorizeRequest(
            action=EntityRef(type="ZTA::Action", id="call_tool"),
            resource=EntityRef(type="ZTA::Tool", id="web_search"),
            arguments_json=json.dumps({"query": "agents"}).encode(),
            correlation_id="example-1",
        )
        answer = AuthorizationServiceStub(client.channel).Authorize(request, timeout=2)
        print(Effect.Name(answer.effect), "-", answer.message, f"(audit #{answer.sequence})")

        # The same through the client, which also computes the digest of the arguments.
        decision = client.authorize(ToolCall("web_search", {"query": "agents"}))
        print("allowed" if decision.allowed else decision.refusal)

        try:
            page = AgentServiceStub(client.channel).List(AgentServiceListRequest(page_size=10))
            print("agents:", ", ".join(agent.name for agent in page.agents) or "none")
        except RpcError as error:
            print("may not list agents:", error.reason or error.code.name)


if __name__ == "__main__":
    main()
