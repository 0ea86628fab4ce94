"""More hostile inputs, for every command and every kind of file that one takes; see `corpus`.

Each is written into a folder of its own and gets a command line. `measure.py --inventions` runs
them as processes, `test_inventions.py` in its own.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
from corpus import Case
from test_hdf5 import WEIGHTS, config, k2_lambda, model
from test_keras_zip import GOOD, members, rezip
from toys import MODELS, dense

H5 = MODELS / "keras3_sequential.h5"
CNN = MODELS / "keras3_cnn.keras"
STEP = "steps:\n  - prune: magnitude\n    sparsity: 0.5\n"
BAD = (2, 3, 4)
ANY = (0, 1, 2, 3, 4)
UGLY = "a\n::error::x\x1b[31m\u202e<script>alert(1)</script>"

HTML = "<img src=x onerror=alert(1)>"
"""Must not stand in a page as it is; `UGLY` holds another."""

Make = Callable[[Path], tuple[object, ...]]


def rows(count=60, width=4, classes=3):
    rng = np.random.default_rng(0)
    head = ",".join(f"f{i}" for i in range(width)) + ",label"
    return "\n".join(
        [head]
        + [
            ",".join(f"{v:.3f}" for v in rng.normal(size=width)) + f",{i % classes}"
            for i in range(count)
        ]
    )


def good(folder):
    """The 4-8-3 classifier, and rows for it."""
    (folder / "rows.csv").write_text(rows())
    return model(folder / "m.h5")


def write(path, data):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def table(name, data):
    """A table that is evaluated on."""

    def make(folder):
        return (
            "eval",
            good(folder),
            "--test",
            write(folder / name, data() if callable(data) else data),
        )

    return make


def recipe(text, *more):
    def make(folder):
        path = write(folder / "r.yaml", text() if callable(text) else text)
        return "run", good(folder), "--recipe", path, "-o", folder / "o.h5", *more

    return make


def h5(change, *line):
    """A file that was changed by h5py."""

    def make(folder):
        path = good(folder)
        with h5py.File(path, "a") as file:
            change(file)
        return _line(line, folder, path)

    return make


def layers(*entries, weights=WEIGHTS, training=None, line=()):
    """A model of other layers."""

    def make(folder):
        good(folder)
        made = entries[0](folder) if callable(entries[0]) else config(*entries)
        return _line(line, folder, model(folder / "m.h5", made, weights, training))

    return make


def _line(line, folder, path):
    if not line:
        return "eval", path, "--test", folder / "rows.csv"
    out = {"OUT": folder / "o.h5", "ROWS": folder / "rows.csv", "MODEL": path}
    return tuple(out.get(word, word) for word in line)


def keras(change):
    """An archive with other members."""

    def make(folder):
        (folder / "rows.csv").write_text(rows(width=8))
        parts = dict(members())
        change(parts)
        return "eval", rezip(folder / "m.keras", parts.items()), "--test", folder / "rows.csv"

    return make


def npz(*entries):
    """An .npz of members as they stand."""

    def make(folder):
        path = folder / "t.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, data in entries:
                archive.writestr(name, data(folder) if callable(data) else data)
        return "eval", good(folder), "--test", path

    return make


def npy(values):
    spool = io.BytesIO()
    np.save(spool, values)
    return spool.getvalue()


def header(text, version=1):
    """An .npy of a header alone."""
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + bytes(64)


class _Runs:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def pickled(folder):
    return npy(np.array([_Runs(str(folder / "ran.marker"))], object))


def images(write_one, *more):
    """A table of paths of images; `write_one` gives the path that stands in it."""

    def make(folder):
        shutil.copyfile(CNN, folder / "m.keras")
        place = write_one(folder)
        (folder / "t.csv").write_text("image,label\n" + f'"{place}",0\n' * 4)
        return "eval", folder / "m.keras", "--test", folder / "t.csv", "--images", "image", *more

    return make


def png(width, height):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    line = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(line) for _ in range(min(height, 4000))) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(ran.marker) (w) file closefile\n%%EOF\n"


def by_path(column, name, data):
    """A table of paths of arrays or sounds for the 4-8-3 classifier."""

    def make(folder):
        model_ = good(folder)
        write(folder / name, data(folder) if callable(data) else data)
        (folder / "t.csv").write_text("file,label\n" + f"{name},0\n" * 4)
        return "eval", model_, "--test", folder / "t.csv", f"--{column}", "file"

    return make


def wav(frames, channels=1, width=2, data=b""):
    """A sound whose header promises so many frames."""
    size = frames * channels * width
    form = struct.pack(
        "<HHIIHH", 1, channels, 8000, 8000, min(65535, max(1, channels * width)), 8 * width
    )
    body = (
        b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size % (1 << 32))
    )
    return b"RIFF" + struct.pack("<I", len(body) + len(data)) + body + data


def image_folder(name):
    def make(folder):
        shutil.copyfile(CNN, folder / "m.keras")
        for each in ("a", name):
            (folder / "images" / each).mkdir(parents=True)
            write(folder / "images" / each / "1.png", png(8, 8))
        return "eval", folder / "m.keras", "--test", folder / "images"

    return make


def zstd(data):
    import zstandard

    return zstandard.ZstdCompressor(level=1).compress(data)


def parquet(folder, build):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "t.parquet"
    pq.write_table(build(pa), path)
    return "eval", good(folder), "--test", path


def shown(data):
    return lambda folder: ("report", "show", write(folder / "r.json", data))


def told(*form):
    """A real report whose names were changed, shown again."""

    def make(folder):
        import modelcut

        modelcut.prune(H5, folder / "o.h5", sparsity=0.5, report=True)
        text = (folder / "o.report.json").read_text()
        report = json.loads(text)
        for layer in report["layers"]:
            layer["name"] = UGLY
        report["warnings"] = [UGLY, "[a](javascript:alert(1))", "|x|", "`" * 3]
        report["input"]["path"] = UGLY
        return "report", "show", write(folder / "r.json", json.dumps(report)), *form

    return make


def tf_keras(function, **fields):
    """A `.keras` of tf_keras with a Lambda whose function is named."""

    def make(folder):
        (folder / "rows.csv").write_text(rows(width=8))
        with zipfile.ZipFile(MODELS / "tf_keras_sequential.keras") as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        root = json.loads(parts["config.json"])
        config = {"name": "l", "trainable": True, "dtype": "float32", "function": function}
        config |= {
            "function_type": "function",
            "output_shape_type": "raw",
            "arguments": {},
            **fields,
        }
        entry = {"module": "keras.layers", "class_name": "Lambda", "config": config}
        root["config"]["layers"].append({**entry, "registered_name": None})
        parts["config.json"] = json.dumps(root).encode()
        return "eval", rezip(folder / "m.keras", parts.items()), "--test", folder / "rows.csv"

    return make


def pipe(folder, name="pipe"):
    os.mkfifo(folder / name)
    return folder / name


def _attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def _many_attributes(file):
    for number in range(1000):
        file["model_weights"].attrs[f"x{number}"] = number


def _many_groups(file):
    for number in range(5_000):
        file.create_group(f"junk/{number}")


def _filter(number):
    def change(file):
        group = file["model_weights/d1/d1"]
        values = group["kernel:0"][()]
        del group["kernel:0"]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4, 8))
        plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((4, 8))
        made = h5py.h5d.create(group.id, b"kernel:0", h5py.h5t.NATIVE_FLOAT, space, plist)
        made.write_direct_chunk((0, 0), values.tobytes())

    return change


def _tiny_chunks(file):
    group = file["model_weights/d1/d1"]
    del group["kernel:0"]
    group.create_dataset("kernel:0", (4, 8), "f4", chunks=(1, 1), maxshape=(None, None))


def _dataset(**options):
    def change(file):
        group = file["model_weights/d1/d1"]
        del group["kernel:0"]
        group.create_dataset("kernel:0", **options)

    return change


def _bad_sum(file):
    group = file["model_weights/d1/d1"]
    del group["kernel:0"]
    made = group.create_dataset(
        "kernel:0", data=np.ones((4, 8), "f4"), chunks=(4, 8), fletcher32=True
    )
    _, raw = made.id.read_direct_chunk((0, 0))
    made.id.write_direct_chunk((0, 0), bytes(len(raw)))


def layer(kind, name="d1", **fields):
    return {"class_name": kind, "config": {"name": name, **fields}}


def input_shape(shape):
    def made(folder):
        found = config()
        found["config"]["layers"][0]["config"]["batch_input_shape"] = shape
        return found

    return made


def unrolled(folder):
    """A recurrent layer whose 20,000 steps become as many operations."""
    steps = 20_000
    lstm = layer("LSTM", "d1", units=8, unroll=True, batch_input_shape=[None, steps, 1])
    root = {"class_name": "Sequential", "config": {"name": "m", "layers": [lstm, dense("d2", 3)]}}
    weights = {"d1": {"d1/k:0": (1, 32), "d1/r:0": (8, 32), "d1/b:0": (32,)}, "d2": WEIGHTS["d2"]}
    write(folder / "rows.csv", rows(3, steps))
    return "eval", model(folder / "m.h5", root, weights), "--test", folder / "rows.csv"


def orthogonal(folder):
    """Zeros that are small in the file; the initial values that the engine would make are not."""
    size = 6000
    path = folder / "m.h5"
    cfg = config(
        dense("d1", size, kernel_initializer={"class_name": "Orthogonal", "config": {}}),
        dense("d2", size, kernel_initializer={"class_name": "Orthogonal", "config": {}}),
        dense("d3", 3),
    )
    shapes = {"d1": (4, size), "d2": (size, size), "d3": (size, 3)}
    weights = {
        k: {f"{k}/kernel:0": v, f"{k}/bias:0": v[1:]} for k, v in shapes.items() if k != "d2"
    }
    weights = {"d1": weights["d1"], "d2": {}, "d3": weights["d3"]}
    model(path, cfg, weights)
    with h5py.File(path, "a") as file:
        group = file["model_weights/d2"]
        group.attrs["weight_names"] = [b"d2/kernel:0", b"d2/bias:0"]
        group.create_dataset("d2/kernel:0", data=np.zeros((size, size), "f4"), compression="gzip")
        group.create_dataset("d2/bias:0", data=np.zeros(size, "f4"))
    (folder / "rows.csv").write_text(rows())
    return "eval", path, "--test", folder / "rows.csv"


def hostile(*line):
    """A model with a Lambda, for another command."""

    def make(folder):
        good(folder)
        made = config(dense("d1", 8), k2_lambda(folder), dense("d2", 3))
        return _line(line, folder, model(folder / "m.h5", made))

    return make


def checkpoint(data):
    def make(folder):
        path = good(folder)
        place = folder / "kept"
        place.mkdir()
        write(place / "checkpoint.json", data)
        write(place / "step-1.npz", pickled(folder))
        train = ("--train", folder / "rows.csv", "--epochs", "1", "-o", folder / "o.h5")
        return "finetune", path, *train, "--checkpoint", place, "--resume"

    return make


def journal(folder, name, data):
    path = good(folder)
    place = folder / "o.h5.search"
    place.mkdir()
    write(place / name, data)
    more = ("--train", folder / "rows.csv", "--trials", "1")
    return "search", path, *more, "--max-accuracy-drop", "0.5", "-o", folder / "o.h5"


def linked(target, *line):
    """Something in the place of a file is a link."""

    def make(folder):
        path = good(folder)
        (folder / "l.csv").symlink_to(target)
        words = {
            "LINK": folder / "l.csv",
            "MODEL": path,
            "OUT": folder / "o.h5",
            "ROWS": folder / "rows.csv",
        }
        return tuple(words.get(word, word) for word in line)

    return make


def odd_name(name):
    def make(folder):
        good(folder)
        shutil.copyfile(folder / "m.h5", folder / name)
        return "eval", folder / name, "--test", folder / "rows.csv"

    return make


def flag(*words):
    return lambda folder: ("eval", good(folder), "--test", folder / "rows.csv", *words)


def prune(*words):
    return lambda folder: (
        "prune",
        good(folder),
        *(folder / w[1:] if w.startswith("@") else w for w in words),
    )


def pyfunction(name, config_):
    return {"module": "builtins", "class_name": name, "config": config_, "registered_name": name}


CASES: dict[str, tuple[Make, tuple[int, ...]]] = {
    # images
    "image: /etc/passwd": (images(lambda f: "/etc/passwd"), BAD),
    "image: upwards": (images(lambda f: "../../../../../../../etc/passwd"), BAD),
    "image: a pipe": (images(lambda f: pipe(f, "p.png")), BAD),
    "image: a device": (images(lambda f: "/dev/zero"), BAD),
    "image: PostScript by another name": (images(lambda f: write(f / "p.png", EPS)), BAD),
    "image: 4 gigapixels": (images(lambda f: write(f / "p.png", png(65535, 65535))), BAD),
    "image: cut": (images(lambda f: write(f / "p.png", png(64, 64)[:46])), BAD),
    "image: empty": (images(lambda f: write(f / "p.png", b"")), BAD),
    "image: remote": (images(lambda f: "https://example.org/x.png"), BAD),
    "image: a name that writes": (images(lambda f: "x\x1b[31m::error::.png"), BAD),
    "images: a class that writes": (image_folder("b\n::error::x\x1b[31m"), ANY),
    "images: no column of that name": (images(lambda f: "x.png", "--label", "gone"), BAD),
    # arrays and sounds by path
    "array: pickled": (by_path("arrays", "a.npy", pickled), BAD),
    "array: a deep header": (by_path("arrays", "a.npy", header("(" * 9000 + "\n")), BAD),
    "array: a lying length": (
        by_path(
            "arrays",
            "a.npy",
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (1 << 40, 4), }\n"),
        ),
        BAD,
    ),
    "array: below 0": (
        by_path(
            "arrays",
            "a.npy",
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }\n"),
        ),
        BAD,
    ),
    "array: NaN": (by_path("arrays", "a.npy", npy(np.full(4, np.nan, "f4"))), BAD),
    "sound: a lying length": (by_path("audio", "a.wav", wav(1 << 30)), BAD),
    "sound: no channels": (by_path("audio", "a.wav", wav(4, 0, data=bytes(8))), BAD),
    "sound: 65,535 channels": (by_path("audio", "a.wav", wav(4, 65535, data=bytes(8))), BAD),
    "sound: noise": (by_path("audio", "a.wav", b"RIFF\xff\xff\xff\xffWAVEfmt " + bytes(40)), BAD),
    "sound: FLAC that is none": (by_path("audio", "a.flac", b"fLaC" + bytes(400)), BAD),
    # arrays
    "npz: pickled samples": (npz(("x.npy", pickled), ("y.npy", npy(np.zeros(1)))), BAD),
    "npz: pickled labels": (npz(("x.npy", npy(np.ones((1, 4)))), ("y.npy", pickled)), BAD),
    "npz: a member that is no array": (npz(("x.npy", b"text"), ("y.npy", npy(np.zeros(1)))), BAD),
    "npz: upwards": (npz(("../x.npy", npy(np.ones((3, 4)))), ("y.npy", npy(np.zeros(3)))), ANY),
    "npz: 2 GiB of zeros": (
        npz(
            (
                "x.npy",
                lambda f: (
                    header("{'descr': '<f4', 'fortran_order': False, 'shape': (134217728, 4), }\n")
                    + bytes(1 << 31)
                ),
            ),
            ("y.npy", npy(np.zeros(1))),
        ),
        BAD,
    ),
    "npz: 2^60 values": (
        npz(
            (
                "x.npy",
                header(
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (288230376151711744, 4), }\n"
                ),
            ),
            ("y.npy", npy(np.zeros(1))),
        ),
        BAD,
    ),
    "npz: a negative length": (
        npz(
            ("x.npy", header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }\n")),
            ("y.npy", npy(np.zeros(1))),
        ),
        BAD,
    ),
    "npz: code in a header": (
        npz(
            ("x.npy", header("{'descr': __import__('os').mkdir('ran.marker'), 'shape': (1,)}\n")),
        ),
        BAD,
    ),
    "npz: a deep header": (
        npz(
            ("x.npy", header("(" * 9000 + "\n")),
        ),
        BAD,
    ),
    "npz: a long header": (
        npz(
            ("x.npy", header("[" + "1," * 200_000 + "]\n", 2)),
        ),
        BAD,
    ),
    "npz: 60,000 members": (npz(*((f"a{i}.npy", b"") for i in range(60_000))), BAD),
    "npz: names that write": (
        npz((UGLY + ".npy", npy(np.ones((3, 4)))), ("y.npy", npy(np.zeros(3)))),
        ANY,
    ),
    "npy: pickled": (lambda f: ("eval", good(f), "--test", write(f / "t.npy", pickled(f))), BAD),
    "npy: a lying length": (
        lambda f: (
            "eval",
            good(f),
            "--test",
            write(
                f / "t.npy",
                header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4), }\n"),
            ),
        ),
        BAD,
    ),
    "npz: text labels that write": (
        npz(("x.npy", npy(np.ones((2, 4)))), ("y.npy", npy(np.array([UGLY, "b"])))),
        BAD,
    ),
    # Parquet
    "Parquet: noise": (table("t.parquet", b"PAR1" + bytes(range(256)) * 20 + b"PAR1"), BAD),
    "Parquet: a bomb": (
        lambda f: parquet(
            f,
            lambda pa: pa.table(
                {
                    n: pa.DictionaryArray.from_arrays(
                        pa.array(np.zeros(20_000_000, "i1")), pa.array(["x" * 1000])
                    )
                    for n in "abcd"
                }
                | {"label": pa.array(np.zeros(20_000_000, "i1"))}
            ),
        ),
        BAD,
    ),
    "Parquet: lists": (
        lambda f: parquet(
            f, lambda pa: pa.table({n: [[1.0, 2.0]] for n in "abcd"} | {"label": [0]})
        ),
        BAD,
    ),
    "Parquet: a name that writes": (
        lambda f: parquet(
            f, lambda pa: pa.table({UGLY: ["x"], "b": [1], "c": [1], "d": [1], "label": [0]})
        ),
        BAD,
    ),
    "Parquet: two columns of a name": (
        lambda f: parquet(
            f,
            lambda pa: pa.Table.from_arrays(
                [pa.array([1.0])] * 5, names=["a", "a", "c", "d", "label"]
            ),
        ),
        BAD,
    ),
    # compressed tables
    "zstd: 2 GiB of zeros": (table("t.csv.zst", lambda: zstd(bytes(1 << 30))), BAD),
    "zstd: cut": (table("t.csv.zst", lambda: zstd(rows(5000).encode())[:3000]), BAD),
    "zstd: noise": (table("t.csv.zst", b"\x28\xb5\x2f\xfd" + bytes(range(256))), BAD),
    "zstd: a window of 2 GiB": (table("t.csv.zst", b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00"), BAD),
    "gzip: cut": (table("t.csv.gz", lambda: gzip.compress(rows(5000).encode())[:3000]), BAD),
    "gzip: a bad sum": (
        table("t.csv.gz", lambda: gzip.compress(rows().encode())[:-8] + bytes(8)),
        BAD,
    ),
    "gzip: noise behind": (
        table("t.csv.gz", lambda: gzip.compress(rows().encode()) + b"noise" * 9),
        ANY,
    ),
    "gzip: twice": (table("t.csv.gz", lambda: gzip.compress(gzip.compress(rows().encode()))), BAD),
    "gzip: a name with bytes in it": (
        table("t.csv.gz", b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 100_000),
        BAD,
    ),
    # tables
    "CSV: a label that writes": (table("t.csv", rows() + f'\n1,2,3,4,"{UGLY}"\n'), BAD),
    "CSV: a header that writes": (
        table("t.csv", rows().replace("f0", f'"{UGLY}"').replace("0.", "x", 1)),
        BAD,
    ),
    "CSV: label 2^63": (table("t.csv", rows() + "\n1,2,3,4,9223372036854775808\n"), BAD),
    "CSV: label 1e308": (table("t.csv", rows() + "\n1,2,3,4,1e308\n"), BAD),
    "CSV: label nan": (table("t.csv", rows() + "\n1,2,3,4,nan\n"), BAD),
    "CSV: zeros": (table("t.csv", rows() + "\n\0\0\0\0\n"), BAD),
    "CSV: a line of 9 MiB": (table("t.csv", lambda: rows() + "\n" + "1" * (9 << 20)), BAD),
    "CSV: a cell of a million digits": (
        table("t.csv", lambda: rows() + "\n" + "1" * 1_000_000 + ",2,3,4,1\n"),
        BAD,
    ),
    "CSV: quotes without end": (table("t.csv", lambda: rows() + '\n"' + "a,\n" * 500_000), BAD),
    "CSV: a folder": (
        lambda f: ("eval", good(f), "--test", (f / "t.csv").mkdir() or f / "t.csv"),
        BAD,
    ),
    "CSV: a pipe": (lambda f: ("eval", good(f), "--test", pipe(f)), BAD),
    "CSV: a link to /dev/zero": (linked("/dev/zero", "eval", "MODEL", "--test", "LINK"), BAD),
    "CSV: a link to itself": (linked("l.csv", "eval", "MODEL", "--test", "LINK"), BAD),
    "CSV: /proc/self/mem": (linked("/proc/self/mem", "eval", "MODEL", "--test", "LINK"), BAD),
    "CSV: /proc/kmsg": (linked("/proc/kmsg", "eval", "MODEL", "--test", "LINK"), BAD),
    "CSV: /dev/stdin": (linked("/dev/stdin", "eval", "MODEL", "--test", "LINK"), ANY),
    "training data: a pipe": (
        lambda f: ("finetune", good(f), "--train", pipe(f), "-o", f / "o.h5"),
        BAD,
    ),
    "training data: 2 GiB of zeros": (
        lambda f: (
            "finetune",
            good(f),
            "--train",
            write(f / "t.csv.zst", zstd(bytes(1 << 30))),
            "-o",
            f / "o.h5",
        ),
        BAD,
    ),
    # recipes
    "recipe: laughs": (
        recipe(
            "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + "".join(
                f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n"
                for i in range(9)
            )
            + STEP
        ),
        BAD,
    ),
    "recipe: 9,000 steps": (
        recipe("steps:\n" + "  - prune: magnitude\n    sparsity: 0.5\n" * 9000),
        ANY,
    ),
    "recipe: key that writes": (recipe(f"{json.dumps(UGLY)}: 1\n" + STEP), BAD),
    "recipe: value that writes": (recipe(f"steps:\n  - prune: {json.dumps(UGLY)}\n"), BAD),
    "recipe: pattern of stars": (recipe(STEP + "    include: ['" + "*a" * 40 + "b']\n"), BAD),
    "recipe: pattern that is a class": (
        recipe(STEP + "    include: ['[" + "a" * 5000 + "']\n"),
        BAD,
    ),
    "recipe: seed of 30 digits": (recipe(f"seed: {10**30}\n" + STEP), BAD),
    "recipe: 1e308 epochs": (recipe("steps:\n  - finetune:\n    epochs: 1e308\n"), BAD),
    "recipe: gate nan": (recipe("gates: {min_accuracy: .nan}\n" + STEP), BAD),
    "recipe: gate of a list": (recipe("gates: {min_accuracy: [[[1]]]}\n" + STEP), BAD),
    "recipe: a sparsity of 1": (recipe("steps:\n  - prune: magnitude\n    sparsity: 1.0\n"), ANY),
    "recipe: no steps": (recipe("steps: []\n"), ANY),
    "recipe: remote": (lambda f: ("run", good(f), "-r", "gs://b/r.yaml", "-o", f / "o.h5"), BAD),
    "CSV: remote": (lambda f: ("eval", good(f), "--test", "s3://b/rows.csv"), BAD),
    "CSV: /dev/zero": (lambda f: ("eval", good(f), "--test", "/dev/zero"), BAD),
    "recipe: binary": (recipe("steps: !!binary aGVsbG8=\n"), BAD),
    "recipe: timestamp": (recipe("steps: 2001-12-14t21:59:43.10-05:00\n"), BAD),
    "recipe: set": (recipe("steps: !!set {prune: null}\n"), BAD),
    "recipe: key that is a list": (recipe("? [a, b]\n: 1\n" + STEP), BAD),
    "recipe: sexagesimal": (recipe("steps:\n  - quantize: linear\n    bits: 1:30\n"), BAD),
    "recipe: octal": (recipe("steps:\n  - quantize: linear\n    bits: 0o10\n"), BAD),
    "recipe: surrogates": (recipe('steps: "\\ud800"\n'), BAD),
    "recipe: /etc/shadow by a link": (
        linked("/etc/passwd", "run", "MODEL", "-r", "LINK", "-o", "OUT"),
        BAD,
    ),
    "recipe: a pipe": (lambda f: ("run", good(f), "-r", pipe(f), "-o", f / "o.h5"), BAD),
    "recipe: name upwards": (
        lambda f: ("run", good(f), "-r", "../../../etc/passwd", "-o", f / "o.h5"),
        BAD,
    ),
    "recipe: --set with a tag": (
        recipe(STEP, "--set", "steps.0.sparsity=!!python/object/apply:os.mkdir [ran.marker]"),
        BAD,
    ),
    "recipe: --set deep": (recipe(STEP, "--set", "steps.0.sparsity=" + "[" * 5000), BAD),
    "recipe: --set a long path": (recipe(STEP, "--set", ".".join(["a"] * 5000) + "=1"), BAD),
    "recipe: --set an index": (recipe(STEP, "--set", "steps.999999999999.sparsity=1"), BAD),
    "recipe: --set dunder": (recipe(STEP, "--set", "steps.0.__class__=1"), BAD),
    "recipe show: upwards": (lambda f: ("recipe", "show", "../../../../etc/passwd"), BAD),
    "docs: upwards": (lambda f: ("docs", "../../../../etc/passwd"), BAD),
    # reports
    "report: deep": (shown("[" * 100_000), BAD),
    "report: deep objects": (shown('{"a":' * 100_000 + "1" + "}" * 100_000), BAD),
    "report: empty": (shown(""), BAD),
    "report: a number": (shown("1"), BAD),
    "report: wrong types": (
        shown(json.dumps({"schema": "modelcut-report/1", "layers": 7, "sizes": []})),
        BAD,
    ),
    "report: names that write": (shown(json.dumps({"schema": UGLY, UGLY: UGLY})), BAD),
    "report: NaN": (shown('{"schema": NaN}'), BAD),
    "report: bytes": (shown(bytes(range(256)) * 10), BAD),
    "report: 5,000 digits": (shown('{"schema": ' + "9" * 5000 + "}"), BAD),
    "report: a pipe": (lambda f: ("report", "show", pipe(f)), BAD),
    "report: /dev/zero": (lambda f: ("report", "show", "/dev/zero"), BAD),
    "report: a folder": (lambda f: ("report", "show", f), BAD),
    "report: 40 MB": (shown("[" + "0," * 20_000_000 + "0]"), BAD),
    **{
        f"report: ugly, {form or 'tables'}": (told(*([form] if form else [])), (0, 2))
        for form in ("", "--md", "--html", "--json")
    },
    # HDF5
    "h5: float16": (h5(_dataset(data=np.ones((4, 8), "f2"))), ANY),
    "h5: bool": (h5(_dataset(data=np.ones((4, 8), bool))), ANY),
    "h5: long double": (h5(_dataset(data=np.ones((4, 8), np.longdouble))), ANY),
    "h5: two links in a circle": (
        h5(
            lambda f: (
                f["model_weights"].__delitem__("d1"),
                f["model_weights"].__setitem__("d1", h5py.SoftLink("/x")),
                f.__setitem__("x", h5py.SoftLink("/model_weights/d1")),
            )
        ),
        BAD,
    ),
    "h5: a Lambda by name and module": (
        layers(
            lambda f: config(
                dense("d1", 8),
                layer("Lambda", "l", function="run", module="mc_sidecar", function_type="function"),
                dense("d2", 3),
            )
        ),
        (3,),
    ),
    "h5: a model's name that writes": (
        layers(lambda f: {**config(), "config": {**config()["config"], "name": UGLY + HTML}}),
        ANY,
    ),
    "keras: tf_keras, a function beside the model": (tf_keras("run", module="mc_sidecar"), (3,)),
    "keras: tf_keras, Popen": (
        tf_keras("Popen", module="subprocess", arguments={"args": ["touch", "ran.marker"]}),
        (3,),
    ),
    "h5: 1,000 attributes": (h5(_many_attributes), ANY),
    "h5: 5,000 groups": (h5(_many_groups), ANY),
    "h5: an unknown filter": (h5(_filter(32001)), BAD),
    "h5: szip": (h5(_filter(4)), BAD),
    "h5: chunks of one value": (h5(_tiny_chunks), ANY),
    "h5: Fletcher32 that fails": (h5(_bad_sum), BAD),
    "h5: 32 axes": (h5(_dataset(shape=(1,) * 32, dtype="f4")), BAD),
    "h5: an axis of 0": (h5(_dataset(shape=(4, 0), dtype="f4")), BAD),
    "h5: scalar": (h5(_dataset(data=np.float32(1))), BAD),
    "h5: empty": (h5(_dataset(data=h5py.Empty("f4"))), BAD),
    "h5: references": (
        h5(lambda f: _dataset(data=np.array([[f.ref] * 8] * 4, h5py.ref_dtype))(f)),
        BAD,
    ),
    "h5: variable lengths": (
        h5(_dataset(shape=(4, 8), dtype=h5py.vlen_dtype(np.dtype("f4")))),
        BAD,
    ),
    "h5: enumeration": (h5(_dataset(shape=(4, 8), dtype=h5py.enum_dtype({"a": 1}))), ANY),
    "h5: big-endian": (h5(_dataset(data=np.ones((4, 8), ">f4"))), ANY),
    "h5: layer names without end": (
        h5(lambda f: f["model_weights"].attrs.create("layer_names", data=np.zeros(60_000, "S1"))),
        BAD,
    ),
    "h5: a layer name twice": (
        h5(lambda f: f["model_weights"].attrs.__setitem__("layer_names", [b"d1", b"d1"])),
        BAD,
    ),
    "h5: a weight name twice": (
        h5(
            lambda f: f["model_weights/d1"].attrs.__setitem__(
                "weight_names", [b"d1/kernel:0", b"d1/kernel:0"]
            )
        ),
        BAD,
    ),
    "h5: names of no text": (
        h5(lambda f: f["model_weights"].attrs.__setitem__("layer_names", [b"\xff\xfe", b"d2"])),
        BAD,
    ),
    "h5: a reference as configuration": (
        h5(lambda f: f.attrs.__setitem__("model_config", f.ref)),
        BAD,
    ),
    "h5: an empty configuration": (h5(_attribute("model_config", h5py.Empty("S1"))), BAD),
    "h5: a long version": (h5(_attribute("keras_version", "9" * 60_000)), ANY),
    "h5: a version that writes": (h5(_attribute("keras_version", UGLY)), ANY),
    "h5: version -1": (h5(_attribute("keras_version", "-1")), ANY),
    "h5: model_weights is a dataset": (
        h5(lambda f: (f.__delitem__("model_weights"), f.__setitem__("model_weights", 1))),
        BAD,
    ),
    "h5: a .keras by its name": (
        lambda f: (
            (good(f), shutil.copyfile(GOOD, f / "k.h5"))
            and ("prune", f / "k.h5", "--sparsity", "0.5", "-o", f / "o.h5")
        ),
        ANY,
    ),
    "h5: behind a script": (
        lambda f: (
            (
                good(f),
                write(f / "u.h5", b"#!/bin/sh\n".ljust(512, b"\n") + (f / "m.h5").read_bytes()),
            )
            and ("prune", f / "u.h5", "--sparsity", "0.5", "-o", f / "o.h5")
        ),
        ANY,
    ),
    # architectures
    "layer: Merge of Keras 1 with code": (
        layers(
            layer("Merge", "d1", mode="4wEAAAA=", mode_type="lambda", layers=[]), dense("d2", 3)
        ),
        BAD,
    ),
    "layer: a policy with a path": (
        layers(
            dense(
                "d1",
                8,
                dtype={"class_name": "DTypePolicy", "module": "os", "config": {"name": "../../x"}},
            ),
            dense("d2", 3),
        ),
        BAD,
    ),
    "layer: dtype float4096": (layers(dense("d1", 8, dtype="float4096"), dense("d2", 3)), BAD),
    "layer: constraint of a module": (
        layers(
            dense(
                "d1", 8, kernel_constraint={"module": "os", "class_name": "system", "config": {}}
            ),
            dense("d2", 3),
        ),
        BAD,
    ),
    "layer: regularizer with code": (
        layers(lambda f: config(dense("d1", 8, activity_regularizer=k2_lambda(f)), dense("d2", 3))),
        BAD,
    ),
    "layer: registered as os.system": (
        layers({**dense("d1", 8), "registered_name": "os.system", "module": "os"}, dense("d2", 3)),
        BAD,
    ),
    "layer: builtins.eval": (
        layers(dense("d1", 8, activation=pyfunction("eval", "1")), dense("d2", 3)),
        BAD,
    ),
    "layer: an activation that is a list": (
        layers(dense("d1", 8, activation=["relu"]), dense("d2", 3)),
        BAD,
    ),
    "layer: an activation with dots": (
        layers(dense("d1", 8, activation="os.system"), dense("d2", 3)),
        BAD,
    ),
    "layer: units true": (layers(dense("d1", True), dense("d2", 3)), BAD),
    "layer: units a text": (layers(dense("d1", "8"), dense("d2", 3)), BAD),
    "layer: units -8": (layers(dense("d1", -8), dense("d2", 3)), BAD),
    "layer: use_bias a list": (layers(dense("d1", 8, use_bias=[]), dense("d2", 3)), BAD),
    "layer: a name that is a number": (
        layers({"class_name": "Dense", "config": {"name": 7, "units": 8}}, dense("d2", 3)),
        BAD,
    ),
    "layer: a name of 60,000 letters": (layers(dense("x" * 60_000, 8), dense("d2", 3)), BAD),
    "layer: a reshape of 2^60": (
        layers(
            dense("d1", 8), layer("Reshape", "r", target_shape=[1 << 30, 1 << 30]), dense("d2", 3)
        ),
        BAD,
    ),
    "layer: repeated 10^9 times": (
        layers(dense("d1", 8), layer("RepeatVector", "r", n=10**9), dense("d2", 3)),
        BAD,
    ),
    "layer: padded by 10^9": (
        layers(
            dense("d1", 8),
            layer("Reshape", "r", target_shape=[8, 1]),
            layer("ZeroPadding1D", "z", padding=10**9),
            layer("Flatten", "f"),
            dense("d2", 3),
        ),
        BAD,
    ),
    "layer: strides of 0": (
        layers(
            layer(
                "Conv1D",
                "d1",
                filters=8,
                kernel_size=[1],
                strides=[0],
                batch_input_shape=[None, 4, 4],
            ),
            dense("d2", 3),
        ),
        BAD,
    ),
    "layer: a kernel of 10^9": (
        layers(layer("Conv2D", "d1", filters=8, kernel_size=[10**9, 10**9]), dense("d2", 3)),
        BAD,
    ),
    "layer: groups of 0": (
        layers(layer("Conv2D", "d1", filters=8, kernel_size=[1, 1], groups=0), dense("d2", 3)),
        BAD,
    ),
    "layer: dropout of 7": (
        layers(dense("d1", 8), layer("Dropout", "x", rate=7), dense("d2", 3)),
        BAD,
    ),
    "layer: unrolled 20,000 times": (unrolled, BAD),
    "layer: wrapped 300 times": (
        lambda f: layers(lambda _: config(dense("d1", 8), _wrapped(300), dense("d2", 3)))(f),
        BAD,
    ),
    "layer: initial values that take minutes": (orthogonal, ANY),
    "input: negative": (layers(input_shape([None, -4])), BAD),
    "input: 10^12": (layers(input_shape([None, 10**12])), BAD),
    "input: text": (layers(input_shape([None, "4"])), BAD),
    "input: deep": (layers(input_shape([None, [[4]]])), BAD),
    "input: true": (layers(input_shape([None, True])), BAD),
    "input: an object": (layers(input_shape({"4": 4})), BAD),
    "input: 70 axes": (layers(input_shape([None] + [1] * 70)), BAD),
    "compiled: an optimizer of a module": (
        layers(
            dense("d1", 8),
            dense("d2", 3),
            training={
                "loss": "mse",
                "optimizer_config": {"module": "os", "class_name": "system", "config": {}},
            },
        ),
        ANY,
    ),
    "compiled: a metric with code": (
        layers(
            lambda f: config(),
            training={
                "loss": "mse",
                "metrics": [{"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}],
            },
        ),
        BAD,
    ),
    "compiled: a loss that is a list": (
        layers(lambda f: config(), training={"loss": [[["mse"]]]}),
        ANY,
    ),
    "compiled: deep": (h5(_attribute("training_config", "[" * 50_000)), BAD),
    # .keras
    "keras: metadata that is a list": (
        keras(lambda p: p.__setitem__("metadata.json", b"[1]")),
        BAD,
    ),
    "keras: metadata deep": (keras(lambda p: p.__setitem__("metadata.json", b"[" * 50_000)), BAD),
    "keras: weights that are text": (
        keras(lambda p: p.__setitem__("model.weights.h5", b"text")),
        BAD,
    ),
    "keras: weights that are a pickle": (
        keras(lambda p: p.__setitem__("model.weights.npz", b"x")),
        ANY,
    ),
    "keras: configuration in UTF-16": (
        keras(lambda p: p.__setitem__("config.json", p["config.json"].decode().encode("utf-16"))),
        BAD,
    ),
    "keras: a class of __main__": (
        keras(
            lambda p: p.__setitem__(
                "config.json", p["config.json"].replace(b'"keras.layers"', b'"__main__"')
            )
        ),
        BAD,
    ),
    "keras: modules upwards": (
        keras(
            lambda p: p.__setitem__(
                "config.json", p["config.json"].replace(b'"keras.layers"', b'"keras.layers..os"')
            )
        ),
        BAD,
    ),
    "keras: built with 10^12": (
        keras(
            lambda p: p.__setitem__(
                "config.json",
                p["config.json"].replace(
                    b'"input_shape": [null, 8]', b'"input_shape": [null, 1000000000000]'
                ),
            )
        ),
        ANY,
    ),
    # commands on a model with code
    **{
        f"code: {line[0]}": (hostile(*line), codes)
        for line, codes in (
            (("inspect", "MODEL"), (0,)),
            (("scan", "MODEL"), (3,)),
            (("verify", "MODEL"), (0, 2)),
            (("pack", "MODEL", "-o", "OUT.mcut"), (0, 2)),
            (("export", "MODEL", "-o", "o.tflite"), (3,)),
            (("finetune", "MODEL", "--train", "ROWS", "-o", "OUT"), (3,)),
            (("search", "MODEL", "--train", "ROWS", "--min-accuracy", "0.1", "-o", "OUT"), (3,)),
            (("sensitivity", "MODEL", "--test", "ROWS"), (2, 3)),
            (("compare", "MODEL", "MODEL", "--test", "ROWS"), (3,)),
            (("recipe", "new", "MODEL"), (0, 2, 3)),
            (("factorize", "MODEL", "--rank", "1", "-o", "OUT"), (0, 3)),
        )
    },
    # outputs and names
    "output: a pipe": (
        lambda f: ("prune", good(f), "--sparsity", "0.5", "-o", pipe(f, "o.h5")),
        BAD,
    ),
    "output: a device": (prune("--sparsity", "0.5", "-o", "/dev/null"), BAD),
    "output: a dangling link": (
        lambda f: (
            (good(f), (f / "o.h5").symlink_to(f / "gone" / "x.h5"))
            and ("prune", f / "m.h5", "--sparsity", "0.5", "-o", f / "o.h5")
        ),
        ANY,
    ),
    "output: a link to a table": (
        lambda f: (
            (good(f), (f / "o.h5").symlink_to(f / "rows.csv"))
            and ("eval", f / "m.h5", "--test", f / "rows.csv", "--summary", f / "o.h5")
        ),
        BAD,
    ),
    "output: a name that writes": (
        prune("--sparsity", "0.5", "-o", "@o\n::error::x\x1b[31m.h5"),
        ANY,
    ),
    "output: 300 letters": (prune("--sparsity", "0.5", "-o", "@" + "o" * 300 + ".h5"), BAD),
    "output: a folder that is a file": (prune("--sparsity", "0.5", "-o", "@rows.csv/o.h5"), BAD),
    "output: below /proc": (prune("--sparsity", "0.5", "-o", "/proc/self/o.h5"), BAD),
    "summary: a pipe": (
        lambda f: ("eval", good(f), "--test", f / "rows.csv", "--summary", pipe(f)),
        BAD,
    ),
    "model: a name that writes": (odd_name("n\n::error::x\x1b[31m.h5"), ANY),
    "model: a name like a flag": (odd_name("--trust.h5"), ANY),
    "model: a name with a wildcard": (odd_name("*[a]?.h5"), ANY),
    "model: gone, with a name that writes": (
        lambda f: ("inspect", f / "x\n::error::y\x1b[31m.h5"),
        BAD,
    ),
    # what was kept
    "checkpoint: noise": (checkpoint("noise"), BAD),
    "checkpoint: deep": (checkpoint("[" * 100_000), BAD),
    "checkpoint: a list": (checkpoint('{"schema": [], "of": [1]}'), BAD),
    "checkpoint: a file": (
        lambda f: (
            "finetune",
            good(f),
            "--train",
            f / "rows.csv",
            "-o",
            f / "o.h5",
            "--checkpoint",
            f / "rows.csv",
        ),
        BAD,
    ),
    "checkpoint: below a link": (
        lambda f: (
            (good(f), (f / "k").symlink_to("/proc"))
            and (
                "finetune",
                f / "m.h5",
                "--train",
                f / "rows.csv",
                "-o",
                f / "o.h5",
                "--checkpoint",
                f / "k" / "new",
            )
        ),
        BAD,
    ),
    "journal: noise": (lambda f: journal(f, "search.json", "noise"), BAD),
    "journal: deep": (lambda f: journal(f, "search.json", "[" * 100_000), BAD),
    "journal: other files": (lambda f: journal(f, "x", "noise"), BAD),
    # options
    "option: signature that writes": (flag("--signature", UGLY), BAD),
    "option: label deep": (flag("--label", "[" * 5000), BAD),
    "option: classes deep": (flag("--classes", "{" * 5000), BAD),
    "option: inputs that tag": (
        flag("--inputs", "!!python/object/apply:os.mkdir [ran.marker]"),
        BAD,
    ),
    "option: memory of 0": (flag("--max-memory", "0"), BAD),
    "option: memory below 0": (flag("--max-memory", "-5GB"), BAD),
    "option: memory of 1e30": (flag("--max-memory", "1e30GB"), ANY),
    "option: memory nan": (flag("--max-memory", "nan"), BAD),
    "option: limit -1": (flag("--limit", "-1"), BAD),
    "option: limit of 30 digits": (flag("--limit", "9" * 30), ANY),
    "option: scale nan": (flag("--scale", "nan"), BAD),
    "option: scale 1/0": (flag("--scale", "1/0"), BAD),
    "option: delimiter of a newline": (flag("--delimiter", "\n"), BAD),
    "option: delimiter of two": (flag("--delimiter", "ab"), BAD),
    "option: sparsity nan": (prune("--sparsity", "nan", "-o", "@o.h5"), BAD),
    "option: include of stars": (
        prune("--sparsity", "0.5", "-o", "@o.h5", "--include", "*a" * 40 + "b"),
        BAD,
    ),
    "option: custom objects of a folder": (
        lambda f: ("eval", good(f), "--test", f / "rows.csv", "--custom-objects", f),
        BAD,
    ),
    "option: custom objects that are gone": (flag("--custom-objects", "../../x.py"), BAD),
}


def _wrapped(depth):
    made = dense("w", 8)
    for level in range(depth):
        made = layer("TimeDistributed", f"t{level}", layer=made)
    return made


def cases(folder: Path, wanted: Sequence[str] = ()) -> Iterator[Case]:
    """Writes the inputs, each into a folder of its own; those whose names hold a wanted word."""
    import oddities  # which is made of what stands here

    for number, (name, (make, codes)) in enumerate({**CASES, **oddities.CASES}.items()):
        if wanted and not any(word in name for word in wanted):
            continue
        place = folder / f"invented-{number}"
        place.mkdir()
        line = make(place)
        yield Case(name, tuple(map(str, line)), codes)
