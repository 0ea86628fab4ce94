"""The inputs of `inventions`: a documented exit code, one line, nothing executed, nothing left."""

from __future__ import annotations

import pytest
from inventions import CASES

from modelcut import engines
from modelcut.errors import InputError

_UNSAFE_TEXT = ("\x1b", "\u202e", "\n::", "root:x")


@pytest.fixture
def no_engine(monkeypatch):
    """What gets as far as an engine has passed all that is looked at before."""

    def start(*_, **__):
        raise InputError("an engine was started")

    monkeypatch.setattr(engines, "open_network", start)


@pytest.mark.parametrize("name", CASES)
def test_an_invention(name, tmp_path, modelcut, monkeypatch, no_engine):
    make, codes = CASES[name]
    place = tmp_path / "x"
    place.mkdir()
    monkeypatch.chdir(place)
    said = modelcut(*make(place))
    assert said.code in codes, said
    if said.code > 1 and said.err:
        assert said.err.startswith("modelcut: "), said
        assert said.err.count("\n") == 1, said.err
    for text in _UNSAFE_TEXT:
        assert text not in said.out + said.err
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".marker", ".part"))]
