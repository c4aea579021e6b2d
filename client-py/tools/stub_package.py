"""Makes a package of the generated stubs in a folder: an `__init__` that exports every name.

Callers then write `from zta.v1 import AuthorizeRequest, AuthorizationServiceStub` and need not
know in which proto file a message lives.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

DOC = '''"""The wire contract `zta.v1`: messages, enums and service stubs, generated from `proto/`.

Made by `client-py/tools/generate.sh`; do not edit. `Client.channel` and `AsyncClient.channel`
give these stubs an authenticated channel that renews itself.
"""
'''


def public_names(module: Path) -> list[str]:
    """The names that a generated module defines, read from its type stub."""
    text = module.with_suffix(".pyi").read_text()
    found = re.findall(r"^(?:class|def) (\w+)", text, re.MULTILINE)
    # A type and no more: a line of a docstring may begin with a status code and a colon.
    found += re.findall(r"^([A-Z][A-Z0-9_]+): [\w.]+(?:  #.*)?$", text, re.MULTILINE)
    skipped = ("_", "DESCRIPTOR", "GRPC_")
    return sorted({name for name in found if not name.startswith(skipped)})


def main() -> None:
    """Write `__init__.py` beside the modules in the folder named by the first argument."""
    folder = Path(sys.argv[1])
    for module in folder.glob("*_pb2_grpc.py"):
        if not public_names(module):  # a file without a service
            module.unlink()
            module.with_suffix(".pyi").unlink()
    lines, exported = [DOC], []
    for module in sorted(folder.glob("*_pb2*.py")):
        names = [name for name in public_names(module) if not name.endswith("AsyncStub")]
        if module.stem.endswith("_grpc"):
            names = [name for name in names if name.endswith(("Stub", "Servicer", "_to_server"))]
        if names:
            joined = "".join(f"    {name},\n" for name in names)
            lines.append(f"from zta.v1.{module.stem} import (\n{joined})\n")
            exported += names
    joined = "".join(f'    "{name}",\n' for name in sorted(exported))
    lines.append(f"\n__all__ = [\n{joined}]\n")
    (folder / "__init__.py").write_text("".join(lines))


if __name__ == "__main__":
    main()
