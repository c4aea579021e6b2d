#!/usr/bin/env bash
# A Postgres of the tests' own. Sourced: its functions. Run: postgres-cluster.sh create|start|stop|kill|limit DIR [BYTES]
#
# The server listens on a Unix socket alone, in a folder that only its user (and root) can enter, so `trust`
# lets in nobody else. fsync stays on: what the tests and the benchmark say about durability has to be true.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

postgres=$(postgres_bin)
[[ -n $postgres ]] || die "no Postgres $POSTGRES_VERSION_MIN or newer found: make install-tools"

as_postgres=()
if ((EUID == 0)); then
    # initdb refuses root.
    postgres_user=nobody
    ! id postgres >/dev/null 2>&1 || postgres_user=postgres
    as_postgres=(setpriv --reuid="$postgres_user" --regid="$(id -g "$postgres_user")" --clear-groups --)
fi

# cluster_create DIR [INITDB OPTION...]
cluster_create() {
    local dir=$1
    shift
    # The kernel's limit for a socket's path is 107 bytes, of which ours takes /.s.PGSQL.5432.
    ((${#dir} < 90)) || die "\`$dir\` is too long a path for a Unix socket: set TMPDIR"
    ((EUID != 0)) || chown "$postgres_user:" "$dir"
    cd / # initdb and pg_ctl complain in a folder that their user may not enter
    "${as_postgres[@]}" "$postgres/initdb" --pgdata="$dir/data" --username=postgres --auth=trust \
        --encoding=UTF8 --locale=C --no-instructions "$@" >"$dir/initdb.log" 2>&1 || {
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
}

# Starts it, also after it was killed.
cluster_start() {
    cd /
    "${as_postgres[@]}" "$postgres/pg_ctl" --pgdata="$1/data" --log="$1/data/server.log" \
        --silent --wait --timeout=60 start || {
        tail -n 30 "$1/data/server.log" >&2
        return 1
    }
}

# Makes the roles that whoever sets a database up makes.
cluster_roles() {
    # The roles of migrations/README.md; tests take them with SET ROLE.
    "$postgres/psql" --quiet --no-psqlrc --host="$1" --username=postgres --dbname=postgres \
        --command='CREATE ROLE zta_owner NOLOGIN' --command='CREATE ROLE zta_service NOLOGIN' \
        --command='CREATE ROLE zta_auditor NOLOGIN'
}

cluster_stop() {
    [[ -f $1/data/postmaster.pid ]] || return 0
    (cd / && "${as_postgres[@]}" "$postgres/pg_ctl" --pgdata="$1/data" --mode=immediate --silent stop)
}

# All its processes: the server's own and its children.
cluster_processes() {
    local server
    server=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) || return 0
    printf '%s\n' "$server"
    pgrep --parent "$server" || true
}

# kill -9, the server first, so that it cannot tell its children to end in good order.
cluster_kill() {
    local processes
    mapfile -t processes < <(cluster_processes "$1")
    kill -KILL "${processes[@]}" 2>/dev/null || true
    # Their memory and sockets are gone only when they are.
    local n
    for n in {1..500}; do
        kill -0 "${processes[@]}" 2>/dev/null || return 0
        sleep 0.01
    done
    die "processes of the Postgres in $1 do not die"
}

# cluster_limit DIR BYTES|unlimited: no file may be written beyond this, as if the disk were full there.
# Postgres itself ignores the signal that comes with it.
cluster_limit() {
    local process
    while IFS= read -r process; do
        "${as_postgres[@]}" prlimit --pid "$process" --fsize="$2": 2>/dev/null || ! kill -0 "$process" 2>/dev/null || return 1
    done < <(cluster_processes "$1")
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    (($# >= 2)) || die "usage: postgres-cluster.sh create|start|roles|stop|kill|limit DIR [...]"
    action=$1
    shift
    case $action in
        create | start | roles | stop | kill | limit) "cluster_$action" "$@" ;;
        *) die "unknown action \`$action\`" ;;
    esac
fi
