#!/usr/bin/env bash
# Run once by the Postgres image, on an empty database, as its superuser. Three roles without special
# rights: `zta_owner` owns the tables and is used by `zta migrate` alone; the server works as `zta_service`,
# which owns nothing and may do what the migrations grant it; `zta_auditor` may read the audit and nothing
# else. Nobody logs in as the last before you give it a password, or to a login of yours.
set -euo pipefail

# The passwords travel by standard input: on a command line every process of the container could read them.
psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<SQL
\set owner_password \`cat /run/secrets/postgres_owner_password\`
\set service_password \`cat /run/secrets/postgres_service_password\`
CREATE ROLE zta_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE zta_service LOGIN PASSWORD :'service_password';
CREATE ROLE zta_auditor NOLOGIN;
REVOKE ALL ON DATABASE "$POSTGRES_DB" FROM PUBLIC;
ALTER DATABASE "$POSTGRES_DB" OWNER TO zta_owner;
GRANT CONNECT ON DATABASE "$POSTGRES_DB" TO zta_service, zta_auditor;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO zta_owner;
GRANT USAGE ON SCHEMA public TO zta_service, zta_auditor;
SQL
