#!/usr/bin/env bash
# with-postgres.sh COMMAND...: runs COMMAND beside a Postgres of its own and stops both, whatever happens.
#
# The server listens on a Unix socket alone, in a folder that only its user (and root) can enter, so `trust`
# lets in nobody else. COMMAND finds it as ZTA_TEST_POSTGRES_URL: a superuser on the database `postgres`,
# from which tests create databases and roles of their own. fsync stays on: what the tests and the
# benchmark say about durability has to be true.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

(($#)) || die "usage: with-postgres.sh COMMAND..."
bin=$(postgres_bin)
[[ -n $bin ]] || die "no Postgres $POSTGRES_VERSION_MIN or newer found: make install-tools"

# A memory file system would make fsync free and the benchmark a fiction. `postgres` cannot enter root's home,
# so the folder is not in the cache.
base=${TMPDIR:-/tmp}
[[ $(stat --file-system --format=%T "$base") != tmpfs ]] || base=/var/tmp
dir=$(mktemp -d "$base/zta-postgres.XXXXXX")
# The kernel's limit for a socket's path is 107 bytes, of which ours takes /.s.PGSQL.5432.
((${#dir} < 90)) || { rmdir "$dir" && die "\`$base\` is too long a path for a Unix socket: set TMPDIR"; }

as_postgres=()
if ((EUID == 0)); then
    # initdb refuses root.
    user=nobody
    ! id postgres >/dev/null 2>&1 || user=postgres
    as_postgres=(setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups --)
    chown "$user:" "$dir"
fi

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
    if [[ -f $dir/data/postmaster.pid ]]; then
        (cd / && "${as_postgres[@]}" "$bin/pg_ctl" --pgdata="$dir/data" --mode=immediate --silent stop) || true
    fi
    rm -rf "$dir"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

start() {
    cd / # initdb and pg_ctl complain in a folder that their user may not enter
    "${as_postgres[@]}" "$bin/initdb" --pgdata="$dir/data" --username=postgres --auth=trust \
        --encoding=UTF8 --locale=C --no-instructions >"$dir/initdb.log" 2>&1 || {
        cat "$dir/initdb.log" >&2
        return 1
    }
    cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$dir'
unix_socket_permissions = 0700
max_connections = 200
fsync = on
synchronous_commit = on
full_page_writes = on
CONF
    "${as_postgres[@]}" "$bin/pg_ctl" --pgdata="$dir/data" --log="$dir/data/server.log" \
        --silent --wait --timeout=60 start || {
        tail -n 30 "$dir/data/server.log" >&2
        return 1
    }
    # The roles of migrations/README.md; tests take them with SET ROLE.
    "$bin/psql" --quiet --no-psqlrc --host="$dir" --username=postgres --dbname=postgres \
        --command='CREATE ROLE zta_owner NOLOGIN' --command='CREATE ROLE zta_service NOLOGIN' \
        --command='CREATE ROLE zta_auditor NOLOGIN'
}

step "Postgres $("$bin/postgres" --version | grep -oE '[0-9.]+' | head -n 1) in $dir" start
cd "$ROOT"
export ZTA_TEST_POSTGRES_URL="postgres://postgres@localhost/postgres?host=$dir"
export ZTA_TEST_OIDC_PROVIDER=$OIDC_PROVIDER ZTA_TEST_LOG_VERIFIER=${ZTA_TEST_LOG_VERIFIER:-$LOG_VERIFIER}

# In a process group of its own: a ^C reaches this script alone, which ends the whole group and then Postgres.
set -m
"$@" </dev/null &
child=$!
set +m
wait "$child"
