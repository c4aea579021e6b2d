"""A minimal MCP server on stdio. Writes the name of each tool that it runs to $MCP_LOG."""

import json
import os
import sys
from pathlib import Path

TOOLS = [
    {
        "name": name,
        "description": name,
        "inputSchema": {
            "type": "object",
            "properties": {"path": {"type": "string"}},
            "required": ["path"],
        },
    }
    for name in ("read_file", "delete_file")
]


def answer(message: dict) -> dict:
    method = message["method"]
    if method == "initialize":
        version = message["params"].get("protocolVersion", "2025-06-18")
        server = {"name": "stub", "version": "1"}
        result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}
        return {"result": result}
    if method == "tools/list":
        return {"result": {"tools": TOOLS}}
    if method == "tools/call":
        name = message["params"]["name"]
        with Path(os.environ["MCP_LOG"]).open("a") as log:
            log.write(name + "\n")
        return {"result": {"content": [{"type": "text", "text": f"ran {name}"}], "isError": False}}
    if method == "ping":
        return {"result": {}}
    return {"error": {"code": -32601, "message": "Method not found"}}


if __name__ == "__main__":
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            reply = {"jsonrpc": "2.0", "id": message["id"], **answer(message)}
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()
