#!/usr/bin/env bash
# Runs the Python tests; further arguments go to pytest. The tests in
# tests/real need the server's binary in ZTA_BIN; `-m "not real"` leaves them out.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$CLIENT_PY/tools/setup.sh"
cd "$CLIENT_PY"
exec "$VENV/bin/python" -m pytest "$@"
