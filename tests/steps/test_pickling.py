"""A step knows its name and its settings in a process that has imported nothing before."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from modelcut import steps


@pytest.mark.parametrize(
    ("family", "method", "fields"),
    [
        ("prune", "magnitude", {"exclude": ["dense"], "sparsity": 0.7}),
        ("quantize", "linear", {"bits": 3}),
        ("factorize", "svd", {"rank": 4}),
    ],
)
def test_a_step_survives_pickling_and_a_fresh_process(family, method, fields):
    step = steps.find(family, method)(**fields)
    code = (
        "import pickle, sys; step = pickle.load(sys.stdin.buffer); "
        "print(step.family, step.method, step.title, "
        "step.model_dump(mode='json', exclude_unset=True), sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(step), capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == f"{family}|{method}|{family}: {method}|{fields}"
    assert pickle.loads(pickle.dumps(step)) == step
