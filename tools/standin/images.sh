#!/usr/bin/env bash
# Makes the two base images of docker-compose.yml from Debian's packages, for a machine that can pull none:
# zta-standin/debian and zta-standin/postgres. Kept by Docker; made again only when they are gone.
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

work=
trap '[[ -z $work ]] || rm -rf "$work" "$work.log"' EXIT

have() { docker image inspect "$1" >/dev/null 2>&1; }

in_root() { chroot "$work" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"; }

bootstrap() {
    work=$(mktemp -d /var/tmp/zta-standin.XXXXXX)
    chmod 0755 "$work"
    debootstrap --variant=minbase bookworm "$work" >"$work.log" || {
        tail -n 20 "$work.log" >&2
        return 1
    }
}

import() { # import IMAGE [CHANGE...]
    local image=$1 change changes=()
    shift
    for change in "$@"; do changes+=(--change "$change"); done
    tar --create --directory="$work" --one-file-system . | docker import "${changes[@]}" - "$image" >/dev/null
}

make_debian() {
    bootstrap && in_root apt-get clean && import zta-standin/debian:bookworm-slim 'CMD ["bash"]'
}

# The user's number is that of the public image, and docker-compose.yml relies on it.
make_postgres() {
    in_root groupadd --system --gid 999 postgres &&
        in_root useradd --system --uid 999 --gid postgres --home-dir /var/lib/postgresql --shell /bin/bash postgres &&
        cp /etc/resolv.conf "$work/etc/resolv.conf" &&
        mkdir -p "$work/etc/postgresql-common/createcluster.d" &&
        echo 'create_main_cluster = false' >"$work/etc/postgresql-common/createcluster.d/zta.conf" &&
        in_root apt-get update --quiet --quiet &&
        in_root apt-get install --quiet --quiet --yes --no-install-recommends postgresql \
            >"$work.log" 2>&1 &&
        in_root apt-get clean &&
        in_root install --directory --owner=postgres --group=postgres --mode=0700 /var/lib/postgresql/data &&
        in_root install --directory --mode=0755 /docker-entrypoint-initdb.d &&
        install --mode=0755 tools/standin/postgres-entrypoint.sh "$work/usr/local/bin/docker-entrypoint.sh" &&
        import zta-standin/postgres:15 'ENTRYPOINT ["docker-entrypoint.sh"]' \
            'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
            'VOLUME /var/lib/postgresql/data'
}

if ! have zta-standin/debian:bookworm-slim || ! have zta-standin/postgres:15; then
    step "a Debian image by debootstrap" make_debian
    step "a Postgres image on it" make_postgres
fi
