"""Every method on tensors of every float type that are out of the ordinary."""

from __future__ import annotations

import warnings
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from test_contract import CASES
from toys import toy_model

from modelcut import steps
from modelcut.errors import RecipeError
from modelcut.model.measure import Meter
from modelcut.model.model import Source
from modelcut.steps.base import Context

DTYPES = ["float16", "float32", "float64", ml_dtypes.bfloat16]
VALUES = {
    "scalar": np.array(1.5),
    "vector": np.arange(5.0) - 2,
    "no rows": np.zeros((0, 4)),
    "no columns": np.zeros((4, 0)),
    "one": np.ones((1, 1)),
    "constant": np.full((6, 4), 0.3),
    "minus zero": -np.zeros((6, 4)),
    "tiny": np.full((3, 3), -1e-40),
    "near the end": np.linspace(-6.5e4, 6.5e4, 64).reshape(8, 8),
    "NaN": np.array([[np.nan, 1], [2, 3]]),
    "infinite": np.array([[np.inf, 1], [-np.inf, 3]]),
}
TENSORS = [
    (family, method, settings)
    for family, method, settings in CASES
    if family != "factorize"
    and not {"train", "calibration"} & steps.find(family, method)(**settings).needs
]
"""Those that a tensor alone is enough for."""


def model_of(values):
    model = toy_model({"a": (np.ones((2, 2), "float32"), None)})
    rank = values.ndim
    tensor = replace(
        next(model.tensors),
        shape=values.shape,
        dtype=values.dtype,
        source=Source(values.copy),
        out_axis=rank - 1 if rank else None,
        in_axis=rank - 2 if rank > 1 else None,
    )
    return model.with_tensors({"a/kernel": tensor})


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize(("family", "method", "settings"), TENSORS)
def test_they_survive_or_are_left_alone(family, method, settings, dtype):
    for name, wide in VALUES.items():
        values = wide.astype(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                outcome = steps.find(family, method)(**settings).apply(model_of(values), Context())
            except RecipeError as error:
                if "none of the selected tensors has an axis" not in error.message:
                    raise
                continue
            tensor = next(outcome.model.tensors)
            meter = Meter()
            got, encoding = tensor.pull(meter)
        assert got.shape == values.shape, name
        if meter.left_alone or not tensor.edits:
            assert got.tobytes() == values.tobytes(), name
            assert meter.left_alone or outcome.skipped["a/kernel"], name
            continue
        assert encoding.kinds == tensor.kinds, name
        again = encoding.project(got)
        np.testing.assert_array_equal(again.astype("f8"), got.astype("f8"), err_msg=name)
        assert not np.any(np.signbit(got) & (got == 0)), name
        if name not in ("NaN", "infinite"):
            assert np.isfinite(got.astype("f8")).all(), name
            assert np.isfinite(meter.changes[-1][1].peak_error), name
        if encoding.symbols is not None:
            codes = encoding.codes(got)
            assert encoding.decode(codes, got.dtype).tobytes() == got.tobytes(), name


def test_a_single_number_can_be_measured():
    meter = Meter(deflate=True)
    next(model_of(np.array(2.0, "float32")).tensors).pull(meter)
    assert (meter.before.size, meter.before.nonzeros, meter.before.peak) == (1, 1, 2.0)
