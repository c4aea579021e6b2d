#!/usr/bin/env bash
# Stands in for the entry point of the public Postgres image, for the part of it that docker-compose.yml
# relies on: POSTGRES_DB, POSTGRES_USER, POSTGRES_PASSWORD_FILE, /docker-entrypoint-initdb.d, and a server
# that answers on the socket alone until it is initialised. Already started as a user without rights.
set -euo pipefail

bin=$(printf '%s\n' /usr/lib/postgresql/*/bin)
export PATH=$bin:$PATH PGDATA=/var/lib/postgresql/data
if [[ ! -s $PGDATA/PG_VERSION ]]; then
    initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" \
        --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl --wait --options="-c listen_addresses=''" start
    createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
    for script in /docker-entrypoint-initdb.d/*.sh; do
        "$script"
    done
    pg_ctl --wait --mode=fast stop
fi
exec postgres -c listen_addresses='*' "$@"
