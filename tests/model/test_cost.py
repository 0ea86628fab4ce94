"""Multiply-accumulates of the layers of a submodel that `TimeDistributed` repeats."""

from __future__ import annotations

import numpy as np
import pytest
from toys import legacy

from modelcut import steps
from modelcut.formats import registry
from modelcut.model import cost
from modelcut.steps.base import Context


def films(tmp_path, frames=5, inner_name="Conv2D"):
    """Five pictures of 8 × 8, two convolutions for each, and a dense layer over all."""
    rng = np.random.default_rng(0)

    def conv(name, filters, **more):
        config = {"name": name, "filters": filters, "kernel_size": [3, 3], "use_bias": False}
        return {"class_name": inner_name, "config": {**config, **more}}

    inner = [conv("c1", 16, strides=[1, 1]), conv("c2", 6, strides=[2, 2]),
             {"class_name": "GlobalAveragePooling2D", "config": {"name": "mean"}}]  # fmt: skip
    model = {"class_name": "Sequential", "config": {"name": "cnn", "layers": inner}}
    layers = [
        {"class_name": "TimeDistributed", "config": {
            "name": "t", "layer": model, "batch_input_shape": [None, frames, 8, 8, 3]}},
        {"class_name": "Flatten", "config": {"name": "flat"}},
        {"class_name": "Dense", "config": {"name": "d", "units": 2, "use_bias": False}},
    ]  # fmt: skip
    shapes = {"t": {"t/c1/kernel:0": (3, 3, 3, 16), "t/c2/kernel:0": (3, 3, 16, 6)},
              "d": {"d/kernel:0": (6 * (frames or 5), 2)}}  # fmt: skip
    arrays = {
        layer: {name: rng.normal(size=shape).astype("float32") for name, shape in own.items()}
        for layer, own in shapes.items()
    }
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}
    legacy(tmp_path / "m.h5", arrays, config)
    return registry.open_model(tmp_path / "m.h5")


def test_each_layer_of_the_submodel_counts_at_its_own_places(tmp_path):
    model = films(tmp_path)
    c1, c2 = 36 * 27 * 16, 4 * 144 * 6
    assert cost.parts(model) == {"t": {"c1/": 5 * c1, "c2/": 5 * c2}, "d": {"": 60}}
    assert cost.macs(model) == {"t": 5 * (c1 + c2), "d": 60}


def test_what_is_not_known_is_not_counted(tmp_path):
    assert cost.macs(films(tmp_path, frames=None))["t"] is None


@pytest.mark.parametrize("target", [{"macs": 0.5}, {"params": 0.5}])
def test_channels_of_the_submodel_are_removed_up_to_a_target(target, tmp_path):
    model = films(tmp_path)
    result = steps.find("prune", "channels")(**target).apply(model, Context()).model
    (kind,) = target
    work = [
        sum(cost.macs(each).values())
        if kind == "macs"
        else sum(tensor.size for tensor in each.tensors)
        for each in (model, result)
    ]
    assert 0.4 < work[1] / work[0] <= 0.5
