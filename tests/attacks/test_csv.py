"""CSVs with cells that are no numbers, rows that are no rows, and labels that are no classes."""

from __future__ import annotations

import gzip
import io
import random
import warnings
import zipfile

import numpy as np
import pytest
from test_hdf5 import model

from modelcut.data import DataOptions, InputSpec, source
from modelcut.data import blocks as room
from modelcut.data.csv import Csv
from modelcut.errors import InputError, ModelcutError

HEADER = "a,b,c,d,label"


def table(cells=None, header=HEADER, rows=60, end="\n", label=lambda i: str(i % 3)):
    """Rows for the 4-8-3 classifier; `cells` maps a row to its text."""
    rng = np.random.default_rng(0)
    lines = [header] if header else []
    for i in range(rows):
        plain = ",".join(f"{value:.4f}" for value in rng.normal(size=4)) + f",{label(i)}"
        lines.append((cells or {}).get(i, plain))
    return end.join(lines) + end


def _zip():
    spool = io.BytesIO()
    with zipfile.ZipFile(spool, "w") as archive:
        archive.writestr("xl/workbook.xml", "<a/>")
    return spool.getvalue()


REFUSED = {
    "header only": (HEADER + "\n", ""),
    "no label": (table(header="a,b,c,d").replace(",0\n", "\n"), ""),
    "a short row": (table({30: "1,2,3,1"}), ".csv:32:"),
    "a long row": (table({30: "1,2,3,4,5,1"}), ".csv:32:"),
    "too many columns": (table(header="a,b,c,d,e,label").replace("\n", ",0\n"), ""),
    "an unclosed quote": (table({30: '1,2,"3,4,1'}), ""),
    "text": (table({30: "1,abc,3,4,1"}), ".csv:32:"),
    "hexadecimal": (table({30: "1,0x10,3,4,1"}), "0x10"),
    "underscore": (table({30: "1,1_000,3,4,1"}), "1_000"),
    "digits of another script": (table({30: "1,٣,3,4,1"}), ".csv:32:"),
    "label below 0": (table({30: "1,2,3,4,-1"}), ""),
    "labels are words": (table(label=lambda i: "cat dog emu".split()[i % 3]), ""),
    "labels from 1": (table(label=lambda i: str(1 + i % 3)), ""),
    "gzip without its name": (gzip.compress(table().encode()), ""),
    "a spreadsheet": (_zip(), ""),
    "bytes": (np.random.default_rng(0).bytes(5000), ""),
    "a million columns": (",".join(["1"] * 1_000_000) + "\n" + ",".join(["1"] * 1_000_000), ""),
    "empty": ("", ""),
    "a missing cell": (table({30: "1,,3,4,1"}), ".csv:32:"),
    "latin-1": (table(header="a,b,c,caf\xe9,label").encode("latin-1"), "UTF-8"),
    "beyond float32": (table({30: "1,1e39,3,4,1"}), ".csv:32:"),
    "beyond float64": (table({30: "1,1e400,3,4,1"}), "the range of float32"),
    "a label beyond float64": (table({30: "1,2,3,4,1e400"}), ".csv:32:"),
    "two columns of one name": (table(header="a,b,a,d,label"), "two columns"),
    "UTF-16": (table().encode("utf-16"), "UTF-16"),
    "carriage returns and a bad cell": (table({30: "1,x,3,4,1"}, end="\r"), ".csv:32:"),
    "infinity": (table({30: "1,inf,3,4,1"}), ".csv:32:"),
}


@pytest.fixture
def classifier(tmp_path):
    return model(tmp_path / "m.h5")


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case, tmp_path, classifier, modelcut, in_one_line):
    text, words = REFUSED[case]
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    in_one_line(modelcut("eval", classifier, "--test", path), 2, words=words)


def test_a_gzip_bomb(tmp_path, classifier, modelcut, in_one_line):
    path = tmp_path / "t.csv.gz"
    with gzip.open(path, "wb", 1) as file:
        for _ in range(512):
            file.write(bytes(1 << 20))
    in_one_line(modelcut("eval", classifier, "--test", path), 2)


@pytest.mark.parametrize("size", [4 << 20, 4 << 30])
def test_rows_that_expand_stream_up_to_a_limit(tmp_path, monkeypatch, size):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"0,0,0,0\n" * (1 << 20)))
    monkeypatch.setattr(source, "_BOMB_BYTES", size)
    monkeypatch.setattr(source, "_BOMB_RATIO", 1)
    with source.open_bytes(path) as file:
        if size < 8 << 20:
            with pytest.raises(InputError, match="expands to more than 4,194,304 bytes"):
                file.readall()
        else:
            assert len(file.readall()) == 8 << 20


ACCEPTED = {
    "plain": table(),
    "carriage returns": table(end="\r\n"),
    "carriage returns only": table(end="\r"),
    "a byte order mark": b"\xef\xbb\xbf" + table(end="\r\n").encode(),
    "tabs": table().replace(",", "\t"),
    "semicolons and decimal commas": table().replace(",", ";").replace(".", ","),
    "plain numbers for names": table(header="0,1,2,3,4"),
    "quoted": "\n".join(
        ",".join(f'"{cell}"' for cell in line.split(",")) for line in table().splitlines()
    ),
    "no last newline": table().rstrip("\n"),
    "no header": table(header=""),
    "labels with a point": table(label=lambda i: f"{i % 3}.0"),
    "formula in the header": table(header="a,b,c,=1+1|<script>,label"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted_and_the_same(case, tmp_path, classifier, modelcut):
    import json

    text = ACCEPTED[case]
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = modelcut("eval", classifier, "--test", path, "--json")
    assert said.code == 0, said
    report = json.loads(said.out)
    assert report["evaluation"]["after"]["metrics"]["rows"] == 60


def test_what_is_odd_is_warned_of(tmp_path, classifier, modelcut):
    for name, text in {
        "one class": table(label=lambda i: "1"),
        "one row again and again": table(dict.fromkeys(range(60), "1,2,3,4,1")),
    }.items():
        path = tmp_path / "t.csv"
        path.write_text(text)
        said = modelcut("eval", classifier, "--test", path)
        assert said.code == 0, name
        assert "warning" in said.out, name


_SCRAPS = [b",", b";", b"\t", b'"', b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"nan", b"1e400"]
_SCRAPS += [b"inf", b" ", b"", b"1,5", b"'", b"|", b"0x1", b"\xc3\xa9", b"\xe2\x80\xa8", b"1e39"]
_INPUTS = (
    (InputSpec("a", (2,)), InputSpec("c", (1,), "string")),
    (InputSpec("x", (None,)),),
    (InputSpec("a", (1,)), InputSpec("b", (1,), "int32"), InputSpec("c", (1,), "string")),
)


def _mutated(rng):
    lines = [f"{rng.gauss(0, 1):.3f},{rng.randrange(9)},w{rng.randrange(5)}" for _ in range(60)]
    text = "\n".join(["a,b,c,label", *(f"{line},{rng.randrange(3)}" for line in lines)])
    mark = rng.choice(",;\t|")
    text = text.replace(",", mark)
    if rng.random() < 0.3 and mark != ",":
        text = text.replace(".", ",")
    if rng.random() < 0.3:
        text = text.replace("\n", "\r")
    if rng.random() < 0.2:
        text = text.partition("\n")[2] or text
    data = bytearray(text.encode())
    for _ in range(rng.choice((0, 1, 1, 2, 8))):
        place = rng.randrange(len(data))
        data[place : place + rng.randrange(3)] = rng.choice(_SCRAPS)
    return data[: rng.randrange(len(data))] if rng.random() < 0.1 else data


@pytest.mark.parametrize("part", range(4))
def test_broken_tables_are_told_and_what_passes_is_finite(part, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_BLOCK_BYTES", 1 << 12)
    path, passed = tmp_path / "t.csv", 0
    told: list[str] = []
    for seed in range(100 * part, 100 * part + 100):
        rng = random.Random(seed)
        path.write_bytes(_mutated(rng))
        options = {"clean": rng.choice(("fail", "drop", "impute"))}
        if rng.random() < 0.2:
            options |= {"outliers": rng.choice(("clip", "drop")), "outlier_z": 2}
        if rng.random() < 0.2:
            options |= {"delimiter": rng.choice(",;\t|")}
        if rng.random() < 0.2:
            options |= {"header": rng.choice((True, False))}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                batches = list(
                    Csv.open(path, DataOptions(**options), rng.choice(_INPUTS)).batches(16)
                )
            except ModelcutError as error:
                told.append(str(error))
                continue
        passed += 1
        for batch in batches:
            for values in (*batch.inputs.values(), batch.labels):
                if values is None or values.dtype != object:
                    assert values is None or np.isfinite(values).all(), seed
                elif values is not batch.labels:
                    assert all(word and word == word.strip() for word in values.ravel()), seed
    assert passed > 5
    assert [line for line in told if str(path) not in line] == []
