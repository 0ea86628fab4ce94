"""Criteria that ask the network, against scores made by hand on a network of NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_engine import ToyNetwork, WatchedLab
from toys import toy_model

from modelcut import steps
from modelcut.errors import RecipeError, UsageError
from modelcut.model.model import Layer, Source, Tensor
from modelcut.runtime import Rows
from modelcut.steps.base import Context
from modelcut.steps.prune._inputs import matrices, refusal

CRITERIA = ("gradient", "taylor", "snip", "fisher", "wanda")


@pytest.fixture
def linear():
    """One layer: softmax of x W, whose gradient is x^T (p - y) / n."""
    rng = np.random.default_rng(5)
    return toy_model({"one": (rng.normal(size=(9, 4)).astype("float32"), None)})


@pytest.fixture
def deep():
    rng = np.random.default_rng(6)
    shapes = {"one": (9, 12), "two": (12, 8), "three": (8, 4)}
    return toy_model(
        {
            name: ((rng.normal(size=s) / 2).astype("float32"), rng.normal(size=s[1]))
            for name, s in shapes.items()
        }
    )


def lab_of(model, rows=96):
    runtime = WatchedLab.taught_by(model, rows)
    runtime.labels = np.random.default_rng(0).permutation(
        runtime.labels
    )  # else the gradients are tiny
    return runtime


def gone(model, criterion, runtime, **fields):
    step = steps.find("prune", criterion)(**fields)
    outcome = step.apply(model, Context(runtime=runtime))
    return {t.name: t.pull()[0] == 0 for t in outcome.model.tensors if t.kind == "kernel"}, outcome


def per_row(model, runtime):
    """The gradient of each row's loss by the only kernel, straight from the formula."""
    weights = next(model.tensors).pull()[0].astype(float)
    scores = np.exp(runtime.inputs @ weights)
    delta = scores / scores.sum(axis=1, keepdims=True) - np.eye(4)[runtime.labels]
    return weights, runtime.inputs[:, :, None].astype(float) * delta[:, None, :]


def test_the_gradients_of_the_toy_are_derivatives(deep):
    runtime, network = lab_of(deep), ToyNetwork(deep)
    rows = Rows((runtime.inputs,), (runtime.labels,))
    names = [tensor.name for tensor in deep.tensors]
    found = network.gradients(rows, names)
    for name in names:
        values = network.values[name]
        for place in [(0,) * values.ndim, tuple(n - 1 for n in values.shape)]:
            losses = []
            for delta in (1e-3, -1e-3):
                moved = values.copy()
                moved[place] += delta
                network.write({name: moved})
                losses.append(network.loss(rows))
            network.write({name: values})
            assert found[name][place] == pytest.approx((losses[0] - losses[1]) / 2e-3, abs=5e-4)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_what_goes_is_what_the_formula_says(criterion, linear):
    runtime = lab_of(linear)
    weights, each = per_row(linear, runtime)
    batches = each.reshape(3, 32, *weights.shape).mean(axis=1)
    norms = np.sqrt(np.square(runtime.inputs.astype(float)).sum(axis=0))[:, None]
    scores = {
        "gradient": np.abs(batches).mean(axis=0),
        "taylor": np.abs(weights * batches).mean(axis=0),
        "snip": np.abs(weights * each.mean(axis=0)),
        "fisher": np.square(weights * each).mean(axis=0) / 2,
        "wanda": np.abs(weights) * norms,
    }[criterion]
    fields = {"scope": "layer"} if criterion == "wanda" else {}
    found, _ = gone(linear, criterion, runtime, sparsity=0.5, **fields)
    expected = np.zeros(weights.size, bool)
    expected[np.argsort(scores, axis=None)[: weights.size // 2]] = True
    np.testing.assert_array_equal(found["one/kernel"].ravel(), expected)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.9, 1.0])
def test_the_share_is_exact_and_what_was_zero_counts(criterion, sparsity, deep):
    kernel = deep.layers[0].tensors[0]
    values = kernel.pull()[0]
    values[:4] = 0
    holed = deep.with_tensors({kernel.name: replace(kernel, source=Source(values.copy))})
    for scope in ("global", "layer"):
        found, _ = gone(holed, criterion, lab_of(holed), sparsity=sparsity, scope=scope)
        total = sum(mask.size for mask in found.values())
        zeros = {name: int(mask.sum()) for name, mask in found.items()}
        if scope == "global":
            assert sum(zeros.values()) == max(round(sparsity * total), 48)
        else:
            for name, mask in found.items():
                least = 48 if name == "one/kernel" else 0
                assert zeros[name] == max(round(sparsity * mask.size), least)
        assert found["one/kernel"][:4].all()


def test_wanda_ranks_each_output_alone_unless_told_otherwise(deep):
    found, _ = gone(deep, "wanda", lab_of(deep), sparsity=0.5)
    for mask in found.values():
        assert np.all(abs(mask.sum(axis=0) - mask.shape[0] / 2) < 1)
        assert mask.sum() == mask.size // 2
    found, _ = gone(deep, "wanda", lab_of(deep), sparsity=0.5, scope="layer")
    assert any(len(set(mask.sum(axis=0))) > 1 for mask in found.values())


def test_global_ranks_all_layers_together(deep):
    runtime = lab_of(deep)
    together, _ = gone(deep, "taylor", runtime, sparsity=0.6)
    alone, _ = gone(deep, "taylor", runtime, sparsity=0.6, scope="layer")
    shares = [mask.mean() for mask in together.values()]
    assert max(shares) - min(shares) > 0.05
    assert all(mask.mean() == pytest.approx(0.6, abs=0.02) for mask in alone.values())


def test_rows_and_batch_are_what_is_looked_at(deep):
    runtime = lab_of(deep)
    seen = []

    class Watching(ToyNetwork):
        def gradients(self, rows, names):
            seen.append(len(rows))
            return super().gradients(rows, names)

    runtime.open = Watching
    _, outcome = gone(deep, "taylor", runtime, sparsity=0.5, rows=50, batch_size=20)
    assert seen == [20, 20, 10]
    assert outcome.facts["rows"] == 50
    seen.clear()
    gone(deep, "fisher", runtime, sparsity=0.5, rows=7)
    assert seen == [1] * 7


def test_frozen_tensors_are_left_alone_with_the_reason(deep):
    runtime = lab_of(deep)

    class Frozen(ToyNetwork):
        def __init__(self, model):
            super().__init__(model)
            self.trainable -= {"two/kernel"}

    runtime.open = Frozen
    found, outcome = gone(deep, "taylor", runtime, sparsity=0.5)
    assert "is frozen" in outcome.skipped["two/kernel"]
    assert not found["two/kernel"].any()


@pytest.mark.parametrize("criterion", [*CRITERIA, "obs"])
def test_without_training_data_it_is_said(criterion, deep):
    with pytest.raises(UsageError, match="--train"):
        steps.find("prune", criterion)(sparsity=0.5).apply(deep, Context())


@pytest.mark.parametrize("criterion", [*CRITERIA, "obs"])
def test_scores_that_are_no_numbers_are_refused(criterion, deep):
    runtime = lab_of(deep)
    runtime.inputs[3, 2] = np.inf
    with np.errstate(all="ignore"), pytest.raises(RecipeError, match=r"finite|infinite"):
        steps.find("prune", criterion)(sparsity=0.5).apply(deep, Context(runtime=runtime))


def test_obs_makes_up_for_what_goes(deep):
    rng = np.random.default_rng(2)
    runtime = lab_of(deep)
    runtime.inputs = (runtime.inputs @ rng.normal(size=(9, 9))).astype("float32")
    before = ToyNetwork(deep).forward(runtime.inputs)

    def error(criterion, **fields):
        step = steps.find("prune", criterion)(sparsity=0.5, **fields)
        outcome = step.apply(deep, Context(runtime=runtime))
        return float(np.square(ToyNetwork(outcome.model).forward(runtime.inputs) - before).sum()), (
            outcome
        )

    ours, outcome = error("obs")
    assert ours < 0.7 * error("magnitude", scope="layer")[0]
    assert ours < 0.7 * error("wanda")[0]
    assert set(outcome.facts["output_error"]) == {"one/kernel", "two/kernel", "three/kernel"}
    for tensor in outcome.model.tensors:
        values, encoding = tensor.pull()
        if tensor.kind == "kernel":
            assert np.sum(values == 0) == round(0.5 * values.size)
            assert encoding.kinds == ("sparse", "dense")


def test_obs_leaves_everything_as_it_is_at_sparsity_0(deep):
    outcome = steps.find("prune", "obs")(sparsity=0).apply(deep, Context(runtime=lab_of(deep)))
    for tensor, before in zip(outcome.model.tensors, deep.tensors, strict=True):
        np.testing.assert_array_equal(tensor.pull()[0], before.pull()[0])


def test_a_search_asks_the_network_once_for_each_layer(deep):
    from modelcut.budget.bench import Bench
    from modelcut.budget.search import search

    runtime = lab_of(deep)
    asked = []

    class Watching(ToyNetwork):
        def gradients(self, rows, names):
            asked.append(tuple(names))
            return super().gradients(rows, names)

    runtime.open = Watching
    budget = {"max_accuracy_drop": 0.1, "candidates": [0.2, 0.5, 0.8]}
    step = steps.find("prune", "taylor")(budget=budget, batch_size=96)
    plain, _ = search(step, deep, Context(runtime=runtime), Bench(deep, runtime))
    assert sorted(asked) == [("one/kernel",), ("three/kernel",), ("two/kernel",)]
    assert plain is not None


def layer_of(class_name, kernel, **config):
    tensor = Tensor(
        name="l/kernel",
        role="kernel",
        kind="kernel",
        shape=kernel.shape,
        dtype=kernel.dtype,
        source=Source(kernel.copy),
        out_axis=kernel.ndim - 1,
    )
    return Layer(("l",), class_name, config, (tensor,)), tensor


@pytest.mark.parametrize(
    ("rank", "config"),
    [
        (2, {}),
        (2, {"strides": [2, 1]}),
        (2, {"padding": "same"}),
        (2, {"padding": "same", "strides": [2, 2]}),
        (2, {"padding": "same", "dilation_rate": [2, 1]}),
        (2, {"data_format": "channels_first"}),
        (1, {"padding": "causal", "dilation_rate": [2]}),
        (1, {"padding": "same", "strides": [3]}),
    ],
)
def test_the_matrix_of_a_convolution_gives_its_output(rank, config):
    import keras

    rng = np.random.default_rng(0)
    size = (3, 2)[:rank]
    shape = (7, 8)[:rank]
    x = rng.normal(size=(4, *shape, 3)).astype("float32")
    kernel = rng.normal(size=(*size, 3, 5)).astype("float32")
    cls = keras.layers.Conv2D if rank == 2 else keras.layers.Conv1D
    conv = cls(5, size, use_bias=False, **{k: v for k, v in config.items() if k != "data_format"})
    conv.build(x.shape)
    conv.set_weights([kernel])
    expected = np.asarray(conv(x))
    if config.get("data_format"):
        x = np.moveaxis(x, -1, 1)
    layer, tensor = layer_of(f"Conv{rank}D", kernel, **config)
    assert refusal(layer, tensor) == ""
    found = np.concatenate(list(matrices(layer, tensor, x))) @ kernel.reshape(-1, 5)
    np.testing.assert_allclose(found, expected.reshape(-1, 5), rtol=1e-4, atol=1e-4)


def test_kernels_without_a_matrix_say_so():
    kernel = np.zeros((3, 3, 2, 4), "float32")
    assert "not the kernel" in refusal(*layer_of("DepthwiseConv2D", kernel))
    assert "groups" in refusal(*layer_of("Conv2D", kernel, groups=2))
    assert "not the kernel" in refusal(*layer_of("Conv2D", kernel[0]))
