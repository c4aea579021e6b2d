"""The generated stubs."""

import subprocess
import sys

import zta.v1


def test_every_exported_name_is_there() -> None:
    assert "AuthorizeRequest" in zta.v1.__all__
    for name in zta.v1.__all__:
        assert hasattr(zta.v1, name), name


def test_unspecified_is_what_an_empty_answer_says() -> None:
    assert zta.v1.AuthorizeResponse().effect == zta.v1.EFFECT_UNSPECIFIED == 0
    assert zta.v1.EFFECT_ALLOW == 1


def test_the_package_imports_no_framework() -> None:
    code = (
        "import sys, zta, zta.v1\n"
        "bad = {'strands', 'crewai', 'autogen_core', 'autogen_agentchat'} & set(sys.modules)\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
