"""Which tools an agent may call now, asked page by page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from zta import v1
from zta._client import Client
from zta._denials import adapter_failed
from zta._messages import Session

if TYPE_CHECKING:
    from zta._guard import Guard

_TOOL = "ZTA::Tool"
_NAMED_MAX = 1000
"""As many resources as the server looks at for one question."""
_PAGES_MAX = 100


def permitted(
    client: Client, session: Session, agent: str, tools: Iterable[str] | None, action: str
) -> frozenset[str]:
    """Ask for the tools, of those named or of all that the server knows. Raises RpcError."""
    if tools is None:
        return frozenset(_pages(client, session, agent, action, ()))
    named, found = sorted(set(tools)), set[str]()
    for start in range(0, len(named), _NAMED_MAX):
        some = named[start : start + _NAMED_MAX]
        found.update(_pages(client, session, agent, action, some))
    return frozenset(found) & frozenset(named)


def _pages(
    client: Client, session: Session, agent: str, action: str, tools: Iterable[str]
) -> Iterable[str]:
    token, demanded = "", session.at_least_as_fresh
    for _ in range(_PAGES_MAX):
        answer = client.authorization.ListPermitted(
            v1.ListPermittedRequest(
                resources=v1.PermittedResources(
                    action=v1.EntityRef(type="ZTA::Action", id=action),
                    resource_type=_TOOL,
                    resource_ids=tools,
                ),
                context_json=json.dumps({"agent_name": agent}).encode(),
                session_id=session.session_id,
                task_id=session.task_id,
                user=session.user,
                at_least_as_fresh=v1.ConsistencyToken(value=demanded) if demanded else None,
                page_size=_NAMED_MAX,
                page_token=token,
            )
        )
        for item in answer.permitted:
            if item.resource.type == _TOOL:
                yield item.resource.id
        token = answer.next_page_token
        if not token:
            return


def offered(
    guard: Guard, agent: str, ids: Iterable[str], session: Session | None
) -> frozenset[str]:
    """Which of these tools an agent is to be offered; none where that cannot be known."""
    named = set(ids)
    try:
        code = named & guard.code_tools
        calls = guard.permitted_tools(agent, named - code, session=session)
        if not code:
            return calls
        return calls | guard.permitted_tools(agent, code, session=session, action="execute")
    except Exception as error:  # noqa: BLE001 - a list is no decision, but must not be wider
        adapter_failed(agent, error)
        return frozenset()
