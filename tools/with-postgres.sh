#!/usr/bin/env bash
# with-postgres.sh COMMAND...: runs COMMAND beside a Postgres of its own and stops both, whatever happens.
#
# COMMAND finds it as ZTA_TEST_POSTGRES_URL: a superuser on the database `postgres`, from which tests create
# databases and roles of their own.
source "$(dirname "${BASH_SOURCE[0]}")/postgres-cluster.sh"

(($#)) || die "usage: with-postgres.sh COMMAND..."

# A memory file system would make fsync free and the benchmark a fiction. `postgres` cannot enter root's home,
# so the folder is not in the cache.
base=${TMPDIR:-/tmp}
[[ $(stat --file-system --format=%T "$base") != tmpfs ]] || base=/var/tmp
dir=$(mktemp -d "$base/zta-postgres.XXXXXX")

child=
stop_child() { # first as a ^C, so that test runners clean up; then with less patience
    local signal
    [[ -n $child ]] || return 0
    for signal in INT TERM; do
        kill "-$signal" -- "-$child" 2>/dev/null || return 0
        for _ in {1..50}; do
            kill -0 -- "-$child" 2>/dev/null || return 0
            sleep 0.1
        done
    done
    kill -KILL -- "-$child" 2>/dev/null || true
}

stop() {
    local status=$?
    trap '' INT TERM HUP
    trap - EXIT
    stop_child
    cluster_stop "$dir" || true
    rm -rf "$dir"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

start() {
    cluster_create "$dir" && cluster_start "$dir" && cluster_roles "$dir"
}

step "Postgres $("$postgres/postgres" --version | grep -oE '[0-9.]+' | head -n 1) in $dir" start
cd "$ROOT"
export ZTA_TEST_POSTGRES_URL="postgres://postgres@localhost/postgres?host=$dir"
export ZTA_TEST_OIDC_PROVIDER=$OIDC_PROVIDER ZTA_TEST_LOG_VERIFIER=${ZTA_TEST_LOG_VERIFIER:-$LOG_VERIFIER}

# In a process group of its own: a ^C reaches this script alone, which ends the whole group and then Postgres.
set -m
"$@" </dev/null &
child=$!
set +m
wait "$child"
