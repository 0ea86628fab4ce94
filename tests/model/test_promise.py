"""What a step promised about the encoding of a tensor is compared with what its edit made."""

from __future__ import annotations

import numpy as np
import pytest

from modelcut.errors import ExitCode, InternalError
from modelcut.model.encoding import Dense, Sparse
from modelcut.model.rewrite import Rewrite, leave
from modelcut.steps import find
from modelcut.steps.base import Context
from modelcut.steps.prune.magnitude import Magnitude


def sparse(values, encoding):
    return Rewrite(Sparse(encoding.unmasked))


def kernel(toy):
    return next(tensor for tensor in toy.tensors if tensor.name == "one/kernel")


def test_a_broken_promise_is_an_internal_error_that_names_step_and_tensor(toy):
    good = kernel(toy).then(0, sparse, ("sparse", "dense"))
    assert good.pull()[1].kinds == ("sparse", "dense")
    with pytest.raises(InternalError) as caught:
        good.then(1, sparse, ("binary",)).pull()
    assert caught.value.message == (
        "step 2, one/kernel: the encoding is of the kinds (sparse, dense), and the step promised "
        "(binary)"
    )
    assert "report it" in caught.value.hint
    assert caught.value.exit_code is ExitCode.MISTAKE


def test_a_promise_on_top_of_an_edit_that_left_the_tensor_alone_is_not_held_against_it(toy):
    def nothing(values, encoding):
        return leave(encoding, "has NaN")

    def half(values, encoding):
        return Rewrite(Dense("float16"))

    skipped = kernel(toy).then(0, nothing, ("sparse", "dense"))
    assert skipped.pull()[1].kinds == ("dense",)
    then = skipped.then(1, half, ("sparse", "float16"))
    assert then.pull()[1].kinds == ("float16",)


def test_a_method_that_promises_too_little_is_found(toy, monkeypatch):
    monkeypatch.setattr(Magnitude, "kinds_after", lambda self, tensor: ("dense",))
    model = find("prune", "magnitude")(sparsity=0.5).apply(toy, Context()).model
    with pytest.raises(InternalError, match="step 1, one/kernel"):
        kernel(model).pull()
    np.testing.assert_array_equal(kernel(toy).pull()[0], kernel(toy).source.read())
