#!/usr/bin/env bash
# The server on its embedded store under ./zta-data, until ^C.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

step "building the server (minutes the first time, seconds after)" cargo build --locked -p zta-server --bin zta
zta=$CARGO_TARGET_DIR/debug/zta
say "starting; once it says \`listening\`, try from a second terminal, in this folder:"
cat <<TRY

    $zta --credential zta-data/admin policy apply policies policies/examples/research_crew
    $zta --credential zta-data/admin agent register research --role researcher
    $zta audit verify

TRY
exec "$zta" serve "$@"
