"""The examples that help shows: they run on the demo's files."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

import modelcut as package
from modelcut import steps

DEMO = Path(package.__file__).parent / "demo"
METHODS = [(family, method) for family in steps.families() for method in steps.methods(family)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO / "digits.h5", "model.h5")
    shutil.copy(DEMO / "digits_train.csv", "train.csv")
    shutil.copy(DEMO / "digits_test.csv", "test.csv")
    return tmp_path


def example(modelcut, *command):
    """The arguments of the command that the help of a command shows."""
    found = re.search(r"^Example: modelcut (.+)$", modelcut(*command, "-h").out, re.M)
    assert found, command
    return shlex.split(found[1])


@pytest.mark.parametrize(("family", "method"), METHODS, ids=lambda name: name)
def test_the_example_of_a_method(family, method, folder, modelcut):
    words = example(modelcut, family, method)
    assert words[:2] == [family, method]
    trains = {"--train", "--calibrate"} & set(
        words
    )  # then TensorFlow runs: the recipe is made and checked only
    said = modelcut(*words, *(("--print-recipe",) if trains else ("--dry-run", "-q")))
    assert said.code == 0, said
    if trains:
        (folder / "r.yaml").write_text(said.out)
        assert modelcut("recipe", "check", "r.yaml").code == 0


def test_the_examples_of_the_other_commands(folder, modelcut):
    pack, unpack = example(modelcut, "pack"), example(modelcut, "unpack")
    assert modelcut(*pack).code == 0
    assert modelcut(*unpack, "--force").code == 0
    shutil.copy(DEMO / "digits.h5", "model.h5")
    for name in ("inspect", "scan", "docs"):
        assert modelcut(*example(modelcut, name)).code == 0, name
    run = example(modelcut, "run")
    assert modelcut(*run, "--print-recipe").code == 0
    assert modelcut(*run[: run.index("--test")], "-o", "small.h5").code == 0
    for group, names in {"recipe": ("new", "schema", "show"), "report": ("schema", "show")}.items():
        for name in names:
            assert modelcut(*example(modelcut, group, name)).code == 0, name


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "eval", "compare", "export", "sensitivity"])
def test_the_examples_that_start_an_engine(command, folder, modelcut):
    shutil.copy("model.h5", "small.h5")
    force = ("--force",) if command in ("run", "export") else ()
    said = modelcut(*example(modelcut, command), *force)
    assert said.code == 0, said
