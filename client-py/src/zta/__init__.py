"""Zero trust for AI agents: every tool call is decided by policy before it runs.

Three lines guard an agent::

    guard = zta.Guard({"research": "~/.zta/research"})
    agent = Agent(name="research", tools=[...], plugins=[guard.strands()])
    agent("...")

`Guard` enforces inside a framework and never raises into it. `Client` and `AsyncClient` ask and
administer. `zta.v1` holds the generated stubs. `zta.testing` helps to test your own agents.
"""

from zta._calls import Call, CodeExecution, Delegation, Message, ModelCall, Outcome, ToolCall
from zta._client import AsyncClient, Client
from zta._enroll import enroll
from zta._errors import (
    ArgumentsError,
    ConfigurationError,
    CredentialError,
    EnrollmentError,
    RpcError,
    ZtaError,
)
from zta._events import AsyncEventStream, EventStream
from zta._guard import Guard
from zta._identity import Credential
from zta._log import Checkpoint, LogError, LogKey, LogView, RolledBackError, SplitViewError
from zta._messages import Decision, Session

__version__ = "0.1.0"

__all__ = [
    "ArgumentsError",
    "AsyncClient",
    "AsyncEventStream",
    "Call",
    "Checkpoint",
    "Client",
    "CodeExecution",
    "ConfigurationError",
    "Credential",
    "CredentialError",
    "Decision",
    "Delegation",
    "EnrollmentError",
    "EventStream",
    "Guard",
    "LogError",
    "LogKey",
    "LogView",
    "Message",
    "ModelCall",
    "Outcome",
    "RolledBackError",
    "RpcError",
    "Session",
    "SplitViewError",
    "ToolCall",
    "ZtaError",
    "__version__",
    "enroll",
]
