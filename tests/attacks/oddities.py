"""Further hostile inputs and odd command lines, in the form of `inventions`.

A line may begin with variables of the environment, as in a shell: `NAME=value`.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import zipfile

import numpy as np
from inventions import (
    ANY,
    BAD,
    STEP,
    UGLY,
    flag,
    good,
    h5,
    keras,
    layers,
    npy,
    npz,
    parquet,
    recipe,
    rows,
    shown,
    table,
    write,
)
from test_hdf5 import WEIGHTS, config
from test_keras_zip import GOOD
from toys import MODELS, dense

RAW = os.fsdecode(b"b\xff\xfe")
"""Half a name: bytes that are no UTF-8, as a file system may have them."""

PACKED = gzip.compress(rows().encode(), mtime=0)
X, Y = np.ones((6, 4), "f4"), np.zeros(6, "i8")


def line(*words):
    """A command on the 4-8-3 classifier; words that begin with @ are files in the folder."""

    def make(folder):
        good(folder)
        return tuple(folder / word[1:] if word.startswith("@") else word for word in words)

    return make


def prune(*words):
    return line("prune", "@m.h5", "--sparsity", "0.5", "-o", "@o.h5", *words)


def env(*pairs, then=None):
    return lambda folder: (*pairs, *(then or prune("-q"))(folder))


def special(name, *words):
    """One of the files that are written to is a pipe: devices are replaced by those who may."""

    def make(folder):
        os.mkfifo(folder / name)
        return prune(*words)(folder)

    return make


def reported(data):
    """An output that is there, and a report beside it."""

    def make(folder):
        good(folder)
        shutil.copy(folder / "m.h5", folder / "o.h5")
        place = folder / "o.report.json"
        data(place) if callable(data) else write(place, data)
        return prune("--if-changed", "--force")(folder)

    return make


def search(*words):
    train = ("--train", "@rows.csv", "--max-accuracy-drop", "0.5", "--trials", "1")
    return line("search", "@m.h5", *train, "-o", "@o.h5", *words)


def space(text):
    def make(folder):
        write(folder / "s.yaml", text)
        return search("-r", "@s.yaml")(folder)

    return make


def link(folder):
    (folder / "precious").mkdir()
    write(folder / "precious" / "search.json", "{}")
    (folder / "o.h5.search").symlink_to(folder / "precious")
    return folder


def encrypted(path):
    """Marks the members of an archive as encrypted."""
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = data.find(mark)
        while at >= 0:
            data[at + place] |= 1
            at = data.find(mark, at + 4)
    path.write_bytes(data)
    return path


def locked_npz(folder):
    with zipfile.ZipFile(folder / "t.npz", "w") as archive:
        archive.writestr("x.npy", npy(X))
        archive.writestr("y.npy", npy(Y))
    encrypted(folder / "t.npz")
    return line("eval", "@m.h5", "--test", "@t.npz")(folder)


def named(name):
    """A layer of this name, in an .h5 and through a step."""
    weights = {name: {"k:0": (4, 8), "b:0": (8,)}, "d2": WEIGHTS["d2"]}
    return layers(
        lambda _: config(dense(name, 8), dense("d2", 3)),
        weights=weights,
        line=("prune", "MODEL", "--sparsity", "0.5", "-o", "OUT"),
    )


def renamed(name):
    """A layer's name in a .keras, whose weights are found by number."""

    def change(parts):
        text = json.dumps(json.loads(parts["config.json"]))
        parts["config.json"] = text.replace('"dense"', json.dumps(name)).encode()

    def make(folder):
        _, path, *_ = keras(change)(folder)
        return "prune", path, "--sparsity", "0.5", "-o", folder / "o.keras", "--json"

    return make


def beside(name, *words):
    """A copy of the model under another name."""

    def make(folder):
        good(folder)
        shutil.copy(folder / "m.h5", folder / name)
        return line(*words)(folder)

    return make


def column(values):
    """Parquet with one odd column of labels."""
    return lambda folder: parquet(
        folder, lambda pa: pa.table({n: [1.0] for n in "abcd"} | {"label": values(pa)})
    )


def shard(change, name="m_0.weights.h5"):
    """A list of one shard."""

    def make(folder):
        good(folder)
        change(folder)
        text = json.dumps({"metadata": {}, "weight_map": {"a": name}})
        return "inspect", write(folder / "m.weights.json", text)

    return make


def saved_model(folder, change):
    with zipfile.ZipFile(MODELS.parent / "saved_models" / "keras3.zip") as archive:
        archive.extractall(folder / "sm")
    change(folder / "sm")
    return "prune", folder / "sm", "--sparsity", "0.5", "-o", folder / "o", "-q"


CASES = {
    # what is written to
    "side: a pipe as depfile": (special("d", "--depfile", "@d"), BAD),
    "side: a pipe as JUnit": (special("j", "--junit", "@j"), BAD),
    "side: a pipe as report": (special("o.report.md"), BAD),
    "side: a pipe as report, by force": (special("o.report.md", "--force"), BAD),
    "side: stdout as output": (line("prune", "@m.h5", "--sparsity", "0.5", "-o", "-"), BAD),
    "side: stdout as JUnit": (prune("--junit", "-"), BAD),
    "side: stdout as depfile": (prune("--depfile", "-"), BAD),
    "side: stdout as summary": (prune("--summary", "-"), BAD),
    "side: two places": (prune("--in-place"), BAD),
    "side: the model": (prune("--junit", "@m.h5"), BAD),
    "side: a name that Make reads": (
        line(
            "prune", "@m.h5", "--sparsity", "0.5", "-o", "@a b$(x)#:\t.h5", "--depfile", "@d", "-q"
        ),
        (0,),
    ),
    "side: a rule in a name": (
        line(
            "prune", "@m.h5", "--sparsity", "0.5", "-o", "@a\nall:\n\tx.h5", "--depfile", "@d", "-q"
        ),
        BAD,
    ),
    "if-changed: a report without end": (reported(lambda p: p.symlink_to("/dev/zero")), BAD),
    "if-changed: a pipe": (reported(os.mkfifo), BAD),
    "if-changed: deep": (reported("[" * 100_000), (0,)),
    "if-changed: of other types": (reported('{"output": 7, "gates": [7]}'), (0,)),
    # names that are no text
    "bytes: the model": (beside(RAW + ".h5", "inspect", "@" + RAW + ".h5", "--json"), (0,)),
    "bytes: the output": (line("pack", "@m.h5", "-o", "@" + RAW + ".mcut"), (0,)),
    "bytes: side files": (prune("--junit", "@" + RAW, "--summary", "@" + RAW + ".md", "-q"), (0,)),
    "bytes: a depfile of them": (
        lambda f: (
            write(f / (RAW + ".yaml"), STEP)
            and line("run", "@m.h5", "-r", "@" + RAW + ".yaml", "-o", "@o.h5", "--depfile", "@d")(f)
        ),
        (0,),
    ),
    "bytes: an option": (flag("--label", RAW), BAD),
    "bytes: a value": (recipe(STEP, "--set", f"steps.0.include=[{RAW}]"), BAD),
    "bytes: a pattern": (prune("--include", RAW), BAD),
    # arrays
    "array: no samples": (npz(("x.npy", npy(X[:0])), ("y.npy", npy(Y[:0]))), BAD),
    "array: complex labels": (npz(("x.npy", npy(X)), ("y.npy", npy(Y.astype("c8")))), BAD),
    "array: dates as labels": (npz(("x.npy", npy(X)), ("y.npy", npy(Y.astype("M8[D]")))), BAD),
    "array: labels that are no text": (
        npz(("x.npy", npy(X)), ("y.npy", npy(np.full(6, b"\xff")))),
        BAD,
    ),
    "array: labels of another length": (npz(("x.npy", npy(X)), ("y.npy", npy(Y[:5]))), BAD),
    "array: encrypted": (locked_npz, BAD),
    "array: records": (npz(("x.npy", npy(np.zeros(6, [("a", "f4")]))), ("y.npy", npy(Y))), BAD),
    "array: beyond float32": (npz(("x.npy", npy(X.astype("f8") * 1e300)), ("y.npy", npy(Y))), BAD),
    "keras: encrypted": (
        lambda f: ("inspect", encrypted(shutil.copy(GOOD, f / "m.keras"))),
        BAD,
    ),
    # tables
    "CSV: damaged gzip": (
        table("t.csv.gz", lambda: (lambda d: d[:40] + bytes([d[40] ^ 255]) + d[41:])(PACKED)),
        BAD,
    ),
    "CSV: gzip of a reserved block": (table("t.csv.gz", PACKED[:10] + b"\xff" + PACKED[11:]), BAD),
    "CSV: UTF-16": (table("t.csv", rows().encode("utf-16")), BAD),
    "CSV: full-width digits": (table("t.csv", rows() + "\n１２,1,2,3,0\n"), BAD),
    "CSV: thousands": (table("t.csv", rows() + '\n"1,000",1,2,3,0\n'), BAD),
    "CSV: an exponent of 5,000 digits": (
        table("t.csv", rows() + "\n1e" + "9" * 5000 + ",1,2,3,0\n"),
        BAD,
    ),
    "CSV: the end of a file of DOS": (table("t.csv", rows() + "\x1a"), BAD),
    "Parquet: labels that are lists": (column(lambda pa: [[0]]), BAD),
    "Parquet: labels that are dates": (column(lambda pa: pa.array([0], pa.timestamp("s"))), BAD),
    "Parquet: no labels": (column(lambda pa: pa.nulls(1)), BAD),
    # patterns
    **{
        f"patterns: 40,000 {field}": (
            recipe(
                STEP
                + f"    {field}: ["
                + ",".join(f"'path:*a*b*{number}*?'" for number in range(40_000))
                + "]\n"
            ),
            BAD,
        )
        for field in ("include", "exclude")
    },
    "patterns: 2,000 overrides": (
        recipe(
            STEP
            + "    overrides: {"
            + ",".join(f"'path:*{number}*?': {{sparsity: 0.1}}" for number in range(2000))
            + "}\n"
        ),
        BAD,
    ),
    "patterns: 20,000 options": (
        lambda f: prune(*(word for n in range(20_000) for word in ("--include", f"path:{n}?")))(f),
        BAD,
    ),
    # files of many parts
    **{
        f"parts: {name}": (shard(change), BAD)
        for name, change in (
            ("a pipe", lambda f: os.mkfifo(f / "m_0.weights.h5")),
            ("a device", lambda f: (f / "m_0.weights.h5").symlink_to("/dev/zero")),
            ("the list", lambda f: None),
        )
    },
    "parts: a pipe that is not listed": (
        shard(
            lambda f: (os.mkfifo(f / "m_1.weights.h5"), shutil.copy(f / "m.h5", f / "w.h5")), "w.h5"
        ),
        ANY,
    ),
    "parts: a long name": (shard(lambda f: None, "a" * 5000), BAD),
    "parts: a name that is no text, in a SavedModel": (
        lambda f: saved_model(f, lambda place: write(place / RAW, "x")),
        (0,),
    ),
    "parts: a pipe in a SavedModel": (
        lambda f: saved_model(f, lambda place: os.mkfifo(place / "x")),
        BAD,
    ),
    # searches
    "search: a link to another folder": (lambda f: search()(link(f)), BAD),
    "search: a link is discarded": (lambda f: search("--discard")(link(f)), BAD),
    "search: a link is begun anew": (lambda f: search("--restart")(link(f)), BAD),
    "search: no workers": (search("--workers", "0"), BAD),
    "search: 10^20 workers": (search("--workers", "9" * 20), BAD),
    "search: a fraction of nan": (search("--validation-fraction", "nan"), BAD),
    "search: a fraction of 1": (search("--validation-fraction", "1"), BAD),
    "search: an objective that writes": (search("--minimize", UGLY), BAD),
    "search: 3,000 choices": (
        space("steps:\n" + "  - maybe: {prune: magnitude, sparsity: 0.5}\n" * 3000),
        BAD,
    ),
    "search: 20,000 values": (
        space(f"steps:\n  - prune: magnitude\n    sparsity: {{choose: [{'0.5,' * 20_000}0.5]}}\n"),
        BAD,
    ),
    "search: choices in choices": (
        space(f"steps:\n  - prune: magnitude\n    sparsity: {'{choose: [' * 30}0.5{']}' * 30}\n"),
        BAD,
    ),
    # reports
    "report: a number beyond floats": (
        lambda f: shown(_with(f, ("sizes", "after", "macs"), 10**400))(f),
        BAD,
    ),
    "report: a float beyond floats": (
        lambda f: shown(_with(f, ("layers", 0, "tensors", 0, "before", "entropy"), int("9" * 400)))(
            f
        ),
        BAD,
    ),
    # the environment
    "environment: a number": (env("MODELCUT_SEED=x\x1b[31m\n::error::y"), BAD),
    "environment: a flag": (env("MODELCUT_JSON=maybe"), BAD),
    "environment: data": (env("MODELCUT_TEST=/dev/zero"), BAD),
    "environment: columns": (env("COLUMNS=-5", then=line("inspect", "@m.h5")), (0,)),
    "environment: one column": (env("COLUMNS=1", then=line("inspect", "@m.h5")), (0,)),
    "environment: workers of other types": (
        env(
            'TF_CONFIG={"cluster": {"worker": [1, null]}, "task": []}',
            then=line("finetune", "@m.h5", "--train", "@rows.csv", "-o", "@o.h5"),
        ),
        BAD,
    ),
    # names of layers
    **{
        f"name: {shown_}": (named(name), ANY)
        for shown_, name in (
            ("a space", " "),
            ("a flag", "-rf"),
            ("a command", "$(touch ran.marker)"),
            ("an end of line", "\x85"),
            ("a pattern", "["),
            ("300 letters", "a" * 300),
        )
    },
    "name: half a character": (renamed("\ud800"), ANY),
    "name: a zero": (renamed("a\0b"), ANY),
    "name: upwards": (renamed("../x"), ANY),
    "h5: layer names in two axes": (
        h5(lambda f: f["model_weights"].attrs.__setitem__("layer_names", [[b"d1", b"d2"]])),
        BAD,
    ),
}


def _with(folder, path, value):
    """A real report in which one value is another."""
    import modelcut

    good(folder)
    modelcut.prune(folder / "m.h5", folder / "o.h5", sparsity=0.5, report=True)
    found = json.loads((folder / "o.report.json").read_text())
    place = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(found)
