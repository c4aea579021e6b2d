"""The frameworks of the contract: a further one is one more module and one more row."""

from typing import Any

import pytest

from support import autogen_run, crewai_run, strands_run

FRAMEWORKS: dict[str, Any] = {
    "strands": strands_run,
    "crewai": crewai_run,
    "autogen": autogen_run,
}
EVERY_MODE = [(module, mode) for module in FRAMEWORKS.values() for mode in module.MODES]
EVERY_MODE_IDS = [f"{name}-{mode}" for name, module in FRAMEWORKS.items() for mode in module.MODES]

in_every_mode = pytest.mark.parametrize(("module", "mode"), EVERY_MODE, ids=EVERY_MODE_IDS)
in_every_framework = pytest.mark.parametrize("module", FRAMEWORKS.values(), ids=list(FRAMEWORKS))
where_control_is_handed_over = pytest.mark.parametrize(
    "module",
    [module for module in FRAMEWORKS.values() if module.HANDS_OVER],
    ids=[name for name, module in FRAMEWORKS.items() if module.HANDS_OVER],
)
