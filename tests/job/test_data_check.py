"""What is wrong with a CSV is said before an engine starts."""

from __future__ import annotations

import pytest
from toys import MODELS

import modelcut as package
from modelcut import engines
from modelcut.errors import InputError, UsageError

MODEL = MODELS / "keras3_sequential.h5"


@pytest.fixture
def no_engine(monkeypatch):
    def start(*_, **__):
        raise AssertionError("an engine was started")

    monkeypatch.setattr(engines, "open_network", start)
    monkeypatch.setattr(engines, "warm", start)


GOOD = "a,b,c,d,e,f,g,h,label\n" + "1,2,3,4,5,6,7,8,1\n" * 30


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (GOOD.replace("a,b,", "a,"), InputError),
        (GOOD + "1,2\n", InputError),
        (GOOD + "1,2,3,4,x,6,7,8,1\n", InputError),
        (GOOD + "1,2,3,4,1e400,6,7,8,1\n", InputError),
        (GOOD.replace("b,c", "c,c"), InputError),
        ("", InputError),
        (GOOD + "1,2,3,4,5,6,7,8,99\n", InputError),
        (GOOD + "1,2,3,4,5,6,7,8,-1\n", InputError),
        (GOOD + "1,2,3,4,5,6,7,8,0.5\n", InputError),
        (GOOD.replace(",1\n", ",cat\n"), InputError),
    ],
    ids=[
        *("a column less", "a short row", "a word", "beyond numbers", "one name twice", "empty"),
        *("a class too many", "a class below 0", "half a class", "a class by name"),
    ],
)
def test_errors_come_first(text, error, tmp_path, no_engine):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(error):
        package.evaluate(MODEL, path)
    with pytest.raises(error):
        package.prune(MODEL, tmp_path / "o.h5", sparsity=0.5, test=path)
    with pytest.raises(error):
        package.finetune(MODEL, tmp_path / "o.h5", train=path)
    assert not (tmp_path / "o.h5").exists()


def test_a_column_that_is_not_there(tmp_path, no_engine):
    path = tmp_path / "t.csv"
    path.write_text(GOOD)
    with pytest.raises(UsageError, match="no column"):
        package.evaluate(MODEL, path, data={"label": "none"})


def test_class_names_that_are_not_as_many_as_the_classes(tmp_path, no_engine):
    path = tmp_path / "t.csv"
    path.write_text(GOOD)
    with pytest.raises(UsageError, match="--classes: 2 names"):
        package.evaluate(MODEL, path, data={"classes": ["a", "b"]})


def test_labels_of_calibration_data_are_not_looked_at(tmp_path, no_engine):
    path = tmp_path / "t.csv"
    path.write_text(GOOD.replace(",1\n", ",99\n"))
    options = {"bits": 4, "rounding": "gptq", "calibrate": path}
    with pytest.raises(AssertionError, match="engine was started"):
        package.quantize(MODEL, tmp_path / "o.h5", **options)


def test_a_good_one_gets_to_the_engine(tmp_path, no_engine):
    path = tmp_path / "t.csv"
    path.write_text(GOOD)
    with pytest.raises(AssertionError, match="engine was started"):
        package.evaluate(MODEL, path)
