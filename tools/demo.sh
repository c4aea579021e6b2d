#!/usr/bin/env bash
# The whole story from nothing: real agents of three frameworks against a real server.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

step "building the server (minutes the first time, seconds after)" cargo build --locked -p zta-server --bin zta
step "preparing Python (the agent frameworks are large; cached after the first time)" client-py/tools/setup.sh
say "running the research crew"
# The demo owns the server and the agents that it starts, and a ^C reaches it directly.
exec client-py/tools/python.sh client-py/examples/demo/run.py \
    --zta "$CARGO_TARGET_DIR/debug/zta" --policies policies/examples/research_crew
