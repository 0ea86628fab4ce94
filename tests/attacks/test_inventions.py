"""Of `inventions` and `oddities`: a documented exit code, one line, nothing executed or left."""

from __future__ import annotations

import re

import oddities
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
    "recipe: --set a long path",
    "output: a dangling link",
    "side: a pipe as depfile",
    "side: stdout as output",
    "side: two places",
    "side: a rule in a name",
    "if-changed: a report without end",
    "bytes: a depfile of them",
    "bytes: an option",
    "array: no samples",
    "array: complex labels",
    "array: labels that are no text",
    "array: encrypted",
    "CSV: damaged gzip",
    "CSV: gzip of a reserved block",
    "search: a link to another folder",
    "search: no workers",
    "patterns: 40,000 exclude",
    "parts: a pipe that is not listed",
    "parts: a name that is no text, in a SavedModel",
    "search: 3,000 choices",
    "report: a number beyond floats",
    "report: a float beyond floats",
}
"""Those that once did, and some beside them, are tried each time; all of them in the slow tests."""
ALL = {**CASES, **oddities.CASES}
assert len(ALL) == len(CASES) + len(oddities.CASES)  # no two of a name
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
    "name", [n if n in NOW else pytest.param(n, marks=pytest.mark.slow) for n in ALL]
)
def test_an_invention(name, tmp_path, modelcut, monkeypatch, no_engine):
    make, codes = ALL[name]
    place = tmp_path / "x"
    place.mkdir()
    monkeypatch.chdir(place)
    line = [str(word) for word in make(place)]
    while "=" in line[0]:
        variable, _, value = line.pop(0).partition("=")
        monkeypatch.setenv(variable, value)
    before = {path: path.lstat().st_mode for path in place.rglob("*")}
    said = modelcut(*line)
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
    if "--force" not in line:
        assert {path: path.lstat().st_mode for path in before} == before, "another kind of file"
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".marker", ".part"))]
