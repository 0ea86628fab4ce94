"""Which samples a search measures on."""

from __future__ import annotations

import itertools
from math import inf
from pathlib import Path

import pytest

import modelcut as package
from modelcut.data import DataOptions
from modelcut.errors import InputError, UsageError
from modelcut.formats.registry import open_model
from modelcut.job import data_check
from modelcut.job.targets import Wanted
from modelcut.metrics.limits import Gates
from modelcut.recipe.recipe import Head
from modelcut.recipe.space import Space
from modelcut.recipe.yaml_text import loads
from modelcut.tuner import samples
from modelcut.tuner.request import Request, goal_of, with_head

DEMO = Path(package.__file__).parent / "demo"
TRAINED = "steps: [{finetune: straight_through, steps: {choose: [10, 20]}}]"
PLAIN = "steps: [{quantize: cluster, values: {choose: [8, 16]}}]"


@pytest.fixture
def request_for(tmp_path, monkeypatch):
    """A search of the demo's model; no engine may be started."""

    def refuse(*_, **__):
        raise AssertionError("an engine is started to read samples")

    monkeypatch.setattr(samples, "open_evaluator", refuse)

    def made(text, **fields):
        gates = Gates.model_validate(fields.pop("gates", {"max_accuracy_drop": 0.01}))
        head = Head.model_validate({"data": {"scale": "1/16"}, "gates": gates})
        space = with_head(Space.of(loads(text, "r.yaml")), head)
        goal = goal_of((), (), gates, 0.9)
        data = {"train": DEMO / "digits_train.csv", **fields}
        return Request(DEMO / "digits.h5", space, goal, tmp_path / "best.mcut", **data)

    return made


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_a_part_of_the_training_samples_without_an_engine(request_for, tmp_path):
    train, validation = samples.of(request_for(TRAINED), tmp_path, lambda _: None)
    whole = lines(DEMO / "digits_train.csv")
    assert lines(train)[0] == lines(validation)[0] == whole[0]
    assert sorted(lines(train)[1:] + lines(validation)[1:]) == sorted(whole[1:])
    assert len(lines(validation)) - 1 == pytest.approx((len(whole) - 1) / 5, abs=5)
    # An interrupted search has the same ones.
    before = train.stat().st_mtime_ns
    assert samples.of(request_for(TRAINED), tmp_path, lambda _: None) == (train, validation)
    assert train.stat().st_mtime_ns == before


def test_all_of_them_where_no_step_trains(request_for, tmp_path):
    whole = DEMO / "digits_train.csv"
    assert samples.of(request_for(PLAIN), tmp_path, lambda _: None) == (whole, whole)


def test_others_where_they_are_given(request_for, tmp_path):
    test = DEMO / "digits_test.csv"
    request = request_for(TRAINED, validation=test)
    assert samples.of(request, tmp_path, lambda _: None) == (request.train, test)


def test_a_limit_that_nothing_measures_is_refused(request_for, tmp_path):
    with pytest.raises(UsageError, match="rmse"):
        samples.of(request_for(TRAINED, gates={"max_rmse_increase": 1}), tmp_path, lambda _: None)


def test_an_engine_tells_the_names_of_outputs(request_for, tmp_path):
    gates = {"max_accuracy_drop": {"digit": 0.01}}
    with pytest.raises(AssertionError, match="an engine is started"):
        samples.of(request_for(TRAINED, gates=gates), tmp_path, lambda _: None)


def test_the_test_samples_are_counted(request_for):
    request = request_for(TRAINED, test=DEMO / "digits_test.csv")
    with open_model(request.model) as model:
        assert samples.check(request, model, lambda _: None) == 540
        assert samples.check(request_for(TRAINED), model, lambda _: None) == inf


def test_all_test_samples_are_looked_at_before_the_search(request_for, tmp_path, monkeypatch):
    head, *rows = lines(DEMO / "digits_test.csv")
    test = tmp_path / "test.csv"
    test.write_text("\n".join([head, *(30 * rows), "1,2,3"]) + "\n", encoding="utf-8")
    hours = itertools.count(step=3600)
    monkeypatch.setattr(data_check.time, "monotonic", lambda: next(hours))
    with open_model(DEMO / "digits.h5") as model:
        assert data_check.check_data(model, test, DataOptions(scale=1 / 16), Wanted()) is None
        with pytest.raises(InputError, match=":16202: 3 cells"):
            samples.check(request_for(TRAINED, test=test), model, lambda _: None)
