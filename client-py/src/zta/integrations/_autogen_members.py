"""Who is inside of an AutoGen agent or team."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from autogen_agentchat.agents import (
    AssistantAgent,
    CodeExecutorAgent,
    MessageFilterAgent,
    SocietyOfMindAgent,
    UserProxyAgent,
)
from autogen_agentchat.teams import BaseGroupChat
from autogen_agentchat.tools._task_runner_tool import TaskRunnerTool
from autogen_core.tools import StaticWorkbench

from zta._errors import ConfigurationError

if TYPE_CHECKING:
    from zta._guard import Guard

_ACTS = (AssistantAgent, CodeExecutorAgent, SocietyOfMindAgent)


def static_tools(workbench: Any) -> list[Any]:
    """The tools of a workbench that has them in this process."""
    return list(workbench._tools) if isinstance(workbench, StaticWorkbench) else []


def members(target: Any) -> list[Any]:
    """Every agent that calls tools, runs code or has a model, however deep."""
    return [part for part in _inside(target, set()) if isinstance(part, _ACTS)]


def teams(target: Any) -> list[Any]:
    """Every team, however deep."""
    return [part for part in _inside(target, set()) if isinstance(part, BaseGroupChat)]


def stranger(guard: Guard, target: Any) -> bool:
    """Whether somebody is inside whom this guard does not hold, or cannot."""
    try:
        return any(getattr(one, "_zta_guard", None) is not guard for one in members(target))
    except ConfigurationError:
        return True


def _inside(target: Any, seen: set[int]) -> Iterator[Any]:
    if id(target) in seen:
        return
    seen.add(id(target))
    yield target
    for part in _parts(target):
        yield from _inside(part, seen)


def runners(agent: Any) -> list[Any]:
    """The tools of an agent that run another agent or a team."""
    workbenches = getattr(agent, "_workbench", None) or ()
    inner = [getattr(workbench, "_inner", workbench) for workbench in workbenches]
    tools = [tool for workbench in inner for tool in static_tools(workbench)]
    return [tool for tool in tools if isinstance(tool, TaskRunnerTool)]


def _parts(target: Any) -> list[Any]:
    """What an agent or team holds; one that could act without asking is refused."""
    if isinstance(target, AssistantAgent):
        return [tool._task_runner for tool in runners(target)]
    if isinstance(target, BaseGroupChat):
        return list(target._participants)
    if isinstance(target, SocietyOfMindAgent):
        return [target._team]
    if isinstance(target, MessageFilterAgent):
        return [target._wrapped_agent]
    if isinstance(target, (UserProxyAgent, CodeExecutorAgent)):
        return []
    raise ConfigurationError(
        f"cannot guard a `{type(target).__name__}` of AutoGen: what it does is not a tool call"
    )
