#!/usr/bin/env bash
# Python with the package and its frameworks: `tools/python.sh examples/direct_rpc.py`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$CLIENT_PY/tools/setup.sh"
exec "$VENV/bin/python" "$@"
