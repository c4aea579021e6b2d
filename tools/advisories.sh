#!/usr/bin/env bash
# Known vulnerabilities in what we depend on, Rust and Python. Needs the advisory databases, so the network:
# the public workflow runs it, `make check` does not.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

PIP_AUDIT_VERSION=2.10.1
audit=$TOOLS/pip-audit-$PIP_AUDIT_VERSION

tools/install-tools.sh check
step "Rust advisories" "$CARGO_DENY" --locked check advisories
[[ -x $audit/bin/pip-audit ]] || {
    step "pip-audit $PIP_AUDIT_VERSION" python3 -m venv --clear "$audit"
    "$audit/bin/pip" install --quiet "pip-audit==$PIP_AUDIT_VERSION"
}
step "Python advisories" "$audit/bin/pip-audit" --disable-pip --require-hashes --requirement client-py/requirements.lock
