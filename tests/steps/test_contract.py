"""What every method of every family must keep; a new file in `steps/` is tested here at once."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import yaml
from toy_runtime import toy_runtime
from toys import toy_model, toy_network

from modelcut import steps
from modelcut.errors import RecipeError
from modelcut.recipe.recipe import Recipe, parse, step_to_dict
from modelcut.recipe.yaml_text import loads
from modelcut.steps.base import Context
from modelcut.steps.strength import Budgeted

SETTINGS = {
    "prune: magnitude": [
        {"sparsity": 0.6},
        {"sparsity": 0.6, "scope": "layer"},
        {"threshold": 0.3},
        {"cutoff": 0.8},
        {"cutoff": 0.4, "until": "stable"},
        {
            "cutoff": 0.3,
            "until": "stable",
            "finetune": {"epochs": 1, "validation": 0.2},
            "budget": {"max_accuracy_drop": 0.5},
            "rounds": 2,
        },
        {"pattern": "2:4"},
        {"sparsity": 0.5, "block": [2, 3]},
        {"sparsity": 0.5, "block": [2, 3], "scope": "layer"},
        {"sparsity": 0.6, "correct": "both", "rows": 40},
        {"cutoff": 0.3, "until": "stable", "finetune": {"epochs": 1}, "correct": "bias"},
    ],
    "prune: l1": [
        {"sparsity": 0.4},
        {"cutoff": 0.9, "until": "stable", "finetune": {"epochs": 1}, "rounds": 2},
        {"threshold": 0.9, "of": "inputs", "standardize": True},
    ],
    "prune: l2": [
        {"sparsity": 0.4},
        {"sparsity": 0.4, "scope": "layer", "relative": False},
        {"threshold": 0.9},
        {"cutoff": 0.9},
        {"cutoff": 0.9, "until": "stable"},
    ],
    "prune: random": [{"sparsity": 0.5}],
    "prune: dead": [{}],
    "prune: channels": [
        {"ratio": 0.5},
        {"ratio": 0.5, "scope": "layer", "criterion": "fpgm", "round_to": 4},
        {"ratio": 0.4, "criterion": "l1", "minimum": 3},
        {"ratio": 0.3, "criterion": "random"},
        {"ratio": 0.4, "criterion": "taylor", "batch_size": 7, "rows": 30},
        {"ratio": 0.4, "criterion": "activation", "rows": 30},
        {"ratio": 0.4, "criterion": "obs", "rows": 50, "damp": 0.1},
        {"params": 0.6, "criterion": "obs", "rounds": 2},
        {
            "ratio": 0.5,
            "rounds": 2,
            "finetune": {"epochs": 1, "validation": 0.2},
            "budget": {"max_accuracy_drop": 0.9},
        },
        {"params": 0.7, "regularize": {"group_lasso": 0.01, "epochs": 1}},
    ],
    "prune: gradient": [
        {"sparsity": 0.6},
        {"sparsity": 0.6, "scope": "layer"},
        {"cutoff": 0.3, "until": "stable"},
    ],
    "prune: taylor": [
        {"sparsity": 0.6, "batch_size": 7, "rows": 30},
        {
            "cutoff": 0.3,
            "until": "stable",
            "finetune": {"epochs": 1, "validation": 0.2},
            "budget": {"max_accuracy_drop": 0.5},
            "rounds": 2,
        },
    ],
    "prune: snip": [{"sparsity": 0.6}, {"cutoff": 0.3}],
    "prune: fisher": [{"sparsity": 0.6, "rows": 20}, {"cutoff": 0.1, "until": "stable"}],
    "prune: wanda": [{"sparsity": 0.6}, {"sparsity": 0.6, "scope": "global"}, {"cutoff": 0.3}],
    "prune: obs": [
        {"sparsity": 0.6},
        {"sparsity": 0.3, "damp": 0.1},
        {"sparsity": 0.8, "correct": "batchnorm"},
    ],
    "quantize: linear": [
        {},
        {"bits": 3, "per": "tensor"},
        {"bits": 4, "symmetric": False},
        {"bits": 4, "range": "mse"},
        {"bits": 5, "range": "percentile", "percentile": 99},
        {"bits": 4, "group": 8},
        {"bits": 3, "group": 5, "symmetric": False, "range": "mse"},
        {"average_bits": 4.5},
        {"scales": "exact"},
        {"scales": "exact", "bits": 3, "symmetric": False, "range": "mse"},
        {"bits": 3, "rounding": "gptq"},
        {"bits": 2, "rounding": "gptq", "range": "output", "correct": "both"},
        {"bits": 3, "range": "output", "symmetric": False, "per": "tensor"},
        {"bits": 4, "group": 8, "rounding": "gptq", "damp": 0.1, "rows": 20},
    ],
    "quantize: binary": [
        {},
        {"per": "tensor"},
        {"bases": 3},
        {"bases": 2, "per": "tensor"},
        {"bases": 2, "rounding": "gptq", "correct": "both"},
    ],
    "quantize: cluster": [
        {},
        {"bits": 2, "start": "density"},
        {"values": 5, "start": "kmeans++"},
        {"bits": 3, "entropy_weight": 0.1},
        {"bits": 2, "rounding": "gptq"},
    ],
    "quantize: ternary": [{}, {"per": "tensor"}, {"rounding": "gptq", "correct": "bias"}],
    "quantize: float16": [{}],
    "quantize: bfloat16": [{}],
    "quantize: keras_int": [{}, {"bits": 4}, {"bits": 4, "block": "none"}, {"bits": "float"}],
    "correct: statistics": [{}, {"how": "bias", "rows": 20}],
    "equalize: cross_layer": [{}, {"by": "outputs", "balance": 1.0}],
    "factorize: svd": [
        {"rank": 2},
        {"energy": 0.6},
        {"ratio": 0.5},
        {"rank": "vbmf"},
        {"ratio": 0.5, "whiten": True, "rows": 50},
    ],
    "factorize: channel": [{"rank": 2}, {"energy": 0.6}, {"ratio": 0.5, "whiten": True}],
    "factorize: spatial": [{"rank": 2}, {}, {"rank": "vbmf"}, {"ratio": 0.5, "whiten": True}],
    "factorize: tucker2": [{"rank": 1}, {"ratio": 0.6}, {"ratio": 0.6, "whiten": True}],
    "factorize: cp": [{"rank": 2}, {"ratio": 0.5}, {"ratio": 0.5, "whiten": True}],
    "factorize: auto": [
        {"energy": 0.6},
        {"params": 0.6, "whiten": True},
        {"rank": "vbmf"},
    ],
    "fold: batchnorm": [{}],
    "simplify: identity": [{}],
    "finetune: straight_through": [
        {"steps": 6, "batch_size": 8},
        {"epochs": 2, "batch_size": 16, "prune": {"sparsity": 0.7}, "validation": 0.2},
        {"steps": 6, "prune": {"sparsity": 0.7, "criterion": "movement"}, "hold": 0.5},
        {"steps": 6, "prune": {"sparsity": 0.7}, "mask": "dynamic", "entropy_weight": 0.1},
        {"steps": 4, "distill": {}, "regularize": {"l1": 0.1}, "class_weights": "balanced"},
    ],
}
ALL = [(family, method) for family in steps.families() for method in steps.methods(family)]
CASES = [
    (family, method, settings)
    for family, method in ALL
    for settings in SETTINGS[f"{family}: {method}"]
]


NEUTRAL = {
    "prune: magnitude": [{"sparsity": 0}, {"sparsity": 0, "scope": "layer"}, {"threshold": 0},
                         {"sparsity": 0, "block": [2, 2]}],
    "prune: l1": [{"sparsity": 0}, {"sparsity": 0, "of": "inputs"}],
    "prune: l2": [{"sparsity": 0}, {"threshold": 0}],
    "prune: random": [{"sparsity": 0}],
    "prune: channels": [{"ratio": 0}, {"ratio": 0.5, "minimum": 100}],
    "prune: dead": [{}],  # nothing of these networks is dead
    "prune: gradient": [{"sparsity": 0}],
    "prune: taylor": [{"sparsity": 0}],
    "prune: snip": [{"sparsity": 0}],
    "prune: fisher": [{"sparsity": 0}],
    "prune: wanda": [{"sparsity": 0}],
    "prune: obs": [{"sparsity": 0}],
    "quantize: linear": [{"scales": "exact"}, {"bits": 2, "scales": "exact"},
                         {"scales": "exact", "rounding": "gptq", "correct": "both"}],
    "quantize: binary": [{}, {"per": "tensor"}, {"bases": 2}],
    "quantize: cluster": [{}, {"bits": 1}, {"bits": 1, "rounding": "gptq"}],
    "quantize: ternary": [{}, {"per": "tensor"}, {"rounding": "gptq"}],
    "quantize: float16": [{}],
    "quantize: bfloat16": [{}],
    "quantize: keras_int": [{"bits": "float"}],
    "factorize: svd": [{"energy": 1.0}, {"rank": 1000}],
    "correct: statistics": [{}],
    "equalize: cross_layer": [{}, {"balance": 0}],
    "factorize: channel": [{"energy": 1.0}, {"rank": 1000}],
    "factorize: spatial": [{"energy": 1.0}, {"rank": 1000}],
    "factorize: tucker2": [{"energy": 1.0}],
    "factorize: cp": [{"rank": 1000}],
    "factorize: auto": [{"energy": 1.0}],
    "fold: batchnorm": [{}],  # a normalization between an activation and a submodel
    "simplify: identity": [{}],
    "finetune: straight_through": [{"steps": 2, "learning_rate": 1e-30}],
}  # fmt: skip
"""Settings that change no weight, where all kernels hold ±0.5, which every encoding permits."""
NEUTRAL_CASES = [
    (family, method, settings)
    for family, method in ALL
    for settings in NEUTRAL[f"{family}: {method}"]
]


def halves(shape):
    return np.random.default_rng(shape[0]).choice(np.array([-0.5, 0.5], "float32"), shape)


@pytest.fixture(params=["dense", "convolution"])
def network(request):
    """Dense layers; or a convolution, a batch normalization and a submodel."""
    return request.getfixturevalue("toy") if request.param == "dense" else toy_network()


def context(model, index=0):
    """With a runtime for the steps that need one."""
    return Context(index=index, runtime=toy_runtime(model))


def arrays(model):
    return {tensor.name: tensor.pull() for tensor in model.tensors}


@pytest.mark.parametrize(("family", "method"), ALL)
def test_every_method_is_described(family, method):
    cls = steps.find(family, method)
    assert (cls.family, cls.method) == (family, method)
    assert cls.__doc__
    for name, field in cls.model_fields.items():
        assert field.description, f"{method}.{name} has no description"


@pytest.mark.parametrize(("family", "method"), ALL)
def test_every_method_can_be_searched_or_says_why_not(family, method):
    cls = steps.find(family, method)
    if issubclass(cls, Budgeted):
        assert set(cls.strength.ladder) <= {step.ladder[0] for step in tried(cls)}
        return
    with pytest.raises(RecipeError, match=re.escape(cls.absent["budget"])):
        parse(loads(f"steps: [{{{family}: {method}, budget: {{max_accuracy_drop: 0.1}}}}]", "r"))
    for name in re.findall(r"\w+", cls.absent["budget"].partition(f"{family}:")[2]):
        if name in steps.methods(family):
            assert issubclass(steps.find(family, name), Budgeted)


NEEDS = {
    **{name: {"train"} for name in ("taylor", "snip", "fisher", "gradient", "wanda", "obs")},
    "channels": {"graph"},
    "dead": {"graph"},
    "batchnorm": {"graph"},
    "identity": {"graph"},
    "statistics": {"calibration"},
    "cross_layer": {"graph"},
    **{name: {"graph"} for name in ("svd", "channel", "spatial", "tucker2", "cp", "auto")},
    "straight_through": {"train", "loop"},
}
BUDGET = {"max_accuracy_drop": 0.1}


@pytest.mark.parametrize(("family", "method", "settings"), CASES)
def test_what_a_step_needs_follows_from_its_settings(family, method, settings):
    step = steps.find(family, method)(**settings)
    expected = set(NEEDS.get(method, ()))
    expected |= {"validation"} if "budget" in settings else set()
    expected |= {"train", "loop"} if {"finetune", "regularize"} & set(settings) else set()
    expected |= {"train"} if {"criterion", "rows"} <= set(settings) else set()
    expected |= {"train"} if settings.get("criterion") == "obs" else set()
    looks = {"rounding": "gptq", "range": "output", "by": "outputs"}.items() & settings.items()
    expected |= {"train"} if "whiten" in settings else set()
    expected |= {"graph"} if settings.get("bits") == "float" else set()
    expected |= {"calibration"} if looks or "correct" in settings else set()
    assert step.needs == expected
    if isinstance(step, Budgeted) and not {"until", "criterion", "regularize", "finetune"} & set(
        settings
    ):
        more = {"whiten": True} if "whiten" in settings else {}
        found = type(step)(budget=BUDGET, **more).needs
        assert found == expected - {"calibration"} | {"validation"}


def tried(cls):
    """The method at each setting of its ladder, which must be settings that it takes."""
    for setting in cls.strength.ladder:
        yield cls(budget={"max_accuracy_drop": 1, "candidates": [setting]})


@pytest.mark.parametrize(("family", "method", "settings"), CASES)
def test_the_input_is_untouched_and_the_result_is_the_same_twice(family, method, settings, network):
    before = {name: values.copy() for name, (values, _) in arrays(network).items()}
    step = steps.find(family, method)(**settings)
    first = arrays(step.apply(network, context(network)).model)
    again = arrays(step.apply(network, context(network)).model)
    assert first.keys() == again.keys()
    for name in first:
        assert first[name][0].tobytes() == again[name][0].tobytes()
    for name, (values, _) in arrays(network).items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize(("family", "method", "settings"), CASES)
def test_the_output_satisfies_its_encoding(family, method, settings, network):
    outcome = steps.find(family, method)(**settings).apply(network, context(network))
    json.dumps(outcome.facts)
    for tensor in outcome.model.tensors:
        values, encoding = tensor.pull()
        assert encoding.kinds == tensor.kinds
        np.testing.assert_array_equal(encoding.project(values), values)
        assert not np.any(np.signbit(values) & (values == 0)), "removed weights are +0.0"
        if encoding.symbols is not None:
            codes = encoding.codes(values)
            assert encoding.decode(codes, values.dtype).tobytes() == values.tobytes()


@pytest.mark.parametrize(("family", "method", "settings"), CASES)
def test_each_kernel_is_changed_or_skipped_with_a_reason(family, method, settings, network):
    outcome = steps.find(family, method)(**settings).apply(network, context(network))
    after = {tensor.name: tensor for tensor in outcome.model.tensors}
    for tensor in network.tensors:
        if tensor.name not in after:  # its layer was taken out
            continue
        changed = after[tensor.name].edits or after[tensor.name].key != tensor.key
        assert changed or outcome.skipped.get(tensor.name), tensor.name
        # Whitening corrects biases too.
        others = {"finetune", "correct", "whiten"} & settings.keys() or family == "equalize"
        if tensor.kind not in steps.find(family, method).aims and not others:
            assert not changed


@pytest.mark.parametrize(("family", "method", "settings"), NEUTRAL_CASES)
def test_the_neutral_setting_changes_nothing(family, method, settings):
    model = toy_network(halves)
    outcome = steps.find(family, method)(**settings).apply(model, context(model))
    after = arrays(outcome.model)
    assert after.keys() == {tensor.name for tensor in model.tensors}
    for name, (values, _) in arrays(model).items():
        if "rounding" in settings:  # scales and biases are fitted to outputs in float32
            np.testing.assert_allclose(after[name][0], values, rtol=1e-3, err_msg=name)
        else:
            np.testing.assert_array_equal(after[name][0], values, err_msg=name)


@pytest.mark.parametrize(("family", "method", "settings"), CASES)
def test_a_recipe_says_the_same_step_again(family, method, settings):
    step = steps.find(family, method)(**settings)
    text = yaml.safe_dump({"steps": [step_to_dict(step)]})
    assert parse(loads(text, "r")).steps == (step,)


@pytest.mark.parametrize(("family", "method"), ALL)
def test_a_pattern_that_matches_nothing_is_an_error(family, method, toy):
    settings = SETTINGS[f"{family}: {method}"][0]
    step = steps.find(family, method)(**settings, include=["thre"])
    with pytest.raises(RecipeError, match="'thre' matches no layer") as caught:
        step.apply(toy, context(toy))
    assert "did you mean 'three'?" in caught.value.hint


@pytest.mark.parametrize("second", ALL)
@pytest.mark.parametrize("first", ALL)
def test_any_two_steps_compose_or_are_refused_before_any_work(first, second, network):
    made = [steps.find(*name)(**SETTINGS[f"{name[0]}: {name[1]}"][0]) for name in (first, second)]
    refused = set(made[0].leaves) & set(made[1].refuses)
    if refused:
        with pytest.raises(RecipeError, match="cannot follow"):
            Recipe(tuple(made)).check()
        with pytest.raises(RecipeError, match="cannot follow"):
            made[1].apply(made[0].apply(network, context(network)).model, context(network, 1))
        return
    Recipe(tuple(made)).check()
    model = network
    for index, step in enumerate(made):
        model = step.apply(model, context(network, index)).model
    for tensor in model.tensors:
        values, encoding = tensor.pull()
        np.testing.assert_array_equal(encoding.project(values), values)
        assert encoding.kinds == tensor.kinds


def test_include_exclude_and_overrides(toy):
    magnitude = steps.find("prune", "magnitude")
    step = magnitude(
        sparsity=0.5,
        scope="layer",
        exclude=["t*o"],
        overrides={"three": {"sparsity": 0.25}},
    )
    outcome = step.apply(toy, context(toy))
    zeros = {name: np.mean(values == 0) for name, (values, _) in arrays(outcome.model).items()}
    assert zeros["one/kernel"] == 0.5
    assert zeros["two/kernel"] == 0
    assert zeros["three/kernel"] == 0.25
    assert outcome.skipped["two/kernel"] == "excluded by 't*o'"
    roles = magnitude(sparsity=1.0, include=["role:bias", "one"]).apply(toy, Context())
    assert np.all(arrays(roles.model)["one/bias"][0] == 0)
    assert np.all(arrays(roles.model)["two/bias"][0] == 1)


def test_an_override_of_an_unknown_field_is_an_error():
    with pytest.raises(ValueError, match=r"'sparsty' cannot be set.*did you mean 'sparsity'"):
        steps.find("prune", "magnitude")(sparsity=0.5, overrides={"one": {"sparsty": 0.1}})
    with pytest.raises(ValueError, match="'scope' cannot be set for one layer"):
        steps.find("prune", "magnitude")(sparsity=0.5, overrides={"one": {"scope": "layer"}})


def test_unknown_methods_are_suggested():
    with pytest.raises(RecipeError) as caught:
        steps.find("prune", "magnitud")
    assert "did you mean 'magnitude'?" in caught.value.hint


def test_one_skipped_layer_does_not_end_the_run():
    model = toy_model(
        {
            "whole": (np.arange(12).reshape(4, 3), None),
            "real": (np.ones((4, 3), "float32"), None),
        }
    )
    outcome = steps.find("prune", "magnitude")(sparsity=1.0).apply(model, Context())
    assert "not floats" in outcome.skipped["whole/kernel"]
    assert np.all(arrays(outcome.model)["real/kernel"][0] == 0)
