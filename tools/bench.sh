#!/usr/bin/env bash
# The benchmark with optimised binaries. Started by with-postgres.sh; writes target/bench.json in the clone.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

[[ -n ${ZTA_TEST_POSTGRES_URL:-} ]] || die "no ZTA_TEST_POSTGRES_URL: start this by \`make bench\`"

out=target/bench.json
mkdir -p "${out%/*}"
step "building optimised binaries (minutes the first time)" cargo build --locked --release -p zta-server -p zta-bench
export ZTA_BIN=$CARGO_TARGET_DIR/release/zta
say "measuring"
arguments=(--out "$out")
[[ ! -x $CERBOS ]] || arguments+=(--cerbos "$CERBOS")
"$CARGO_TARGET_DIR/release/zta-bench" "${arguments[@]}"
say "measuring the Python guard"
client-py/tools/python.sh client-py/tools/bench_guard.py --out "$out"
say "written to $out"
