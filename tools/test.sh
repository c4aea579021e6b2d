#!/usr/bin/env bash
# Everything that has to pass before a change lands. Started by with-postgres.sh.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

[[ -n ${ZTA_TEST_POSTGRES_URL:-} ]] || die "no ZTA_TEST_POSTGRES_URL: start this by \`make test\`"

tools/check.sh
step "cargo test, unit, integration and doc tests" cargo test --locked --workspace
# The one that cargo test has just put there for the Rust tests: `cargo build` would compile it once more,
# since a build without tests unites other features.
export ZTA_BIN=$CARGO_TARGET_DIR/debug/zta
[[ -x $ZTA_BIN ]] || die "cargo test left no $ZTA_BIN"
step "Python tests" client-py/tools/test.sh
say "all checks and tests passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
