"""What an agent can be about to do: one class for each action that a guard asks about. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

MODEL_CALLS = "call_model"
MESSAGES = "send_message"
OPTIONAL_ACTIONS = frozenset({MODEL_CALLS, MESSAGES})
"""Actions that a guard asks about only where it is told to: `Guard(also=...)`."""


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What a guard says about a call beside what is asked for."""

    framework: str | None = None
    visible_name: str | None = None
    """The tool's name as the model sees it."""
    origin: str | None = None
    """Where it comes from, for example `function:shop.tools:refund` or `mcp:github`."""


@dataclass(frozen=True)
class ToolCall(_Told):
    """One execution of a tool: `call_tool`."""

    tool: str
    """The resource: the tool's original name; for an MCP tool `<server>/<original name>`."""
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The very object that the tool receives."""

    action: ClassVar[str] = "call_tool"
    resource_type: ClassVar[str] = "ZTA::Tool"

    @property
    def resource(self) -> str:
        """The id of the resource."""
        return self.tool


@dataclass(frozen=True)
class CodeExecution(ToolCall):
    """Code that a model wrote is about to run: `execute`, on the tool that runs it.

    A code executor without a name of its own is asked for as `code`.
    """

    action: ClassVar[str] = "execute"


@dataclass(frozen=True)
class ModelCall(_Told):
    """One call of a model: `call_model`. The prompt is not sent."""

    model: str
    """The model's id, as the framework knows it."""

    action: ClassVar[str] = MODEL_CALLS
    resource_type: ClassVar[str] = "ZTA::Model"
    arguments: ClassVar[Mapping[str, Any]] = {}

    @property
    def resource(self) -> str:
        """The id of the resource."""
        return self.model


@dataclass(frozen=True)
class Message(_Told):
    """A message to another agent: `send_message`. Its text is not sent."""

    to: str
    """The other agent's name in its framework; the guard knows its SPIFFE ID."""

    action: ClassVar[str] = MESSAGES
    resource_type: ClassVar[str] = "ZTA::Agent"
    arguments: ClassVar[Mapping[str, Any]] = {}

    @property
    def resource(self) -> str:
        """The name of the other agent."""
        return self.to


@dataclass(frozen=True)
class Delegation(_Told):
    """Another agent is called, or gets control: `delegate`. What it is told is not sent."""

    to: str
    """The other agent's name in its framework; the guard knows its SPIFFE ID."""

    action: ClassVar[str] = "delegate"
    resource_type: ClassVar[str] = "ZTA::Agent"
    arguments: ClassVar[Mapping[str, Any]] = {}

    @property
    def resource(self) -> str:
        """The name of the other agent."""
        return self.to


Call = ToolCall | ModelCall | Message | Delegation
"""What a guard decides on. `CodeExecution` is a `ToolCall`, too."""


@dataclass(frozen=True)
class Outcome:
    """What came of a call that was allowed. No result stands in it."""

    ok: bool
    """False where it raised or the framework calls its result an error."""
    duration_ms: float
    """From the decision until the result."""
    size_bytes: int | None = None
    """The result as text in UTF-8; None where it has none or was streamed."""
    error_class: str = ""
    """The kind of its error, a short word such as `TimeoutError`; never its text."""
    labels: tuple[str, ...] = ()
    """What is said of the result, for example `pii`: at most 16 words."""
