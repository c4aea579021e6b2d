#!/usr/bin/env bash
# Makes the secrets of docker-compose.yml, once: init-secrets.sh [FOLDER]
#
# The folder is yours alone (0700); inside, the files are readable (0444), because each container mounts
# its own and reads it as a user without rights. Nobody else on this machine gets past the folder.
# Lost keyring secret = lost CA and signing keys: keep a copy where you keep such things.
set -euo pipefail

dir=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/secrets}
if [[ -e $dir ]]; then
    echo "error: $dir exists; secrets in use are never replaced here" >&2
    exit 1
fi

umask 077
partial=$dir.partial.$$
trap 'rm -rf "$partial"' EXIT
mkdir -p "$partial"

random_hex() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
random_hex >"$partial/postgres_password"
owner=$(random_hex)
service=$(random_hex)
printf '%s' "$owner" >"$partial/postgres_owner_password"
printf '%s' "$service" >"$partial/postgres_service_password"
printf 'postgres://zta_owner:%s@postgres:5432/zta' "$owner" >"$partial/database_url_owner"
printf 'postgres://zta_service:%s@postgres:5432/zta' "$service" >"$partial/database_url"
head -c 48 /dev/urandom | base64 --wrap=0 >"$partial/keyring"
chmod 0444 "$partial"/*
# Last, so that an interrupted run leaves nothing that looks whole.
mv --no-target-directory "$partial" "$dir"
printf 'secrets written to %s\n' "$dir"
