#!/usr/bin/env bash
# The contract of the adapters with the newest versions of the frameworks, in an environment of its
# own that is made anew: it needs a package registry, and says nothing about this repository.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
NEWEST="$CACHE/venv-newest"
rm -rf "$NEWEST"
python3 -m venv "$NEWEST"
"$NEWEST/bin/python" -m pip install --quiet --disable-pip-version-check \
    "$CLIENT_PY[strands,crewai,autogen]" "mcp>=1.30,<2" "pytest>=8.3,<10" "pytest-timeout>=2.3,<3"
"$NEWEST/bin/python" -m pip list 2>/dev/null | grep -i -E '^(strands-agents|crewai|autogen-)' || true
cd "$CLIENT_PY"
exec "$NEWEST/bin/python" -m pytest tests/test_enforcement.py tests/test_contract.py \
    tests/test_traps.py tests/test_verify.py tests/test_strands.py tests/test_crewai.py \
    tests/test_autogen.py "$@"
