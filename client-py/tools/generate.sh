#!/usr/bin/env bash
# Regenerates src/zta/v1 from ../proto. `--check` only says whether it is current.
#
# grpcio-tools stays at 1.70.0: its output runs on protobuf 5.29.3 (which AutoGen
# pins) up to 7.x, while newer output refuses to be imported beside AutoGen.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$CLIENT_PY/tools/setup.sh"

out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
cd "$ROOT/proto"
VIRTUAL_ENV="" "$VENV/bin/uv" run --quiet --no-project --python "$VENV/bin/python" \
    --with 'grpcio-tools==1.70.0' --with 'mypy-protobuf==3.6.0' --with 'setuptools<81' \
    python -m grpc_tools.protoc -I . \
    --python_out="$out" --grpc_python_out="$out" \
    --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" \
    zta/v1/*.proto
"$VENV/bin/python" "$CLIENT_PY/tools/stub_package.py" "$out/zta/v1"

target="$CLIENT_PY/src/zta/v1"
if [[ "${1:-}" == "--check" ]]; then
    diff -r -x __pycache__ "$out/zta/v1" "$target" >/dev/null || {
        echo "error: client-py/src/zta/v1 is not what proto/ gives; run client-py/tools/generate.sh" >&2
        exit 1
    }
    exit 0
fi
rm -rf "$target"
cp -r "$out/zta/v1" "$target"
echo "python: regenerated ${target#"$ROOT"/}"
