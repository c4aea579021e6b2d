#!/usr/bin/env bash
# Cerbos beside ZTA with the same workload: fetches Cerbos from npm into the tool cache, builds, measures,
# and puts the result under `compare` in target/bench.json. What is not equal: bench/src/compare/mod.rs.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

fetch_cerbos() {
    local partial=$CERBOS_DIR.partial.$$
    mkdir -p "$partial"
    # No install scripts: the package holds the binary of its platform and nothing else.
    npm install --ignore-scripts --no-audit --no-fund --loglevel=error --prefix "$partial" \
        "@cerbos/$CERBOS_PLATFORM@$CERBOS_VERSION" || {
        rm -rf "$partial"
        return 1
    }
    rm -rf "$CERBOS_DIR"
    mv --no-target-directory "$partial" "$CERBOS_DIR"
}

if [[ ! -x $CERBOS ]]; then
    [[ -n $CERBOS_PLATFORM ]] || die "Cerbos has no npm package for $(uname -sm)"
    command -v npm >/dev/null || die "this needs npm, to fetch Cerbos"
    step "Cerbos $CERBOS_VERSION" fetch_cerbos
fi
out=target/bench.json
mkdir -p "${out%/*}"
step "building optimised binaries (minutes the first time)" cargo build --locked --release -p zta-server -p zta-bench
export ZTA_BIN=$CARGO_TARGET_DIR/release/zta
say "measuring"
"$CARGO_TARGET_DIR/release/zta-bench" --out "$out" --only compare --cerbos "$CERBOS" \
    --compare-at 10 --compare-at 10000 --compare-at 100000
say "written to $out"
