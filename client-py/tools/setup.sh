#!/usr/bin/env bash
# Makes the Python environment of the tests, the demo and the examples, outside
# the clone: $ZTA_VENV, or ${XDG_CACHE_HOME:-~/.cache}/zta/venv. Idempotent; a
# second run takes no time because a stamp holds a hash of everything it read.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
PYTHON="${PYTHON:-python3}"

if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))'; then
    echo "error: Python 3.10 to 3.13 is needed; \`$PYTHON\` is $("$PYTHON" -V 2>&1). Set PYTHON=/path/to/python3." >&2
    exit 1
fi

stamp="$VENV/.zta-stamp"
want="$( { "$PYTHON" -V; cat "$CLIENT_PY"/{requirements.lock,pyproject.toml,tools/setup.sh}; } | sha256sum | cut -d' ' -f1)"
# The package is installed editable: from another clone only that step is done again.
want="$want $CLIENT_PY"
# A clone's path may begin with another's: whole words only.
current() { [[ -x "$VENV/bin/python" && -f "$stamp" && "$(cat "$stamp") " == "$1 "* ]]; }
current "$want" && exit 0

mkdir -p "$CACHE"
# Two runs at once (make -j, CI beside a person) must not build one environment.
exec 9>"$CACHE/venv.lock"
if command -v flock >/dev/null && ! flock -n 9; then
    echo "python: another run is setting up $VENV, waiting"
    flock 9
fi
current "$want" && exit 0
if current "${want%% *}"; then
    VIRTUAL_ENV="$VENV" "$VENV/bin/uv" pip install --quiet --no-deps --no-build-isolation -e "$CLIENT_PY"
    echo "$want" >"$stamp"
    exit 0
fi
rm -f "$stamp"

if ! "$VENV/bin/python" -c 'import sys' 2>/dev/null; then
    echo "python: creating $VENV"
    if ! "$PYTHON" -m venv --clear "$VENV"; then
        echo "error: \`$PYTHON -m venv\` failed; on Debian: apt-get install python3-venv" >&2
        exit 1
    fi
fi
"$VENV/bin/python" -c 'import uv' 2>/dev/null || {
    echo "python: installing uv"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.7'
}
uv() { VIRTUAL_ENV="$VENV" "$VENV/bin/uv" "$@"; }
echo "python: installing $(grep -c '==' "$CLIENT_PY/requirements.lock") pinned packages (Strands, CrewAI, AutoGen; half a minute to a few minutes)"
# uv shows its progress; the list of every package at the end is left out.
uv pip install --require-hashes -r "$CLIENT_PY/requirements.lock" 2> >(grep -v '^ [+~-] ' >&2)
echo "python: installing the zta package, editable"
uv pip install --quiet --no-deps --no-build-isolation -e "$CLIENT_PY"
echo "python: precompiling"
"$VENV/bin/python" -m compileall -q -j 0 "$VENV/lib" >/dev/null 2>&1 || true
echo "$want" >"$stamp"
echo "python: ready in $VENV"
