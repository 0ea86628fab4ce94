"""What holds of all hostile inputs: refused before any engine is there, and nothing was run."""

from __future__ import annotations

import pytest
from corpus import CONTROLS, cases

from modelcut import engines, scan


@pytest.mark.parametrize("kinds", ["runs", pytest.param("", marks=pytest.mark.slow)])
def test_all_are_refused_before_an_engine_starts(kinds, tmp_path, modelcut, monkeypatch):
    def start(*_, **__):
        raise AssertionError("an engine was started")

    monkeypatch.setattr(engines, "open_network", start)
    monkeypatch.setattr(engines, "warm", start)
    late = {"h5 content: all NaN"}
    wrong, count = [], 0
    for case in cases(tmp_path, kinds):
        if case.name in late:  # the values are looked at once the network is there
            continue
        count += 1
        said = modelcut(*case.arguments)
        one_line = said.err.startswith("modelcut: ") and said.err.count("\n") == 1
        if said.code not in case.codes or not one_line:
            wrong.append((case.name, said))
    assert not wrong, wrong[:5]
    assert count > (25 if kinds else 135)
    assert not [p for p in tmp_path.rglob("*.marker") if p.is_file()]
    assert not (tmp_path / "never.h5").exists()


def test_the_scan_agrees(tmp_path):
    for case in cases(tmp_path, "runs"):
        assert not scan(case.model).safe, case.name
    assert not [p for p in tmp_path.rglob("*.marker") if p.is_file()]


@pytest.mark.parametrize("path", CONTROLS, ids=lambda p: p.name)
def test_nothing_is_found_in_a_model_that_only_computes(path, modelcut):
    assert scan(path).safe
    said = modelcut("scan", path, "--json")
    assert said.code == 0
    assert '"safe": true' in said.out


def test_the_exit_code_of_the_scan(tmp_path, modelcut):
    case = next(cases(tmp_path, "runs"))
    said = modelcut("scan", case.model)
    assert said.code == 3
    assert "unsafe: " in said.out
    assert modelcut("scan", tmp_path / "rows.csv").code == 2
