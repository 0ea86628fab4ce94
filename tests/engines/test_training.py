"""Training through Keras under every restriction at once: best epochs, and going on, are exact."""

import numpy as np
import pytest

from modelcut import steps
from modelcut.data import DataOptions
from modelcut.engines.keras.trainer import KerasTrainer
from modelcut.formats import registry
from modelcut.job.checkpoint import Checkpoint
from modelcut.job.engine_runtime import EngineRuntime
from modelcut.runtime import Constraint, TrainingPlan
from modelcut.steps.base import Context

BEFORE = (
    ("prune", "magnitude", {"sparsity": 0.5, "include": ["zeros", "both"]}),
    ("quantize", "cluster", {"values": 6, "include": ["shared", "both"], "entropy_weight": 0.05}),
    ("quantize", "linear", {"bits": 3, "include": ["grid"]}),
    ("quantize", "binary", {"bases": 2, "include": ["signs"]}),
)
WAYS = {
    "fixed": {"activations": {"bits": 8}},
    "movement": {"prune": {"sparsity": 0.7, "criterion": "movement", "exclude": ["shared"]}},
    "dynamic, rising": {"mask": "dynamic", "prune": {"sparsity": 0.7, "end": 0.5}},
    "dynamic, bits": {"mask": "dynamic", "entropy_weight": 0.3},
}


class Killed(BaseException):
    """As SIGKILL, it lets nothing be written."""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with rows, and a network with a layer for each encoding, and noise."""
    import keras

    folder = tmp_path_factory.mktemp("training")
    keras.utils.set_random_seed(1)
    layers = keras.layers
    names = ("zeros", "shared", "both", "grid", "signs")
    body = [layers.Dense(12, activation="tanh", name=name) for name in names]
    noise = layers.Dropout(0.1)
    last = layers.Dense(3, activation="softmax", name="last")
    keras.Sequential([keras.Input((8,)), *body[:3], noise, *body[3:], last]).save(
        folder / "model.keras"
    )
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 8)).round(3)
    labels = (rows @ rng.normal(size=(8, 3))).argmax(axis=1)
    np.savetxt(folder / "rows.csv", np.column_stack([rows, labels]), fmt="%g", delimiter=",")
    return folder


@pytest.fixture(scope="module")
def start(work):
    """The network under its restrictions."""
    model = registry.open_model(work / "model.keras")
    for index, (family, method, fields) in enumerate(BEFORE):
        model = steps.find(family, method)(**fields).apply(model, Context(index=index)).model
    return model


def train(work, start, way, keeper=None, **more):
    fields = {"epochs": 4, "batch_size": 16, "learning_rate": 0.02, **WAYS[way], **more}
    runtime = EngineRuntime(start, work / "rows.csv", DataOptions(header=False), seed=2)
    step = steps.find("finetune", "straight_through")(**fields)
    context = Context(index=len(BEFORE), seed=2, runtime=runtime, keeper=keeper)
    return step.apply(start, context), runtime


def arrays(model):
    return {tensor.name: tensor.pull() for tensor in model.tensors}


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_training_goes_on_to_the_same_bits(work, start, tmp_path, monkeypatch, way):
    whole, runtime = train(work, start, way)
    before, after = arrays(start), arrays(whole.model)
    for name, (values, encoding) in after.items():
        np.testing.assert_array_equal(encoding.project(values), values)
        assert not np.array_equal(values, before[name][0]), f"{name} learned nothing"
        if name.startswith(("shared/kernel", "both/kernel")):
            assert np.unique(values[values != 0]).size <= 6
    for name in ("zeros/kernel", "both/kernel"):
        stayed = (after[name][0] == 0) == (before[name][0] == 0)
        assert stayed.all() == (way == "fixed")
    # What is kept is what was judged; in integers, nearly.
    found = runtime.judge(runtime.open(whole.model), part="validation")
    best = whole.facts["validation"][whole.facts["best_epoch"] - 1]
    rel = 0.1 if "activations" in WAYS[way] else 1e-5
    assert found["log_loss"] == pytest.approx(best["log_loss"], rel=rel)

    def keeper():
        return Checkpoint(tmp_path / "kept", {}, resume=True, every=0).keeper(0)

    run, left = KerasTrainer.run, [0]

    def mortal(self, rows, rates):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return run(self, rows, rates)

    monkeypatch.setattr(KerasTrainer, "run", mortal)
    left[0] = 3 if way in ("fixed", "dynamic, bits") else 40  # epochs, or batches of 4 × 17
    with pytest.raises(Killed):
        train(work, start, way, keeper())
    assert (tmp_path / "kept" / "step-1.npz").is_file()
    resumed, _ = train(work, start, way, keeper())
    assert resumed.facts == whole.facts
    for name, (values, _) in arrays(resumed.model).items():
        assert values.tobytes() == after[name][0].tobytes(), name


def test_a_price_on_bits_takes_rare_values_away(work, start):
    def bits(values):
        _, counts = np.unique(values[values != 0], return_counts=True)
        share = counts / counts.sum()
        return float(-(share * np.log2(share)).sum())

    same = {"keep": "last", "epochs": 2}
    dear = arrays(train(work, start, "dynamic, bits", **same)[0].model)
    plain = arrays(train(work, start, "dynamic, bits", entropy_weight=0.0, **same)[0].model)
    for name in ("shared/kernel", "both/kernel"):
        assert bits(dear[name][0]) < bits(plain[name][0]) - 0.1


def test_the_best_state_comes_back_with_its_prices(work, start):
    runtime = EngineRuntime(start, work / "rows.csv", DataOptions(header=False), seed=2)
    running = runtime.open(start)
    names = ["shared/kernel", "both/kernel"]
    encodings = {name: arrays(start)[name][1] for name in names}
    trainer = running.trainer(
        TrainingPlan(
            {n: Constraint(e, follow=True, entropy_weight=0.3) for n, e in encodings.items()}
        )
    )
    (rows,) = runtime.rows(running, 300)
    rates = np.full(2, 0.1)
    trainer.run(rows, rates)
    trainer.settle()
    trainer.save()
    saved = running.read(names)
    trainer.run(rows, rates)
    trainer.settle()
    assert any((running.read(names)[name] != saved[name]).any() for name in names)
    trainer.restore()
    for name in names:
        np.testing.assert_array_equal(running.read(names)[name], saved[name])
