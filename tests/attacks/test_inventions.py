"""The inputs of `inventions`: a documented exit code, one line, nothing executed, nothing left."""

from __future__ import annotations

import re

import pytest
from inventions import CASES

from modelcut import engines
from modelcut.errors import InputError

WENT_WRONG = {
    "image: PostScript by another name",
    "npz: a deep header",
    "npz: 2^60 values",
    "h5: szip",
    "code: search",
    "code: factorize",
    "checkpoint: deep",
    "layer: unrolled 20,000 times",
    "journal: deep",
}
"""Those that once did, and some beside them, are tried each time; all of them in the slow tests."""
KINDS = {name.partition(":")[0] for name in CASES}
NOW = WENT_WRONG | {next(n for n in CASES if n.startswith(kind)) for kind in KINDS}

_UNSAFE_TEXT = ("\x1b", "\u202e", "\n::", "root:x")


@pytest.fixture
def no_engine(monkeypatch):
    """What gets as far as an engine has passed all that is looked at before."""

    def start(*_, **__):
        raise InputError("an engine was started")

    monkeypatch.setattr(engines, "open_network", start)
    monkeypatch.setattr(engines, "warm", lambda *_: None)


@pytest.mark.parametrize(
    "name", [n if n in NOW else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
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
    for text in _UNSAFE_TEXT if "--json" not in name else _UNSAFE_TEXT[:2]:
        assert text not in said.out + said.err
    if "--html" in name:
        assert "<script>alert" not in said.out
    if "--md" in name:
        assert "<script>alert" not in re.sub(r"`[^`\n]*`", "", said.out)  # code is shown as it is
        assert "[a](javascript:" not in said.out
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".marker", ".part"))]
