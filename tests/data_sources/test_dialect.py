"""How a CSV is written: delimiters, decimal commas, headers of numbers, line ends, long cells."""

from __future__ import annotations

import codecs

import numpy as np
import pytest

from modelcut.data import DataOptions, InputSpec
from modelcut.data import blocks as room
from modelcut.data.csv import Csv
from modelcut.errors import InputError, UsageError

TWO = (InputSpec("x", (2,)),)
FOUR = (InputSpec("x", (4,)),)
PLAIN = "a,b,label\n1.5,2,0\n3,4.25,1\n-5e-1,.5,2\n"
VALUES = [[1.5, 2], [3, 4.25], [-0.5, 0.5]]


def read(path, specs=TWO, **options):
    table = Csv.open(path, DataOptions(**options), specs)
    batches = list(table.batches(1000))
    inputs = {s.name: np.concatenate([b.inputs[s.name] for b in batches]) for s in specs}
    labels = [b.labels for b in batches]
    return inputs, None if labels[0] is None else np.concatenate(labels), table


def save(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("mark", [";", "\t", "|"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("decimal", [".", ","])
def test_delimiters_and_decimal_commas_are_recognized_and_said(tmp_path, mark, header, decimal):
    text = PLAIN.replace(",", mark).replace(".", decimal)
    text = text if header else text.partition("\n")[2]
    inputs, labels, table = read(save(tmp_path, text))
    np.testing.assert_allclose(inputs["x"], VALUES)
    np.testing.assert_array_equal(labels[:, 0], [0, 1, 2])
    assert "are separated by" in table.warnings[0]
    assert any("decimal commas" in line for line in table.warnings) == (decimal == ",")
    assert read(save(tmp_path, PLAIN))[2].warnings == []


def test_a_mark_inside_text_is_no_delimiter(tmp_path):
    text = "text,label\n" + "one; two | three,0\nfour; five,1\n" * 4
    words = (InputSpec("text", (1,), "string"),)
    inputs, labels, table = read(save(tmp_path, text), words)
    assert inputs["text"][0, 0] == "one; two | three"
    assert labels.tolist()[:2] == [[0], [1]]
    assert table.warnings == []


def test_decimal_commas_in_labels_and_bad_cells(tmp_path):
    text = "a;b;label\n1,5;2;0,25\n3;4;1,5\n"
    _, labels, _ = read(save(tmp_path, text))
    np.testing.assert_array_equal(labels[:, 0], [0.25, 1.5])
    for bad in ("1.234,5", "x", "1,2,3"):
        path = save(tmp_path, text + f"{bad};1;0\n1;2;0,5\n")
        with pytest.raises(InputError, match=r"t\.csv:4.*'a' holds"):
            read(path)
        inputs, labels, table = read(path, clean="drop")
        assert table.cleaning.dropped_unreadable == 1
        np.testing.assert_array_equal(inputs["x"], [[1.5, 2], [3, 4], [1, 2]])
        np.testing.assert_array_equal(labels[:, 0], [0.25, 1.5, 0.5])


@pytest.mark.parametrize("said", ["\\t", "\t"])
def test_a_tab_may_be_a_word(said):
    assert DataOptions(delimiter=said).delimiter == "\t"
    for bad in ("ab", "", '"', "\n"):
        with pytest.raises(ValueError, match="one character"):
            DataOptions(delimiter=bad)


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_line_ends_and_byte_order_marks(tmp_path, end, mark):
    for text in (PLAIN, PLAIN.partition("\n")[2], "\n\n" + PLAIN, PLAIN.rstrip()):
        path = save(tmp_path, mark + text.replace("\n", end).encode())
        inputs, labels, table = read(path)
        np.testing.assert_allclose(inputs["x"], VALUES)
        assert labels.shape == (3, 1)
        assert table.columns.header == ("label" in text)
        if table.columns.header:
            assert table.columns.names == ["a", "b", "label"]
    with pytest.raises(InputError, match="UTF-16"):
        read(save(tmp_path, PLAIN.encode("utf-16")))


def test_line_breaks_in_cells_beyond_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_BLOCK_BYTES", 1 << 14)
    words = (InputSpec("the\ntext", (1,), "string"),)
    poems = [("\n".join(f"line {k} {j}" for j in range(k % 300))) or "-" for k in range(700)]
    rows = "".join(f'"{poem}",{k % 2}\n' for k, poem in enumerate(poems))
    path = save(tmp_path, '"the\ntext",label\n' + rows)
    inputs, labels, _ = read(path, words)
    assert inputs["the\ntext"][:, 0].tolist() == poems
    np.testing.assert_array_equal(labels[:, 0], np.arange(700) % 2)
    # A single row longer than the blocks, among numbers too; and one beyond all measure.
    long = save(tmp_path, f'"the\ntext",label\n"{"x" * 100_000}",1\n' + rows)
    assert len(read(long, words)[0]["the\ntext"]) == 701
    monkeypatch.setattr(room, "MAX_LINE_BYTES", 1 << 15)
    with pytest.raises(InputError, match="not valid CSV: a row of more than"):
        read(long, words)


NUMBERED = "0,1,2,3,4\n" + "".join(f"0.{k},0.5,0.{k}7,1.5,{k % 2}\n" for k in range(1, 9))


@pytest.mark.parametrize(
    ("text", "header"),
    [
        (NUMBERED, True),
        (NUMBERED.replace("0,1,2,3,4\n", "1,2,3,4,5\n"), True),
        ("0,1,2,3,4\n5,5,5,5,1\n6,7,6,7,0\n", True),
        ("0,1,2,3,4\n1,2,3,4,5\n2,3,4,5,6\n", False),  # windows over a counter
        ("5,1,2,3,4\n1,2,3,4,5\n2,3,4,5,6\n", False),
        ("0,1,5,9,2\n0,1,2,3,0\n", False),
    ],
)
def test_a_header_of_plain_numbers(tmp_path, text, header):
    path = save(tmp_path, text)
    inputs, _, table = read(path, FOUR)
    assert len(inputs["x"]) == text.count("\n") - header
    assert any("is read as names" in line for line in table.warnings) == header
    for said in (True, False):
        inputs, _, table = read(path, FOUR, header=said)
        assert len(inputs["x"]) == text.count("\n") - said
        assert table.warnings == []


def test_a_first_row_that_may_be_names_is_pointed_out(tmp_path):
    path = save(tmp_path, "2019,2020,7\n0.5,0.25,1\n0.5,0.75,0\n")
    inputs, _, table = read(path)
    assert len(inputs["x"]) == 3
    assert "are these names?" in table.warnings[0]


def test_the_index_of_pandas_is_left_out_or_pointed_out(tmp_path):
    for name in ("Unnamed: 0", ""):
        rows = "".join(f"{k},{k % 3}.5,2,{k % 2}\n" for k in range(5))
        path = save(tmp_path, f"{name},a,b,y\n{rows}")
        inputs, labels, table = read(path)
        np.testing.assert_allclose(inputs["x"][:, 0], [0.5, 1.5, 2.5, 0.5, 1.5])
        np.testing.assert_array_equal(labels[:, 0], [0, 1, 0, 1, 0])
        assert "left out" in table.warnings[0]
        inputs, _, table = read(path, (InputSpec("x", (None,)),))
        assert inputs["x"].shape == (5, 3)
        assert "goes into the model" in table.warnings[0]
    numbered = ",0,1,2\n0,.5,.5,1\n1,.5,.5,0\n"
    inputs, _, table = read(save(tmp_path, numbered))
    assert inputs["x"].shape == (2, 2)


def test_an_exact_name_wins_over_a_prefix(tmp_path):
    path = save(tmp_path, "education_num,education,age_1,age_x_1,age_2,label\n1,2,3,4,5,0\n")
    specs = (
        InputSpec("education", (1,)),
        InputSpec("education_num", (1,)),
        InputSpec("age", (2,)),
        InputSpec("age_x", (1,)),
    )
    inputs, _, _ = read(path, specs)
    assert {name: part.tolist() for name, part in inputs.items()} == {
        "education": [[2]],
        "education_num": [[1]],
        "age": [[3, 5]],
        "age_x": [[4]],
    }


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = save(tmp_path, "a,a,label\n1,2,0\n")
    with pytest.raises(InputError, match="two columns are called 'a'"):
        read(path)
    with pytest.raises(InputError, match="no name"):
        read(save(tmp_path, ",,label\n3,2,0\n"))


MIXED = (InputSpec("age", (1,)), InputSpec("job", (1,), "string"))
PEOPLE = "age,job,label\n30, a ,1\n,b,0\n40,b,1\n60,,1\n 50 ,nan,0\n1e99,b,0\n"


def test_missing_cells_beside_text(tmp_path):
    path = save(tmp_path, PEOPLE)
    with pytest.raises(InputError, match=r"t\.csv:3: column 'age' is empty"):
        read(path, MIXED)
    inputs, _, table = read(path, MIXED, clean="drop")
    assert inputs["age"].tolist() == [[30], [40]]
    assert inputs["job"].tolist() == [["a"], ["b"]]
    assert table.cleaning.dropped_missing == 3
    assert table.cleaning.dropped_nonfinite == 1
    # Text has no mean: a row without it is left out.
    inputs, _, table = read(path, MIXED, clean="impute")
    np.testing.assert_allclose(inputs["age"][:, 0], [30, 45, 40, 45])
    assert inputs["job"][:, 0].tolist() == ["a", "b", "b", "b"]
    assert (table.cleaning.imputed_cells, table.cleaning.dropped_missing) == (2, 2)
    inputs, _, table = read(path, MIXED, clean="drop", outliers="drop", outlier_range=(0, 35))
    assert inputs["job"].tolist() == [["a"]]
    assert table.cleaning.dropped_outliers == 1
    with pytest.raises(InputError, match=r"t\.csv:3: column 'job' is empty"):
        read(save(tmp_path, "age,job,label\n30,a,1\n40,,0\n"), MIXED)
    words = (InputSpec("job", (1,), "string"),)
    path = save(tmp_path, "job,label\na,1\nb,0\n")
    for options in ({"clean": "impute"}, {"outliers": "drop", "outlier_z": 3}):
        with pytest.raises(UsageError, match="no column of numbers"):
            read(path, words, **options)


@pytest.mark.parametrize(
    ("dtype", "scale", "good", "bad"),
    [
        ("float32", None, ["3e38", "-3e38"], ["1e39", "-1e39", "1e308", "1e400", "-1e400"]),
        ("float32", 1e-10, ["1e48"], ["1e49", "1e400"]),
        ("float64", None, ["1e308"], ["1e309"]),
        ("float16", None, ["65504"], ["65600"]),
        ("float16", 255, ["256"], ["257"]),
        ("uint8", None, ["255", "0"], ["256", "-1"]),
        ("int32", None, ["-2147483648"], ["2147483648"]),
    ],
)
def test_what_a_dtype_cannot_hold_is_not_finite(tmp_path, dtype, scale, good, bad):
    specs = (InputSpec("x", (1,), dtype),)
    options = {} if scale is None else {"scale": scale}
    for other in ("", "\nz,0"):  # as a block of numbers, and cell by cell
        for cell in (*good, *bad):
            path = save(tmp_path, f"x,label\n1,0\n{cell},1{other}\n")
            inputs, _, table = read(path, specs, clean="drop", **options)
            assert np.isfinite(inputs["x"].astype(float)).all()
            assert table.cleaning.dropped_nonfinite == (cell in bad), cell
            assert table.cleaning.rows_used == 1 + (cell in good)
    with pytest.raises(InputError, match=rf"t\.csv:3: column 'x' holds .*the range of {dtype}"):
        read(save(tmp_path, f"x,label\n1,0\n{bad[0]},1\n"), specs, **options)


def test_a_label_that_is_not_finite(tmp_path):
    for cell in ("inf", "1e400", "1e308", "nan", "", "  "):
        path = save(tmp_path, f"x,label\n1,0\n2,{cell}\n")
        with pytest.raises(InputError, match=r"t\.csv:3"):
            read(path, (InputSpec("x", (1,)),))
        _, labels, table = read(path, (InputSpec("x", (1,)),), clean="drop")
        assert labels.tolist() == [[0]]
        assert table.cleaning.dropped_missing + table.cleaning.dropped_nonfinite == 1


def test_a_column_without_numbers_is_not_filled(tmp_path):
    path = save(tmp_path, "a,b,label\n1,nan,0\n2,,1\n")
    with pytest.raises(InputError, match="column 'b' has no number"):
        read(path, clean="impute")


def test_what_pyarrow_refuses_is_an_input_error(tmp_path, monkeypatch):
    import pyarrow as pa

    def broken(*_, **__):
        raise pa.ArrowNotImplementedError("not today")

    monkeypatch.setattr("pyarrow.csv.open_csv", broken)
    with pytest.raises(InputError, match="not today"):
        read(save(tmp_path, PLAIN))


def test_training_data_is_read_with_the_same_notes(tmp_path):
    from types import SimpleNamespace

    from modelcut.job.engine_runtime import EngineRuntime

    path = save(tmp_path, PLAIN.replace(",", ";"))
    runtime = EngineRuntime(None, path, DataOptions())
    for _ in range(2):
        assert runtime._table(path, SimpleNamespace(inputs=TWO)).columns.names == [
            "a",
            "b",
            "label",
        ]
    assert len(runtime.notes) == 1
    assert "semicolons" in runtime.notes[0]
