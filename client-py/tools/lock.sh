#!/usr/bin/env bash
# Resolves requirements.lock anew: one environment for all three frameworks, with
# hashes and without the address of any index. `--upgrade` takes newer versions.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$CLIENT_PY/tools/setup.sh"
cd "$CLIENT_PY"
"$VENV/bin/uv" pip compile pyproject.toml --universal --python-version 3.10 \
    --extra strands --extra crewai --extra autogen --group dev \
    --generate-hashes --no-header --no-annotate --no-emit-index-url \
    --quiet --output-file requirements.lock "$@"
