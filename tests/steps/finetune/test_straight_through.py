"""Fine-tuning on the toy laboratory, and once on each Keras."""

from __future__ import annotations

from signal import SIGINT, SIGTERM

import numpy as np
import pytest
from pydantic import ValidationError
from toy_runtime import ToyRunning, ToyTrainer, toy_runtime
from toys import MODELS

from modelcut import steps
from modelcut.errors import ModelcutError, RecipeError, Stopped, UsageError
from modelcut.formats import registry
from modelcut.model.encoding import Sparse
from modelcut.steps.base import Context


def finetune(**fields):
    return steps.find("finetune", "straight_through")(**fields)


def arrays(model):
    return {tensor.name: tensor.pull()[0] for tensor in model.tensors}


def test_training_teaches_and_zeros_stay_zero(toy):
    runtime = toy_runtime(toy, rows=300)
    pruned = steps.find("prune", "magnitude")(sparsity=0.5).apply(toy, Context()).model
    before = runtime.judge(runtime.open(pruned))["log_loss"]
    step = finetune(epochs=20, batch_size=16, learning_rate=0.1, validation=0)
    outcome = step.apply(pruned, Context(index=1, runtime=runtime))
    assert runtime.judge(runtime.open(outcome.model))["log_loss"] < 0.7 * before
    old, new = arrays(pruned), arrays(outcome.model)
    for name in old:
        assert not new[name][old[name] == 0].any()
        assert (new[name] != old[name]).any()
    assert outcome.facts["loss"][-1] < outcome.facts["loss"][0]


def test_sparsity_rises_to_its_end_exactly(toy):
    step = finetune(epochs=5, batch_size=16, prune={"sparsity": 0.8, "overrides": {"three": 0.25}})
    model = step.apply(toy, Context(runtime=toy_runtime(toy))).model
    found = arrays(model)
    common = np.concatenate([found[f"{name}/kernel"].ravel() for name in ("one", "two")])
    assert np.sum(common == 0) == round(0.8 * common.size)
    assert np.mean(found["three/kernel"] == 0) == 0.25
    assert isinstance(next(t for t in model.tensors if t.kind == "kernel").pull()[1], Sparse)


@pytest.mark.parametrize("include", [[], ["one", "three"], ["*"]])
def test_group_lasso_leaves_the_outputs_of_the_network_alone(include, toy, monkeypatch):
    plans = []

    def trainer(running, plan):
        plans.append(plan)
        return ToyTrainer(running, plan)

    monkeypatch.setattr(ToyRunning, "trainer", trainer)
    step = finetune(steps=1, regularize={"group_lasso": 2.0}, include=include)
    outcome = step.apply(toy, Context(runtime=toy_runtime(toy)))
    named = include[1:] == ["three"]
    found = {n: one.group_lasso for n, one in plans[0].constraints.items() if n.endswith("kernel")}
    assert found["one/kernel"] == 2.0
    assert found["three/kernel"] == (2.0 if named else 0.0)
    assert list(outcome.facts["without_group_lasso"]) == ([] if named else ["three/kernel"])


def test_the_cubic_schedule():
    prune = finetune(prune={"sparsity": 0.9, "begin": 0.2, "end": 0.7}).prune
    assert prune.at(0.1, 0.0, 0.9) == 0
    assert prune.at(0.45, 0.0, 0.9) == pytest.approx(0.9 - 0.9 * 0.5**3)
    assert prune.at(0.7, 0.0, 0.9) == 0.9


def test_a_dynamic_mask_moves_and_keeps_its_size(toy):
    pruned = steps.find("prune", "random")(sparsity=0.5).apply(toy, Context()).model
    step = finetune(epochs=30, batch_size=16, learning_rate=0.3, mask="dynamic", keep="last")
    after = arrays(step.apply(pruned, Context(index=1, runtime=toy_runtime(toy))).model)
    for name, old in arrays(pruned).items():
        if name.endswith("kernel"):
            assert np.sum(after[name] == 0) == np.sum(old == 0)
            assert ((after[name] == 0) != (old == 0)).any()


def test_movement_removes_what_training_moved_to_zero(toy):
    prune = {"sparsity": 0.6, "criterion": "movement", "exclude": ["three"]}
    fields = {"epochs": 30, "batch_size": 16, "learning_rate": 0.1, "keep": "last", "prune": prune}
    after = arrays(finetune(**fields).apply(toy, Context(runtime=toy_runtime(toy))).model)
    by_size = {**fields, "prune": {**prune, "criterion": "magnitude"}}
    other = arrays(finetune(**by_size).apply(toy, Context(runtime=toy_runtime(toy))).model)
    names = ("one/kernel", "two/kernel")
    flat = np.concatenate([after[name].ravel() for name in names])
    assert np.sum(flat == 0) == round(0.6 * flat.size)
    assert any(((after[name] == 0) != (other[name] == 0)).any() for name in names)
    before = np.concatenate([arrays(toy)[name].ravel() for name in names])
    # By magnitude, none that was small at first could have outlived most of the large ones.
    assert np.abs(before[flat != 0]).min() < np.quantile(np.abs(before), 0.2)


def test_the_rate_holds_and_then_falls():
    from modelcut.steps.finetune._loop import Schedule

    schedule = Schedule(100, 1, 2.0, True, 0.1, 0.4, 10, 0.0)
    rates = schedule.rates(0, 100)
    np.testing.assert_allclose(rates[:10], 0.2 * np.arange(1, 11))
    assert (rates[10:39] == 2).all()
    assert (np.diff(rates[40:]) < 0).all()
    assert rates[69] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0)


def test_l1_brings_weights_to_zero_exactly(toy):
    step = finetune(epochs=5, batch_size=16, regularize={"l1": 20.0}, keep="last")
    trained = step.apply(toy, Context(runtime=toy_runtime(toy))).model
    after = arrays(trained)
    assert np.mean(after["two/kernel"] == 0) > 0.2
    assert (after["one/bias"] != 0).all()
    # A prune after it takes what went to zero, and nothing else.
    pruned = steps.find("prune", "magnitude")(threshold=1e-12).apply(trained, Context(index=1))
    for tensor in pruned.model.tensors:
        values, encoding = tensor.pull()
        np.testing.assert_array_equal(values, after[tensor.name])
        assert isinstance(encoding, Sparse) == (tensor.kind == "kernel")


def test_class_weights_count_each_class_as_told(toy, monkeypatch):
    given = []
    trainer = ToyRunning.trainer
    monkeypatch.setattr(
        ToyRunning, "trainer", lambda self, plan: given.append(plan) or trainer(self, plan)
    )
    runtime = toy_runtime(toy, rows=90)
    fields = {"steps": 1, "validation": 0}
    finetune(class_weights="balanced", **fields).apply(toy, Context(runtime=runtime))
    finetune(class_weights=[1, 0, 2], **fields).apply(toy, Context(runtime=runtime))
    (rows,) = runtime.rows(runtime.open(toy), 90, shuffle=0)
    counts = np.bincount(rows.labels[0], minlength=3)
    assert (counts > 0).all()
    # As scikit-learn's "balanced": rows by classes and the rows of the class.
    np.testing.assert_allclose(given[0].class_weights, 90 / (3 * counts))
    np.testing.assert_array_equal(given[1].class_weights, [1, 0, 2])
    with pytest.raises(RecipeError, match="2 weights for 3 classes"):
        finetune(class_weights=[1, 2], **fields).apply(toy, Context(runtime=runtime))


def test_a_teacher_needs_no_labels(toy):
    pruned = steps.find("prune", "magnitude")(sparsity=0.6).apply(toy, Context()).model
    runtime = toy_runtime(toy, labelled=False)
    step = finetune(epochs=20, batch_size=16, learning_rate=0.05, distill={"weight": 1})
    outcome = step.apply(pruned, Context(index=1, runtime=runtime))
    distances = [entry["distance"] for entry in outcome.facts["validation"]]
    assert min(distances) < distances[0]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"epochs": 2}, True),
        ({"steps": 100}, True),
        ({"epochs": 1}, False),
        ({"steps": 3}, False),
        ({"epochs": 2, "augment": {"shift": 1, "image": [4, 5]}}, False),
        ({"epochs": 2, "loss": "mse"}, False),
        ({"epochs": 2, "distill": None}, False),
    ],
)
def test_what_a_teacher_gives_is_kept_where_samples_come_again(toy, fields, kept):
    runtime, asked = toy_runtime(toy, rows=100), []
    plain = runtime.rows

    def rows(running, size, *, teacher=None, **more):
        asked.append(teacher)
        return plain(running, size, **more)

    runtime.rows = rows
    given = {"distill": {"weight": 0.5}, "batch_size": 16, "validation": 0, **fields}
    finetune(**given).apply(toy, Context(runtime=runtime))
    assert any(teacher is not None for teacher in asked) == kept


def test_the_best_epoch_is_kept_and_patience_ends_it(toy):
    runtime = toy_runtime(toy, rows=200)
    # Far too fast: no epoch after the first few is any better.
    step = finetune(epochs=200, batch_size=8, learning_rate=3.0, patience=3, schedule="constant")
    outcome = step.apply(toy, Context(runtime=runtime))
    facts = outcome.facts
    assert facts["ended"] == "no improvement for 3 epochs"
    assert facts["epochs"] == facts["best_epoch"] + 3
    kept = runtime.judge(runtime.open(outcome.model), part="validation")
    best = facts["validation"][facts["best_epoch"] - 1]
    assert kept["accuracy"] == pytest.approx(best["accuracy"], abs=1e-6)
    assert kept["accuracy"] == max(entry["accuracy"] for entry in facts["validation"])


def test_an_interrupt_before_the_first_step_is_told(toy, monkeypatch):
    def interrupted(self, rows, rates):
        raise Stopped(SIGINT)

    monkeypatch.setattr(ToyTrainer, "run", interrupted)
    outcome = finetune(epochs=5, on_interrupt="keep").apply(toy, Context(runtime=toy_runtime(toy)))
    assert outcome.facts["ended"] == "interrupted before the first step: nothing was trained"
    for name, values in arrays(outcome.model).items():
        np.testing.assert_array_equal(values, arrays(toy)[name])


@pytest.mark.parametrize("wish", ["discard", "keep"])
def test_an_interrupt(toy, monkeypatch, wish):
    run = ToyTrainer.run
    calls = []

    def interrupted(self, rows, rates):
        calls.append(1)
        if len(calls) == 4:
            raise Stopped(SIGINT)
        return run(self, rows, rates)

    monkeypatch.setattr(ToyTrainer, "run", interrupted)
    step = finetune(epochs=50, on_interrupt=wish, prune={"sparsity": 0.5, "end": 0.1})
    if wish == "discard":
        with pytest.raises(Stopped):
            step.apply(toy, Context(runtime=toy_runtime(toy)))
        return
    outcome = step.apply(toy, Context(runtime=toy_runtime(toy)))
    assert outcome.facts["ended"] == "interrupted"
    kernels = [v.ravel() for n, v in arrays(outcome.model).items() if n.endswith("kernel")]
    assert np.mean(np.concatenate(kernels) == 0) == pytest.approx(0.5, abs=0.002)
    calls[:] = []
    monkeypatch.setattr(ToyTrainer, "run", lambda *_: (_ for _ in ()).throw(Stopped(SIGTERM)))
    with pytest.raises(Stopped):
        step.apply(toy, Context(runtime=toy_runtime(toy)))


def test_a_loss_that_is_no_number_ends_the_run(toy):
    step = finetune(epochs=50, batch_size=8, learning_rate=1e30, validation=0)
    with np.errstate(all="ignore"), pytest.raises(ModelcutError, match="the loss became"):
        step.apply(toy, Context(runtime=toy_runtime(toy)))


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 1, "steps": 1},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"patience": 2, "validation": 0},
        {"prune": {"sparsity": 0.5, "begin": 0.9, "end": 0.1}},
        {"distill": {"weight": 0}},
        {"hold": 0.3, "schedule": "constant"},
        {"entropy_weight": 0.1},
    ],
)
def test_settings_that_do_not_go_together(fields):
    with pytest.raises(ValidationError):
        finetune(**fields)


def test_what_cannot_be_done_is_said(toy):
    with pytest.raises(UsageError, match="needs training data"):
        finetune().apply(toy, Context())
    with pytest.raises(RecipeError, match="'thre' matches no layer"):
        finetune(prune={"sparsity": 0.5, "exclude": ["thre"]}).apply(
            toy, Context(runtime=toy_runtime(toy))
        )
    with pytest.raises(RecipeError, match="are not images"):
        finetune(augment={"shift": 1}).apply(toy, Context(runtime=toy_runtime(toy)))


def test_shifts_and_flips_are_of_whole_images():
    from modelcut.runtime import Rows
    from modelcut.steps.finetune._augment import Augment

    images = np.arange(1, 1 + 50 * 12, dtype="float32").reshape(50, 12)
    rng = np.random.default_rng(0)
    found = Augment(shift=1, flip=True, image=(3, 4)).apply(Rows((images,), None), rng, "")
    seen = set()
    for before, after in zip(
        images.reshape(-1, 3, 4), found.inputs[0].reshape(-1, 3, 4), strict=True
    ):
        for flip in (1, -1):
            wide = np.pad(before[:, ::flip], 1)
            for down in range(3):
                for right in range(3):
                    if np.array_equal(after, wide[down : down + 3, right : right + 4]):
                        seen.add((flip, down, right))
                        break
    assert len(seen) > 12
    assert found.inputs[0].shape == images.shape


@pytest.mark.parametrize("wish", [{"prune": {"sparsity": 0.8}}, {"mask": "dynamic"}])
def test_the_demo_through_keras(tmp_path, wish):
    from pathlib import Path

    import modelcut
    from modelcut.data import DataOptions
    from modelcut.job.engine_runtime import EngineRuntime

    demo = Path(modelcut.__file__).parent / "demo"
    model = registry.open_model(demo / "digits.h5")
    options = DataOptions(scale="1/16", limit=600)
    done = []
    for _ in range(2):
        start = model
        if "mask" in wish:
            for index, (name, fields) in enumerate(
                {"prune": {"sparsity": 0.7}, "quantize": {"bits": 4}}.items()
            ):
                cls = steps.find(name, steps.default(name))
                start = cls(**fields).apply(start, Context(index=index)).model
        runtime = EngineRuntime(model, demo / "digits_train.csv", options, seed=1)
        step = finetune(epochs=4, batch_size=64, validation=0.2, **wish)
        outcome = step.apply(start, Context(index=2, seed=1, runtime=runtime))
        assert outcome.facts["validation"][-1]["accuracy"] > 0.8
        for tensor in outcome.model.tensors:
            values, encoding = tensor.pull()
            np.testing.assert_array_equal(encoding.project(values), values)
        done.append(arrays(outcome.model))
    for name, values in done[0].items():
        assert values.tobytes() == done[1][name].tobytes(), f"{name} differs from run to run"
    moved = arrays(model)["norm1/moving_mean"]
    assert not np.array_equal(done[0]["norm1/moving_mean"], moved)


def test_variables_are_found_again_in_the_golden_files():
    from modelcut.engines import open_network
    from modelcut.engines.keras.variables import Place, find

    suffix = {"hdf5": ".h5", "keras_zip": ".keras"}
    known = 0
    for path in sorted(MODELS.iterdir()):
        if path.suffix not in suffix.values() or ".weights" in path.name:
            continue
        model = registry.open_model(path)
        network = open_network(
            path, model.origin.dialect, suffix=suffix[model.origin.format], apart=False
        )
        places = [
            Place(layer.path, tuple((t.name, lambda t=t: t.pull()[0]) for t in layer.tensors))
            for layer in model.layers
        ]
        try:
            found = find(network.model, places, path.name)
        except ModelcutError:
            if model.origin.dialect != "keras1":
                raise
            continue
        for tensor in model.tensors:
            np.testing.assert_array_equal(np.asarray(found[tensor.name]), tensor.pull()[0])
        known += 1
    assert known >= 3
