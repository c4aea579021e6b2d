#!/usr/bin/env bash
# Everything that has to pass before a change lands. Started by with-postgres.sh.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

[[ -n ${ZTA_TEST_POSTGRES_URL:-} ]] || die "no ZTA_TEST_POSTGRES_URL: start this by \`make test\`"

tools/check.sh
step "cargo test, unit, integration and doc tests" cargo test --locked --workspace
# Built by cargo test already; named here so that the Python tests can never meet an older one.
step "the zta binary" cargo build --locked --workspace --bins
export ZTA_BIN=$CARGO_TARGET_DIR/debug/zta
step "Python tests" client-py/tools/test.sh
say "all checks and tests passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
