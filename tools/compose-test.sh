#!/usr/bin/env bash
# Brings docker-compose.yml up for real, on base images made here, and looks at what it promises.
# Needs root, Debian's docker.io, docker-compose and debootstrap. Starts a Docker daemon where none answers;
# the binary is the one of this machine's Rust, so this exercises the stack, not the build stage.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

((EUID == 0)) || die "compose-test.sh needs root, for debootstrap"
for program in docker docker-compose debootstrap dockerd; do
    command -v "$program" >/dev/null || die "\`$program\` is missing: apt-get install docker.io docker-compose debootstrap"
done

dir=$(mktemp -d /var/tmp/zta-compose.XXXXXX)
daemon=
export COMPOSE_PROJECT_NAME=zta-compose-test STACK_SECRETS=$dir/secrets STACK_PORT=${STACK_PORT:-17443}
export STACK_IMAGE=zta:compose-test STACK_BINARY=prebuilt
export STACK_RUNTIME_IMAGE=zta-standin/debian:bookworm-slim STACK_POSTGRES_IMAGE=zta-standin/postgres:15
# The builder that understands what Dockerfile uses; docker-compose 1.29 asks for it this way.
# A client of 23 or newer builds only with its buildx plug-in; the older one of Debian has it inside.
docker buildx version >/dev/null 2>&1 || export PATH=/usr/bin:$PATH
export DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1

compose() { docker-compose "$@" </dev/null; }

stop() {
    local status=$?
    trap - EXIT
    if [[ -d $STACK_SECRETS ]]; then
        ((status == 0)) || compose logs --no-color --tail=40 || true
        compose down --volumes --timeout 20 >/dev/null 2>&1 || true
    fi
    if [[ -n $daemon ]]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" || true
    fi
    rm -rf "$dir" deploy/compose/prebuilt
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start_daemon() {
    # Its images are kept with the other tools, apart from any daemon of the machine's own.
    # In a session of its own: a ^C must not reach it before the stack is down.
    setsid dockerd --data-root "$CACHE/docker" --exec-root "$dir/exec" --pidfile "$dir/pid" >"$dir/dockerd.log" 2>&1 &
    daemon=$!
    for _ in {1..60}; do
        ! docker info >/dev/null 2>&1 || return 0
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.5
    done
    tail -n 20 "$dir/dockerd.log" >&2
    return 1
}

make_image() {
    cargo build --locked -p zta-server --bin zta || return
    install -D "$CARGO_TARGET_DIR/debug/zta" deploy/compose/prebuilt/zta || return
    compose build >"$dir/build.log" 2>&1 || {
        tail -n 30 "$dir/build.log" >&2
        return 1
    }
}

up() {
    deploy/compose/init-secrets.sh "$STACK_SECRETS" && compose up --detach --no-build && healthy
}

container() { compose ps --quiet "$1"; }

healthy() { # wait until the server's own health check says so
    for _ in {1..90}; do
        [[ $(docker inspect --format '{{.State.Health.Status}}' "$(container zta)" 2>/dev/null) != healthy ]] || return 0
        sleep 1
    done
    return 1
}

eventually() { # eventually COMMAND...: within 30 s
    for _ in {1..30}; do
        ! "$@" || return 0
        sleep 1
    done
    return 1
}

passed=0
failed=0
expect() { # expect WHAT COMMAND...
    local what=$1
    shift
    if "$@" >"$dir/out" 2>&1; then
        passed=$((passed + 1))
        printf '  ok      %s\n' "$what"
    else
        failed=$((failed + 1))
        printf '  FAILED  %s\n' "$what"
        sed 's/^/          /' "$dir/out"
    fi
}
refuses() { ! "$@"; }

in_container() { # in_container SERVICE SCRIPT
    compose exec -T "$1" bash -c "$2"
}

as_service() { # as_service SQL, under the role of the server
    in_container postgres "PGPASSWORD=\$(cat /run/secrets/postgres_service_password) \
        psql --no-psqlrc --set=ON_ERROR_STOP=1 --host=127.0.0.1 --username=zta_service --dbname=zta --command='$1'"
}

zta() { "$CARGO_TARGET_DIR/debug/zta" --credential "$dir/admin" --server "127.0.0.1:$STACK_PORT" "$@"; }

recorded() { zta audit list | grep --fixed-strings "$1"; }

no_secret_in() { # no_secret_in COMMAND...: none of the secrets is in what it prints
    local secret printed
    printed=$("$@") || return
    for secret in "$STACK_SECRETS"/*; do
        [[ $printed != *"$(cat "$secret")"* ]] || { echo "found ${secret##*/}" && return 1; }
    done
}

# The scripts below are expanded inside the containers.
# shellcheck disable=SC2016
examine_hardening() {
    local service
    for service in postgres zta; do
        expect "$service: not root" in_container "$service" '(($(id -u) != 0))'
        expect "$service: no capability" in_container "$service" 'grep -q "^CapEff:[[:space:]]*0*$" /proc/1/status'
        expect "$service: no new privileges" in_container "$service" 'grep -q "^NoNewPrivs:[[:space:]]*1$" /proc/1/status'
        expect "$service: read-only root" in_container "$service" '! touch /probe 2>/dev/null && ! touch /usr/probe 2>/dev/null'
        expect "$service: no secret in its settings" no_secret_in docker inspect "$(container "$service")"
        expect "$service: no secret in its log" no_secret_in docker logs "$(container "$service")"
    done
    expect "the server sees its own two secrets and no other" in_container zta \
        '[[ $(ls /run/secrets | sort | tr "\n" " ") == "database_url keyring " ]]'
    expect "Postgres has no port on this machine" refuses docker port "$(container postgres)" 5432
}

examine_server() {
    expect "the administrator's credential can be taken out" docker cp "$(container zta):/var/lib/zta/admin" "$dir/admin"
    expect "the administrator registers an agent" zta agent register compose-probe --role researcher
    expect "it is on record" recorded compose-probe
    expect "the log verifies" in_container zta 'zta audit verify'
    expect "the server's role reads the audit" as_service 'SELECT count(*) FROM audit_events'
    expect "the server's role cannot change the audit" refuses as_service 'UPDATE audit_events SET effect = null'
    expect "the server's role cannot delete from the audit" refuses as_service 'DELETE FROM audit_events'
    expect "the server's role cannot empty the audit" refuses as_service 'TRUNCATE audit_events'
    expect "the server's role cannot lift the guard" refuses as_service 'ALTER TABLE audit_events DISABLE TRIGGER ALL'
    expect "the server's role makes no tables" refuses as_service 'CREATE TABLE probe (i integer)'
    expect "the server's role makes room in the audit" as_service 'SELECT audit_extend(size) FROM log_head'
    expect "the server's role cannot change a partition" refuses as_service 'DELETE FROM audit_events_0'
}

examine_life() {
    expect "migrating again changes nothing" compose run --rm migrate
    expect "Postgres is restarted under the server" compose restart postgres
    expect "  which records again within 30 s" eventually zta agent register compose-probe-2
    expect "the server drains on a stop" compose stop zta
    expect "  with exit code 0" test "$(docker inspect --format '{{.State.ExitCode}}' "$(docker ps --all --quiet --filter "name=zta-compose-test.*zta")")" = 0
    expect "it starts again on the same data" compose up --detach --no-build zta
    expect "  healthy" healthy
    expect "  for the same administrator" zta agent list
    expect "  with a log that verifies" in_container zta 'zta audit verify'
}

docker info >/dev/null 2>&1 || step "a Docker daemon" start_daemon
step "base images" tools/standin/images.sh
step "the image" make_image
step "docker-compose up, until healthy" up
say "examining"
examine_hardening
examine_server
examine_life
printf '\n%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
