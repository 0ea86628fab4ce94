"""Two steps of training through Keras, against the same by NumPy from the formulas."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from modelcut.data import DataOptions
from modelcut.formats import registry
from modelcut.job.engine_runtime import EngineRuntime
from modelcut.model.encoding import Dense
from modelcut.runtime import Constraint, Coupled, TrainingPlan

KERNEL = "last/kernel"
BATCH, RATE = 16, 0.1
COSTS = np.array([0.2, 1.0, 3.0])
T = 2.5
CHANNELS = np.array([1, -1, 0, -1])
"""Of each input; -1: of no group."""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """A network of one softmax layer, and rows for two batches."""
    import keras

    folder = tmp_path_factory.mktemp("step")
    keras.utils.set_random_seed(1)
    last = keras.layers.Dense(3, activation="softmax", use_bias=False, name="last")
    keras.Sequential([keras.Input((4,)), last]).save(folder / "model.keras")
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=(2 * BATCH, 4)).round(2), np.arange(2 * BATCH) % 3])
    np.savetxt(folder / "rows.csv", rows, fmt="%g", delimiter=",")
    model = registry.open_model(folder / "model.keras")
    return EngineRuntime(model, folder / "rows.csv", DataOptions(header=False))


@pytest.fixture(scope="module")
def bench(runtime):
    """The network, another one as its teacher, the rows, and the kernel at the start."""
    model = runtime.original
    running, teacher = runtime.open(model), runtime.open(model)
    (part,) = runtime.rows(running, 2 * BATCH)
    start = running.read([KERNEL])[KERNEL]
    teacher.write({KERNEL: start[::-1]})
    return running, teacher, part, start


def test_a_network_of_a_fixed_batch_size_is_no_teacher_beforehand(tmp_path):
    import keras

    memory = keras.layers.LSTM(2, stateful=True, name="memory")
    layers = [keras.Input(batch_shape=(8, 4, 1)), memory, keras.layers.Dense(3, name="last")]
    keras.Sequential(layers).save(tmp_path / "model.keras")
    rows = np.column_stack([np.random.default_rng(0).normal(size=(24, 4)), np.arange(24) % 3])
    np.savetxt(tmp_path / "rows.csv", rows, fmt="%g", delimiter=",")
    model = registry.open_model(tmp_path / "model.keras")
    runtime = EngineRuntime(model, tmp_path / "rows.csv", DataOptions(header=False))
    running = runtime.open(model)
    parts = list(runtime.rows(running, 8, teacher=runtime.teacher))
    assert [part.taught for part in parts] == [None, None, None]
    plan = TrainingPlan(
        {KERNEL: Constraint(Dense())}, batch=8, teacher=runtime.teacher, distill=1.0
    )
    assert np.isfinite(running.trainer(plan).run(parts[0], np.full(1, RATE)).loss)


def softmax(scores):
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def through_softmax(found, slope):
    return found * (slope - (slope * found).sum(axis=1, keepdims=True))


def by_scores(loss, found, truth, labels, taught):
    """The gradient of each row's loss by its scores, for a softmax's output."""
    if loss == "mse":
        return through_softmax(found, 2 * (found - truth) / 3)
    if loss == "mae":
        return through_softmax(found, np.sign(found - truth) / 3)
    if loss == "huber":
        return through_softmax(found, np.clip(found - truth, -1, 1) / 3)
    if loss == "costs":
        return COSTS[labels][:, None] * (found - truth)
    if loss in ("teacher", "taught"):
        soft = [softmax(np.log(part) / T) for part in (found, taught)]
        return T * (soft[0] - soft[1])
    return found - truth


@dataclass
class Memory:
    """What an optimizer keeps between two steps."""

    first: np.ndarray = field(default_factory=lambda: np.zeros((4, 3)))
    second: np.ndarray = field(default_factory=lambda: np.zeros((4, 3)))
    steps: int = 0


def update(optimizer, weights, slope, memory):
    memory.steps += 1
    if optimizer == "sgd":
        memory.first = 0.7 * memory.first + slope
        return weights - RATE * memory.first
    memory.first = 0.9 * memory.first + 0.1 * slope
    memory.second = 0.999 * memory.second + 0.001 * slope**2
    first = memory.first / (1 - 0.9**memory.steps)
    second = memory.second / (1 - 0.999**memory.steps)
    weights = weights - RATE * first / np.sqrt(second)
    return weights * (1 - RATE * 0.3) if optimizer == "adamw" else weights


def penalized(penalty, weights):
    """The proximal step of a penalty of strength 0.5."""
    if penalty == "l1":
        return np.sign(weights) * np.maximum(np.abs(weights) - RATE * 0.5, 0)
    if penalty == "group_lasso":
        norm = np.sqrt((weights**2).sum(axis=0))
        return weights * np.maximum(1 - RATE * 0.5 * np.sqrt(4) / norm, 0)
    if penalty == "coupled":
        shrunk = weights.copy()
        for channel in range(2):
            rows = weights[channel == CHANNELS]
            factor = max(1 - RATE * 0.5 * np.sqrt(3) / np.sqrt((rows**2).sum()), 0)
            shrunk[channel == CHANNELS] = rows * factor
        return shrunk
    return weights


@pytest.mark.parametrize(
    ("optimizer", "loss", "penalty"),
    [
        ("sgd", "cross_entropy", ""),
        ("adam", "cross_entropy", ""),
        ("adamw", "cross_entropy", ""),
        ("sgd", "mse", "l1"),
        ("sgd", "mae", "l2"),
        ("sgd", "huber", "group_lasso"),
        ("adam", "cross_entropy", "coupled"),
        ("sgd", "costs", ""),
        ("sgd", "teacher", ""),
        ("sgd", "taught", ""),
    ],
)
def test_two_steps(bench, runtime, optimizer, loss, penalty):
    running, teacher, rows, start = bench
    running.write({KERNEL: start})
    if loss == "taught":  # beforehand; then nobody is asked in the steps
        (rows,) = runtime.rows(running, 2 * BATCH, teacher=teacher)
        teacher = None
    own = {penalty: 0.5} if penalty not in ("", "coupled") else {}
    constraint = Constraint(Dense(), decay=True, axis=1, **own)
    coupled = Coupled(0.5, 2, ((KERNEL, 0, CHANNELS), ("not trained", 0, CHANNELS)))
    plan = TrainingPlan(
        {KERNEL: constraint},
        optimizer=optimizer,
        momentum=0.7,
        weight_decay=0.3,
        batch=BATCH,
        loss=loss if loss in ("cross_entropy", "mse", "mae", "huber") else "",
        class_weights=COSTS if loss == "costs" else None,
        teacher=teacher if loss == "teacher" else None,
        distill=1.0 if loss in ("teacher", "taught") else 0.0,
        temperature=T,
        coupled=(coupled,) if penalty == "coupled" else (),
    )
    trainer = running.trainer(plan)
    trainer.run(rows, np.full(2, RATE))
    (found, _) = trainer.result()[KERNEL]

    weights, memory = start.astype(np.float64), Memory()
    for number in range(2):
        part = rows[number * BATCH : (number + 1) * BATCH]
        inputs, labels = part.inputs[0].astype(np.float64), part.labels[0]
        outputs, taught = softmax(inputs @ weights), softmax(inputs @ start[::-1])
        slope = inputs.T @ by_scores(loss, outputs, np.eye(3)[labels], labels, taught) / BATCH
        if penalty == "l2":
            slope += 2 * 0.5 * weights
        weights = penalized(penalty, update(optimizer, weights, slope, memory))
    np.testing.assert_allclose(found, weights, rtol=2e-4, atol=1e-5)
    assert np.abs(found - start).max() > 0.01


@pytest.mark.parametrize("engine", ["keras", "litert"])
def test_a_timer_tells_the_seconds_of_one_sample(runtime, engine):
    with runtime.timer(runtime.original, engine) as run:
        assert 0 < min(run() for _ in range(3)) < 1
