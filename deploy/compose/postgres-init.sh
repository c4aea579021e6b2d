#!/usr/bin/env bash
# Run once by the Postgres image, on an empty database: the role that the server works under.
# It owns nothing. `zta migrate`, as zta_owner, grants it what the server does and no more.
set -euo pipefail

# The password travels by standard input: on a command line every process of the container could read it.
psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<SQL
\set password \`cat /run/secrets/postgres_service_password\`
CREATE ROLE zta_service LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
REVOKE ALL ON DATABASE "$POSTGRES_DB" FROM PUBLIC;
GRANT CONNECT ON DATABASE "$POSTGRES_DB" TO zta_service;
SQL
