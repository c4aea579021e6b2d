# Sourced by every script beside it: where things are kept, which versions, and how to speak.
# shellcheck shell=bash disable=SC2034 # used by those that source it
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

# Outside the clone, so that a second clone finds what the first one built.
# Not exported: the server refuses ZTA_ variables that it does not know.
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/zta
TOOLS=$CACHE/tools
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

CARGO_DENY_VERSION=0.20.2
BUF_VERSION=1.75.0
OIDC_PROVIDER_VERSION=9.13.3
CERBOS_VERSION=0.55.0
GO_VERSION=1.27.3
RUST_VERSION_MIN=1.95
PYTHON_VERSION_MIN=3.11
POSTGRES_VERSION_MIN=15

CARGO_DENY=$TOOLS/cargo-deny-$CARGO_DENY_VERSION/bin/cargo-deny
BUF=$TOOLS/buf-$BUF_VERSION/node_modules/.bin/buf

# A certified OpenID provider, for tests only. They run it by node.
OIDC_PROVIDER=$TOOLS/oidc-provider-$OIDC_PROVIDER_VERSION/node_modules

# The code of Go's checksum database, which verifies our log in the tests. Built anew when its source changes.
LOG_VERIFIER=$TOOLS/log-verifier-$GO_VERSION-$(cat tools/log-verifier/* tools/build-log-verifier.sh | cksum | cut -d' ' -f1)/log-verifier

# For comparison only; nothing but tools/bench-compare.sh fetches it.
case $(uname -sm) in
    "Linux x86_64") CERBOS_PLATFORM=cerbos-linux-x64 ;;
    "Linux aarch64") CERBOS_PLATFORM=cerbos-linux-arm64 ;;
    "Darwin x86_64") CERBOS_PLATFORM=cerbos-darwin-x64 ;;
    "Darwin arm64") CERBOS_PLATFORM=cerbos-darwin-arm64 ;;
    *) CERBOS_PLATFORM= ;;
esac
CERBOS_DIR=$TOOLS/cerbos-$CERBOS_VERSION
CERBOS=$CERBOS_DIR/node_modules/@cerbos/$CERBOS_PLATFORM/$CERBOS_PLATFORM

say() { printf '\n==> %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# step NAME COMMAND...: say what starts, how long it took, and which one failed.
step() {
    local name=$1 started=$SECONDS status=0
    shift
    say "$name"
    "$@" || status=$?
    if ((status != 0)); then
        printf 'error: %s failed (exit %d, after %d s)\n' "$name" "$status" "$((SECONDS - started))" >&2
        exit "$status"
    fi
    printf '    %s: %d s\n' "$name" "$((SECONDS - started))"
}

# at_least MIN HAVE: whether version HAVE is MIN or newer.
at_least() { [[ $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }

# The folder of a Postgres new enough to use, or nothing. Debian keeps the server outside PATH.
postgres_bin() {
    local dir version
    for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) "$(dirname "$(command -v initdb || echo /nowhere/initdb)")"; do
        [[ -x $dir/initdb && -x $dir/pg_ctl ]] || continue
        version=$("$dir/initdb" --version | grep -oE '[0-9]+' | head -n 1)
        if at_least "$POSTGRES_VERSION_MIN" "$version"; then
            printf '%s\n' "$dir"
            return
        fi
    done
}
