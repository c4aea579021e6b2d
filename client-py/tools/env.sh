# Sourced by the other scripts: where things are. Nothing here has side effects.
CLIENT_PY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
ROOT="$(cd "$CLIENT_PY/.." && pwd)"
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/zta"
VENV="${ZTA_VENV:-$CACHE/venv}"
# Lint and type caches stay out of the clone.
export MYPY_CACHE_DIR="$CACHE/mypy" RUFF_CACHE_DIR="$CACHE/ruff"
export PYTHONDONTWRITEBYTECODE=1
# Two clones may share the environment: each runs its own package.
export PYTHONPATH="$CLIENT_PY/src"
