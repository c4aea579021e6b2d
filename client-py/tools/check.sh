#!/usr/bin/env bash
# Format, lint and types of the Python package. `--fix` formats and fixes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$CLIENT_PY/tools/setup.sh"
cd "$CLIENT_PY"
if [[ "${1:-}" == "--fix" ]]; then
    "$VENV/bin/ruff" check --quiet --fix .
    "$VENV/bin/ruff" format --quiet .
fi
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
"$CLIENT_PY/tools/generate.sh" --check
