"""The parts of a report, built of a model whose numbers are counted by NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import toy_model

from modelcut import steps
from modelcut.job.fold import fold
from modelcut.model.measure import Meter
from modelcut.recipe.recipe import Recipe
from modelcut.report import build


def passage_of(model, *done, **more):
    folded = fold(model, Recipe(done), lambda _: None)
    meters = {}
    for each in folded.models[-1].tensors:
        meters[build.identity(each)] = meter = Meter(deflate=True)
        each.pull(meter)
    return build.Passage(folded.models, done, folded.outcomes, folded.seconds, meters, **more)


@pytest.fixture
def pruned(toy):
    step = steps.find("prune", "magnitude")(sparsity=0.75, scope="layer", exclude=["two"])
    return passage_of(toy, step, stored={"one/kernel": 100, "one/bias": 60})


def kernel(model, name):
    return next(t.pull()[0] for t in model.tensors if t.name == name)


def test_the_ledger_counts_what_is_zero_after_each_step(toy, pruned):
    first, last = build.ledger(pruned)
    total = 20 * 16 + 16 + 16 * 12 + 12 + 12 * 3
    assert (first.stage, last.stage) == ("original", "1 prune: magnitude")
    for stage, model in ((first, toy), (last, pruned.models[-1])):
        nonzeros = sum(np.count_nonzero(t.pull()[0]) for t in model.tensors)
        assert stage.totals.parameters == total
        assert stage.totals.bytes == 4 * total
        assert stage.totals.nonzeros == nonzeros
        assert stage.totals.sparsity == pytest.approx(1 - nonzeros / total)
    assert last.totals.nonzeros < first.totals.nonzeros
    assert first.totals.bits_per_weight == 32


def test_a_tensor_that_was_changed_says_by_how_much(toy, pruned):
    rows = {tensor.name: tensor for layer in build.layers(pruned) for tensor in layer.tensors}
    old, new = kernel(toy, "one/kernel"), kernel(pruned.models[-1], "one/kernel")
    (change,) = rows["one/kernel"].changes
    assert change.nonzeros == 80 == np.count_nonzero(new)
    assert change.error == pytest.approx(np.linalg.norm(old - new) / np.linalg.norm(old), rel=1e-5)
    assert change.sqnr_db == pytest.approx(-20 * np.log10(change.error), rel=1e-5)
    assert change.peak_error == pytest.approx(np.abs(old - new).max())
    assert rows["one/kernel"].encoding == "dense"  # no writer told another
    assert rows["one/kernel"].stored_bytes == 100
    assert rows["two/kernel"].changes == ()
    (reason,) = rows["two/kernel"].left_alone
    assert (reason.step, reason.reason) == (1, "excluded by 'two'")


def test_steps_say_what_they_changed_and_left_alone(pruned):
    (row,) = build.step_rows(pruned)
    assert (row.step, row.title, row.tensors_changed) == (1, "prune: magnitude", 2)
    assert row.parameters == {"sparsity": 0.75, "scope": "layer", "exclude": ["two"]}
    assert row.left_alone["two/kernel"] == "excluded by 'two'"
    assert "bias" in row.left_alone["one/bias"]


def test_the_ratios_are_of_what_the_file_spends(pruned):
    found = build.sizes(pruned, build.ledger(pruned), (4000, 1000))
    parameters = found.before.totals.parameters
    assert found.file_ratio == 4
    assert found.ratio == pytest.approx(4 * parameters / 1000)
    assert found.after.stored_bytes == 160
    assert found.after.totals.bits_per_weight == pytest.approx(8 * 160 / parameters)
    dry = build.sizes(pruned, build.ledger(pruned), (4000, None))
    assert (dry.ratio, dry.file_ratio, dry.after.stored_bytes) == (None, None, None)


def test_a_layer_that_was_replaced_is_told_from_those_that_replace_it():
    rng = np.random.default_rng(0)
    model = toy_model({"one": (rng.normal(size=(20, 16)).astype("float32"), None)})
    folded = fold(model, Recipe((steps.find("factorize", "svd")(rank=2),)), lambda _: None)
    meters = {}
    for each in (tensor for one in folded.models for tensor in one.tensors):
        meters[build.identity(each)] = meter = Meter(deflate=True)
        each.pull(meter)
    passage = build.Passage(
        folded.models, (steps.find("factorize", "svd")(rank=2),), folded.outcomes,
        folded.seconds, meters,
    )  # fmt: skip
    rows = build.layers(passage)
    assert [(row.name, row.replaced) for row in rows] == [
        ("one_factor", False), ("one", False), ("one", True),
    ]  # fmt: skip
    assert rows[0].tensors[0].new
    assert rows[2].tensors[0].after is None
    first, last = build.ledger(passage)
    assert (first.totals.parameters, last.totals.parameters) == (320, 2 * 20 + 2 * 16)


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "1 of 6 values are NaN or infinite"), (1e32, "sums of them overflow float32")],
)
def test_values_that_overflow_are_warned_of(value, words):
    values = np.ones((2, 3), "float32")
    values[0, 0] = value
    found = list(build.value_warnings(passage_of(toy_model({"a": (values, None)}))))
    assert len(found) == 1
    assert found[0].startswith("a/kernel: ")
    assert words in found[0]


def test_a_tensor_of_which_nothing_is_left_is_warned_of(toy):
    step = steps.find("prune", "magnitude")(sparsity=1.0, scope="layer", include=["one"])
    found = list(build.value_warnings(passage_of(toy, step)))
    assert len(found) == 1
    assert found[0].startswith("one/kernel: ")


def test_a_layer_without_a_bias_works(toy):
    step = steps.find("prune", "magnitude")(sparsity=1.0, scope="layer", include=["role:bias"])
    passage = passage_of(toy, step)
    bias = next(tensor for tensor in passage.models[-1].tensors if tensor.name == "one/bias")
    assert passage.summary(bias, 0).nonzeros
    assert not passage.summary(bias, len(passage.models)).nonzeros
    assert list(build.value_warnings(passage)) == []


def test_weights_are_compared_with_weights_compressed_alike(pruned):
    sizes = build.sizes(pruned, build.ledger(pruned), (4000, 1000))
    before = sizes.before.totals
    deflated = build.with_weights(sizes, "deflate", {}).weights
    assert (deflated.before, deflated.after) == (before.deflated_bytes, 160)
    assert deflated.ratio == before.deflated_bytes / 160
    plain = build.with_weights(sizes, "none", {}).weights
    assert (plain.before, plain.after) == (before.bytes, 160)
    made = build.with_weights(sizes, "none", {"litert": {"constants": {"int8": 90, "int32": 10}}})
    assert made.weights.after == 100
    whole = replace(sizes, after=replace(sizes.after, stored_bytes=sizes.after.totals.bytes))
    tiny = build.with_weights(whole, "deflate", {}).weights
    assert (tiny.before, tiny.coding) == (before.bytes, "none")
    dry = build.sizes(pruned, build.ledger(pruned), (4000, None))
    assert build.with_weights(dry, "deflate", {}).weights is None


def test_the_reference_is_before_in_every_row(toy, pruned):
    reference = build.sizes(passage_of(toy), build.ledger(passage_of(toy)), (4000, None))
    own = build.sizes(pruned, build.ledger(pruned)[-1:], (1000, None))
    found = build.beside(reference, own)
    assert found.before is reference.before
    assert found.after is own.before
    assert found.file_ratio == 4
    one, two = found.before.totals.deflated_bytes, found.after.totals.deflated_bytes
    assert found.weights.ratio == one / two > 1


def test_the_spread_of_what_changed_most(toy, pruned):
    (row,) = build.histograms(pruned)
    assert row.tensor == "one/kernel"
    old, new = kernel(toy, "one/kernel"), kernel(pruned.models[-1], "one/kernel")
    assert row.sampled == 320 == sum(row.before)
    assert sum(row.after) == np.count_nonzero(new)  # zeros are in no bin
    known, _ = np.histogram(np.clip(old, row.low, row.high), len(row.before), (row.low, row.high))
    assert np.abs(known - row.before).sum() <= 2  # an edge may round to either side
    assert build.histograms(passage_of(toy)) == []


def test_the_spread_of_odd_values():
    odd = np.array([np.nan, np.inf, 0, 2] * 50, "float32").reshape(20, 10)
    for values in (odd, np.zeros((20, 10), "float32"), np.full((20, 10), 3, "float32")):
        model = toy_model({"a": (values, None)})
        meter = Meter()
        next(iter(model.tensors)).pull(meter)
        found = meter.histogram
        assert found.low < found.high
        assert found.before.sum() == np.count_nonzero(np.isfinite(values) & (values != 0))
