"""What the README says is so: its tables are current, its recipes parse, its commands are there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from modelcut.cli.main import COMMANDS
from modelcut.errors import ExitCode
from modelcut.recipe import recipe
from modelcut.recipe.yaml_text import loads

sys.path.insert(0, str(Path(__file__).parent / "data"))
import make_docs

README = make_docs.README.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", make_docs.TABLES)
def test_tables_are_current(name):
    made = make_docs.filled(README, name, make_docs.TABLES[name]())
    assert made == README, "run python tests/data/make_docs.py"


def test_the_recipe_of_the_readme_is_one():
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.S)
    found = [block for block in blocks if "steps:" in block]
    assert found
    for block in found:
        assert recipe.parse(loads(block, "README")).steps


def test_commands_and_their_flags_exist(modelcut):
    called = re.findall(r"modelcut ([a-z]+)[^\n`|]*", README)
    assert {name for name in called if name in COMMANDS} == set(COMMANDS)
    names = "|".join(COMMANDS)
    for line in re.findall(rf"(modelcut (?:{names})[^\n`|]*)", README):
        name = line.split()[1]
        said = modelcut(name, "--help")
        assert said.code == 0
        for flag in re.findall(r"--[a-z][a-z-]*", line):
            assert flag in said.out, (line, flag)


def test_exit_codes_are_documented(modelcut):
    about = modelcut("--help").out
    section = README.partition("## Exit codes")[2].partition("\n## ")[0]
    for code in ExitCode:
        assert re.search(rf"\b{code.value}\b", section), code
        assert re.search(rf"\b{code.value}\b", about), code


def test_the_two_lines_are_those_that_ci_runs():
    steps = (make_docs.README.parent / ".ci" / "run").read_text()
    for line in ("pip install '.[test]'", "pytest"):
        assert line in README
        assert line.split(" ", 2)[-1] in steps
