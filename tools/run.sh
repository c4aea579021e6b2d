#!/usr/bin/env bash
# The server on its embedded store under ./zta-data, until ^C. It prints itself what to try next.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

step "building the server (minutes the first time, seconds after)" cargo build --locked -p zta-server --bin zta
exec "$CARGO_TARGET_DIR/debug/zta" serve "$@"
