"""The crew of the demo: what each agent's scripted model tries, and the tools' bodies.

Every framework gets the same agents, the same tools and the same script.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

ROLES = {"research": ["researcher"], "analysis": ["analyst"], "writing": ["writer"]}


@dataclass(frozen=True)
class Step:
    """One tool call that a scripted model makes, and what must come of it."""

    tool: str
    arguments: dict[str, str]
    expected: str
    """`ALLOWED`, or the reason of the denial."""


SCRIPT: dict[str, list[Step]] = {
    "research": [
        Step("web_search", {"query": "agents and trust"}, "ALLOWED"),
        Step("publish_report", {"title": "Scoop", "body": "unreviewed"}, "NOT_PERMITTED"),
    ],
    "analysis": [
        Step("read_document", {"collection": "dataset", "path": "runs.csv"}, "ALLOWED"),
        Step("read_document", {"collection": "secret", "path": "payroll.csv"}, "FORBIDDEN"),
        Step("summarize", {"text": "three runs, one outlier"}, "ALLOWED"),
    ],
    "writing": [
        Step("read_document", {"collection": "dataset", "path": "runs.csv"}, "NOT_PERMITTED"),
        Step("read_document", {"collection": "report", "path": "draft.md"}, "ALLOWED"),
        Step("publish_report", {"title": "Findings", "body": "reviewed"}, "ALLOWED"),
    ],
}


@dataclass
class Tools:
    """The tools of one agent. Each body notes that it ran."""

    ran: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def functions(self, agent: str) -> list[Callable[..., str]]:
        """The tools that an agent is offered: whatever its script calls."""
        used = {step.tool for step in SCRIPT[agent]}
        return [tool for tool in self._all() if tool.__name__ in used]

    def _all(self) -> list[Callable[..., str]]:
        ran = self.ran

        def web_search(query: str) -> str:
            """Search the web."""
            ran.append(("web_search", {"query": query}))
            return "two results"

        def read_document(collection: str, path: str) -> str:
            """Read a document of a collection."""
            ran.append(("read_document", {"collection": collection, "path": path}))
            return f"the text of {path}"

        def summarize(text: str) -> str:
            """Summarize a text."""
            ran.append(("summarize", {"text": text}))
            return "a summary"

        def publish_report(title: str, body: str) -> str:
            """Publish a report."""
            ran.append(("publish_report", {"title": title, "body": body}))
            return "published"

        return [web_search, read_document, summarize, publish_report]


def final_text(agent: str) -> str:
    """What an agent's model says when its script has ended."""
    return f"{agent} is done"
