#!/usr/bin/env bash
# Installs what a target needs and the machine lacks: install-tools.sh build|demo|check|bench|test.
# As root on Debian it installs packages; anyone else is told them all, once, before anything runs.
# What is pinned (cargo-deny, buf, oidc-provider) lands in a cache folder named by its version.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

target=${1:-test}
case $target in build | demo | check | bench | test) ;; *) die "unknown target \`$target\`" ;; esac

needs() { # needs TARGET...: whether this run is for one of them
    [[ " $* " == *" $target "* ]]
}

# Removed at the end, also of an interrupted run.
leftovers=()
trap 'rm -rf "${leftovers[@]}"' EXIT

packages=() # Debian packages that are missing
lacking=()  # what no package of ours can mend

find_missing() {
    local rust python
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    rust=$(cargo --version 2>/dev/null | awk '{print $2}' || true)
    if [[ -z $rust ]] || ! at_least "$RUST_VERSION_MIN" "$rust"; then
        lacking+=("Rust $RUST_VERSION_MIN or newer, by rustup (found: ${rust:-none})")
    fi
    if needs demo check test; then
        python=$(python3 -c 'import platform; print(platform.python_version())' 2>/dev/null || true)
        if [[ -z $python ]] || ! at_least "$PYTHON_VERSION_MIN" "$python"; then
            lacking+=("Python $PYTHON_VERSION_MIN or newer as python3 (found: ${python:-none})")
        elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
            packages+=(python3-venv)
        fi
    fi
    if needs check test; then
        if [[ -n $rust ]]; then
            cargo clippy --version >/dev/null 2>&1 || lacking+=("clippy: rustup component add clippy")
            cargo fmt --version >/dev/null 2>&1 || lacking+=("rustfmt: rustup component add rustfmt")
        fi
        [[ -x $BUF ]] || command -v npm >/dev/null || packages+=(nodejs npm)
    fi
    if needs test; then
        # Stands between a server and its clock, in the tests that let it jump.
        compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || packages+=(libfaketime)
        [[ " ${packages[*]} " == *" nodejs "* ]] || command -v node >/dev/null || packages+=(nodejs)
        [[ " ${packages[*]} " == *" npm "* || -d $OIDC_PROVIDER ]] || command -v npm >/dev/null || packages+=(npm)
    fi
    if needs bench test; then
        [[ -n $(postgres_bin) ]] || packages+=(postgresql)
        ((EUID != 0)) || command -v setpriv >/dev/null || packages+=(util-linux)
    fi
}

install_packages() {
    ((${#packages[@]})) || return 0
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        lacking+=("packages: sudo apt-get update && sudo apt-get install --yes ${packages[*]}")
        return 0
    fi
    # Debian's postgresql would create and start a cluster of its own; we only want the programs.
    local no_cluster=/etc/postgresql-common/createcluster.d/zta-build.conf
    if [[ " ${packages[*]} " == *" postgresql "* ]]; then
        mkdir -p "${no_cluster%/*}"
        leftovers+=("$no_cluster")
        echo 'create_main_cluster = false' >"$no_cluster"
    fi
    step "apt-get update" apt-get update --quiet --quiet
    step "apt-get install ${packages[*]}" \
        env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends "${packages[@]}"
}

stop_if_lacking() {
    ((${#lacking[@]})) || return 0
    printf 'error: this machine lacks, for this target:\n' >&2
    printf '  - %s\n' "${lacking[@]}" >&2
    exit 1
}

# into FOLDER COMMAND...: run COMMAND on a folder beside it and move that into place when it is whole,
# so that an interrupted installation is never taken for a finished one.
into() {
    local folder=$1 partial=$1.partial.$$
    shift
    leftovers+=("$partial")
    mkdir -p "$partial"
    "$@" "$partial" || return
    rm -rf "$folder"
    mv --no-target-directory "$partial" "$folder"
}

build_cargo_deny() {
    # Its speed is of no account here, its build time is: two and a half minutes on two cores.
    CARGO_TARGET_DIR=$1/build CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install cargo-deny --version "$CARGO_DENY_VERSION" --locked --root "$1" &&
        rm -rf "$1/build"
}

fetch_buf() {
    # No install scripts: the package's own starter finds the binary of this platform.
    npm install --ignore-scripts --no-audit --no-fund --loglevel=error --prefix "$1" "@bufbuild/buf@$BUF_VERSION"
}

fetch_oidc_provider() {
    npm install --ignore-scripts --no-audit --no-fund --loglevel=error --prefix "$1" "oidc-provider@$OIDC_PROVIDER_VERSION"
}

find_missing
install_packages
stop_if_lacking
if needs check test; then
    [[ -x $CARGO_DENY ]] ||
        step "cargo-deny $CARGO_DENY_VERSION (built once, some minutes)" into "${CARGO_DENY%/bin/*}" build_cargo_deny
    [[ -x $BUF ]] || step "buf $BUF_VERSION" into "${BUF%/node_modules/*}" fetch_buf
fi
if needs test; then
    [[ -d $OIDC_PROVIDER ]] ||
        step "oidc-provider $OIDC_PROVIDER_VERSION" into "${OIDC_PROVIDER%/node_modules}" fetch_oidc_provider
    [[ -x $LOG_VERIFIER ]] ||
        step "log-verifier, by Go $GO_VERSION" into "${LOG_VERIFIER%/*}" tools/build-log-verifier.sh
fi
