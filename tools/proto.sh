#!/usr/bin/env bash
# Lints the protos and generates what is committed of them: the Python stubs. Rust generates at build time.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

step "buf lint" "$BUF" lint proto
step "Rust types" cargo build --locked -p zta-proto
step "Python stubs" client-py/tools/generate.sh
