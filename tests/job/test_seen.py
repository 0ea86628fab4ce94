"""A search that chose on samples which the original was trained with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from modelcut.job.seen import warnings_of
from modelcut.metrics.intervals import higher


def search(accuracy, samples):
    return {"validation": {"samples": samples, "original_accuracy": accuracy}}


def on_test(accuracy, rows):
    return SimpleNamespace(before={"rows": rows, "metrics": {"accuracy": accuracy}})


@pytest.mark.parametrize(
    ("found", "evaluation", "told"),
    [
        (search(1.0, 250), on_test(530 / 540, 540), "250 validation samples and on 98.15% of"),
        (search(0.97, 12_000), on_test(0.915, 10_000), "right on 97.00% of the 12000"),
        (search(1.0, 250), None, "right on 100.00% of the 250 validation samples, as"),
        (search(0.99, 250), on_test(0.98, 540), ""),  # by chance in one of five
        (search(0.98, 250), on_test(1.0, 540), ""),
        (search(0.99, 250), None, ""),
        (search(1.0, 20), None, ""),
        (search(None, 250), None, ""),
        (None, on_test(0.9, 100), ""),
    ],
)
def test_a_warning_where_the_original_has_seen_them(found, evaluation, told):
    warnings = warnings_of(found, evaluation)
    assert len(warnings) == bool(told)
    assert told in "".join(warnings)


def test_the_chance_of_a_higher_proportion():
    assert higher(50, 100, 50, 100) == pytest.approx(0.5)
    # Worked by hand: pooled 0.55, error 0.0704, z 1.421.
    assert higher(60, 100, 50, 100) == pytest.approx(0.0776, abs=1e-4)
    assert higher(50, 100, 60, 100) == pytest.approx(1 - 0.0776, abs=1e-4)
    assert higher(10, 10, 5, 5) == higher(0, 0, 1, 2) == 1
