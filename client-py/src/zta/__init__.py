"""Zero trust for AI agents: the Python client."""
