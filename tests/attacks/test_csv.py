"""CSVs with cells that are no numbers, rows that are no rows, and labels that are no classes."""

from __future__ import annotations

import gzip
import io
import zipfile

import numpy as np
import pytest
from test_hdf5 import model

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
