"""Agents that a tool of Strands makes while it runs: `subagent` and `swarm`.

They get the tools of the agent that calls the tool and no guard, and a model chooses their names.
So each acts as the agent that made it: by its identity, in its session, for whom it acts.
"""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

from strands.interventions import Deny, InterventionHandler, Proceed
from strands.vended_tools.subagent.subagent import _SubagentTool
from strands.vended_tools.swarm.swarm import _SWARM_TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable

_KNOWN_MAKERS = "strands_tools."
"""The package of tools that make agents in ways of their own."""
_MAKERS = frozenset({"agent_graph", "graph", "swarm", "think", "use_agent", "use_llm", "workflow"})


class Inheritance(InterventionHandler):
    """What makes a child guarded: Strands' builder hands the handlers of an agent on to it."""

    name = "zta-guard"

    def __init__(self, adopt: Callable[[Any], bool]) -> None:
        """Let `adopt` put a guard into a child, and say whether it has one."""
        self._adopt = adopt

    def before_invocation(self, event: Any, **_options: Any) -> Any:
        """Adopt the child before its first call of a model."""
        return self._proceed(event.agent)

    def before_tool_call(self, event: Any, **_options: Any) -> Any:
        """Adopt one that is not invoked, but whose tools are called."""
        return self._proceed(event.agent)

    def _proceed(self, agent: Any) -> Any:
        return Proceed() if self._adopt(agent) else Deny(reason="this agent is under no guard")


def hand_on(agent: Any, adopt: Callable[[Any], bool]) -> None:
    """Let the children of an agent be adopted."""
    leave(agent)
    registry = agent._intervention_registry
    registry._handlers = [*registry._handlers, Inheritance(adopt)]


def leave(agent: Any) -> None:
    """Take that back. The list may be one that other agents were made with: it stays as it is."""
    registry = agent._intervention_registry
    registry._handlers = [one for one in registry._handlers if not isinstance(one, Inheritance)]


def with_adoption(tool: Any, adopt: Callable[[Any], bool]) -> Any:
    """The tool, which makes its agents by a builder of yours, if by any, and has them adopted."""
    if not isinstance(tool, _SubagentTool) or tool._builder is None:
        return tool
    build, adopting = tool._builder, copy.copy(tool)

    def built(spec: Any) -> Any:
        child = build(spec)
        if not adopt(child):
            raise PermissionError("this agent is under no guard")
        return child

    adopting._builder = built
    return adopting


def makes_strangers(tool: Any) -> bool:
    """Whether a tool makes agents that cannot be adopted."""
    function: Any = getattr(tool, "_tool_func", None)
    if str(getattr(function, "__module__", "")).startswith(_KNOWN_MAKERS):
        return str(tool.tool_name) in _MAKERS
    if not any(tool is known for known in _SWARM_TOOLS):
        return False
    return inspect.getclosurevars(function).nonlocals["builder"] is not None
