"""The targets of the fuzzer take what is sound, and refuse the rest with modelcut's errors."""

from __future__ import annotations

import pytest
from fuzz import TARGETS, seeds

from modelcut.errors import ModelcutError


@pytest.mark.parametrize("name", TARGETS)
def test_a_target(name, tmp_path):
    found = seeds(name, tmp_path)
    assert found
    for data in found:
        TARGETS[name](data, tmp_path)
    with pytest.raises((ModelcutError, OSError)):
        TARGETS[name](b"\0\1\2", tmp_path)
