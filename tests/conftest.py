"""The command line in this process, and a model in memory."""

from __future__ import annotations

import os
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
from toys import toy_model

from modelcut.cli import main

os.environ["MODELCUT_CHARTS"] = "0"  # in child processes too; tests/report draws them
hypothesis.settings.register_profile("untimed", deadline=None)  # machines are noisy
hypothesis.settings.load_profile("untimed")


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def modelcut(capfd):
    """Calls the command line in this process."""

    def call(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main([str(argument) for argument in arguments])
        return Said(int(ended.value.code or 0), *capfd.readouterr())

    return call


@pytest.fixture
def command_line(modelcut):
    """The same, where the package goes by its own name."""
    return modelcut


@pytest.fixture
def toy():
    rng = np.random.default_rng(0)
    return toy_model(
        {
            "one": (rng.normal(size=(20, 16)).astype("float32"), np.ones(16, "float32")),
            "two": (0.1 * rng.normal(size=(16, 12)).astype("float32"), np.ones(12, "float32")),
            "three": (rng.normal(size=(12, 3)).astype("float32"), None),
        }
    )
