#!/usr/bin/env bash
# What holds without running anything: format, lints, docs, dependency rules, protos, Python types.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

shell_scripts() {
    local script
    while IFS= read -r script; do
        bash -n "$script" || return 1
    done < <(git ls-files '*.sh' .ci/run)
}

docs() {
    # A public page may link to a private one: ours are always built together.
    RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
        cargo doc --locked --workspace --no-deps --document-private-items
}

step "shell syntax" shell_scripts
step "cargo fmt" cargo fmt --all --check
step "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
step "cargo doc" docs
step "cargo deny" "$CARGO_DENY" --locked check bans licenses sources
step "buf lint" "$BUF" lint proto
step "Python: lint, types, stubs" client-py/tools/check.sh
