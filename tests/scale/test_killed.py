"""A run that is killed goes on from its checkpoint, and gives the same file to the byte."""

from pathlib import Path

import numpy as np
import pytest
from processes import begin, end

import modelcut
from modelcut.errors import ExitCode
from modelcut.job.checkpoint import FileKeeper

DEMO = Path(modelcut.__file__).parent / "demo"
RECIPE = """\
version: 1
data: {scale: 1/16, limit: 400}
steps:
  - finetune: {epochs: 2, batch_size: 32}
  - prune: magnitude
    sparsity: 0.5
  - finetune: {epochs: 3, batch_size: 8, mask: dynamic}
"""


@pytest.fixture
def job(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)

    def job(output, *more):
        train = ["--train", DEMO / "digits_train.csv"]
        return ["run", DEMO / "digits.h5", "-r", recipe, *train, "-o", tmp_path / output, *more]

    return job


def test_a_killed_run_goes_on(job, tmp_path):
    folder = tmp_path / "kept"
    keep = ("--checkpoint", folder, "--checkpoint-every", "0")
    # The network has dropout and a batch normalization: their states are kept too.
    (whole, said), (killed, _) = end(
        [begin(job("whole.h5")), begin(job("resumed.h5", *keep), die_at=60)]
    )
    assert whole == 0, said
    assert killed == -9
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.json",
        "step-1.npz",
        "step-3.npz",
    ]
    assert not (tmp_path / "resumed.h5").exists()
    for left in tmp_path.glob(".*.part"):  # SIGKILL lets nobody tidy up
        left.unlink()
    [(resumed, said)] = end([begin(job("resumed.h5", *keep, "--resume"))])
    assert resumed == 0, said
    assert (tmp_path / "resumed.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not folder.exists()


def test_a_checkpoint_that_does_not_fit(job, tmp_path, modelcut):
    folder = tmp_path / "kept"
    keep = ("--checkpoint", folder, "--checkpoint-every", "0")
    [(killed, _)] = end([begin(job("no.h5", *keep), die_at=25)])
    assert killed == -9
    keeper = FileKeeper(folder / "step-1.npz", every=0, writes=True)
    saved = keeper.load()
    assert "kept:1" in saved.arrays  # the best epoch so far
    less = {name: part for name, part in saved.arrays.items() if name != "kept:1"}
    other = {**saved.arrays, "kept:1": np.zeros((1, 2, 3), np.float32)}
    typed = {name: part.astype(np.float64) for name, part in saved.arrays.items()}
    course = {**saved.facts["course"], "unheard": 1}
    started = {name: fact for name, fact in saved.facts.items() if name != "done"}
    for arrays, facts, expected in (
        (less, saved.facts, "kept:1 is not as it is here"),
        (other, saved.facts, "kept:1 is not as it is here"),
        (typed, saved.facts, "is not as it is here"),
        (saved.arrays, {**saved.facts, "course": course}, "its facts do not match this version"),
        (saved.arrays, {"course": saved.facts["course"]}, "its facts do not match this version"),
        (saved.arrays, started, "its facts do not match this version"),
    ):
        keeper.save(arrays, facts)
        said = modelcut(*job("no.h5", *keep, "--resume", "-q"))
        assert said.code == ExitCode.USAGE, said.err
        assert "step-1.npz: the checkpoint is of another training" in said.err
        assert expected in said.err
        assert said.err.count("\n") == 1
        assert not (tmp_path / "no.h5").exists()


def test_what_does_not_go_together(job, tmp_path, modelcut):
    folder = tmp_path / "kept"
    for words, expected in (
        (("--resume",), "--resume: no checkpoint folder"),
        (("--checkpoint-every", "5"), "--checkpoint-every: no checkpoint folder"),
        (("--checkpoint", folder, "--checkpoint-every", "soon"), "not a number of seconds"),
        (("--checkpoint", folder, "--dry-run"), "a dry run keeps nothing"),
    ):
        said = modelcut(*job("no.h5", *words))
        assert said.code == ExitCode.USAGE
        assert expected in said.err
    said = modelcut(
        "prune",
        DEMO / "digits.h5",
        "--sparsity",
        "0.5",
        "-o",
        tmp_path / "no.h5",
        "--checkpoint",
        folder,
    )
    assert said.code == ExitCode.USAGE
    assert "the recipe has no step finetune" in said.err
    assert not folder.exists()
