"""A training that was interrupted goes on as if it had not been."""

import numpy as np
import pytest
from toy_runtime import ToyTrainer, toy_runtime

from modelcut import steps
from modelcut.errors import InputError
from modelcut.job.checkpoint import Checkpoint
from modelcut.steps.base import Context


class Killed(BaseException):
    """As SIGKILL, it lets nothing be written."""


def finetune(**fields):
    return steps.find("finetune", "straight_through")(**fields)


def arrays(model):
    return {tensor.name: tensor.pull()[0] for tensor in model.tensors}


# Of 1300 rows, an epoch is three blocks of 64 batches.
WAYS = {
    "masks": {"epochs": 3, "batch_size": 8, "prune": {"sparsity": 0.6, "end": 0.5}},
    "dynamic": {"epochs": 3, "batch_size": 8, "mask": "dynamic"},
    "patience": {"epochs": 40, "batch_size": 8, "learning_rate": 3.0, "patience": 3},
    "steps": {"steps": 300, "batch_size": 8, "validation": 0},
    "shifts": {"epochs": 3, "batch_size": 8, "augment": {"shift": 1}},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("deaths", [[1], [3, 2, 1, 2]])
def test_it_gives_the_same(toy, tmp_path, monkeypatch, way, deaths):
    fields = dict(WAYS[way])
    start = toy
    if way == "shifts":
        width = next(t for t in toy.tensors if t.kind == "kernel").shape[0]
        fields["augment"] = {"shift": 1, "image": [1, width]}
    if way == "dynamic":
        start = steps.find("prune", "magnitude")(sparsity=0.5).apply(toy, Context()).model
    if way in ("masks", "dynamic"):  # the masks are looked at eight times a block
        deaths = [8 * death for death in deaths]
    step, run, left = finetune(**fields), ToyTrainer.run, [0]

    def mortal(self, rows, rates):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return run(self, rows, rates)

    def train(keeper=None):
        context = Context(index=1, seed=3, runtime=toy_runtime(toy, rows=1300), keeper=keeper)
        with np.errstate(all="ignore"):
            return step.apply(start, context)

    def keeper(every):
        return Checkpoint(tmp_path / "kept", {}, resume=True, every=every).keeper(1)

    whole = train()
    monkeypatch.setattr(ToyTrainer, "run", mortal)
    for death in deaths:
        left[0] = death
        with pytest.raises(Killed):
            train(keeper(0))
        assert (tmp_path / "kept" / "step-2.npz").is_file()
    left[0] = 0
    resumed = train(keeper(0))
    assert -left[0] < 1000
    monkeypatch.setattr(ToyTrainer, "run", None)
    again = train(keeper(3600))  # what is over is not done again
    for other in (resumed, again):
        assert other.facts == whole.facts
        for name, values in arrays(whole.model).items():
            assert values.tobytes() == arrays(other.model)[name].tobytes(), name


def test_a_worker_that_does_not_see_the_checkpoint(toy, tmp_path):
    runtime = toy_runtime(toy)
    runtime.agreed = lambda numbers: [12.0]
    keeper = Checkpoint(tmp_path / "kept", {}, resume=True).keeper(0)
    with pytest.raises(InputError, match="cannot see the checkpoint"):
        finetune(epochs=1).apply(toy, Context(runtime=runtime, keeper=keeper))
