"""Adapters for agent frameworks. Each imports its framework when it is used, never before."""
