"""Writes hostile and broken inputs, each with the command that gets it and what is expected.

The tests beside this file hold each kind against its own words; here they are all together, for
`measure.py`, which runs them as processes, and for what must hold of all of them.
"""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from test_bombs import diamond
from test_csv import REFUSED as BAD_TABLES
from test_hdf5 import BROKEN_CONFIGS, CHANGES, EXECUTES, config, dense, k3_lambda, model
from test_keras_zip import GOOD, RUNS, members, rezip, with_config
from test_recipes import REFUSED as BAD_RECIPES
from test_saved_model import in_main_graph, node, saved_model
from toys import MODELS


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        name: kind and name.
        arguments: of the command line.
        codes: exit codes that are right.
        model: the model among the arguments, where that is what is hostile.
    """

    name: str
    arguments: tuple[str, ...]
    codes: tuple[int, ...]
    model: Path | None = None


def cases(folder: Path, kinds: str = "") -> Iterator[Case]:
    """Writes inputs, each into a folder of its own.

    Args:
        folder: an empty folder.
        kinds: what the kinds of models must end in; "" for all, with tables and recipes.
    """
    rows = folder / "rows.csv"
    rng = np.random.default_rng(0)
    lines = [",".join(f"{v:.3f}" for v in rng.normal(size=4)) + f",{i % 3}" for i in range(30)]
    rows.write_text("a,b,c,d,label\n" + "\n".join(lines))
    for kind, codes, name, make in _models():
        if not kind.endswith(kinds):
            continue
        place = folder / f"{kind}-{name}".replace(" ", "_").replace("/", "_")
        place.mkdir()
        path = make(place)
        yield Case(f"{kind}: {name}", ("eval", str(path), "--test", str(rows)), codes, path)
    if kinds:
        return
    good = str(model(folder / "good.h5"))
    for name, (text, _) in BAD_TABLES.items():
        path = folder / f"{name.replace(' ', '_')}.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        yield Case(f"CSV: {name}", ("eval", good, "--test", str(path)), (2,))
    for name, (text, _) in BAD_RECIPES.items():
        path = folder / f"{name.replace(' ', '_')}.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        call = ("run", good, "--recipe", str(path), "-o", str(folder / "never.h5"))
        yield Case(f"recipe: {name}", call, (2,))


def _models():
    """(kind, right exit codes, name, how it is made in an empty folder)."""
    for name, make in EXECUTES.items():
        yield "h5 runs", (3,), name, lambda p, make=make: model(p / "m.h5", make(p))
    yield "h5 runs", (3,), "loss", lambda p: model(p / "m.h5", training={"loss": k3_lambda(p)})
    for name, (make, _) in BROKEN_CONFIGS.items():
        yield "h5 config", (2, 3), name, lambda p, make=make: model(p / "m.h5", make(p))
    for name, change in CHANGES.items():
        yield "h5 content", (2, 3), name, lambda p, change=change: _changed(p, change)
    for share in (10, 50, 75, 90):
        yield "h5 cut", (2,), f"{share} %", lambda p, share=share: _cut(p, "m.h5", share)
        yield "keras cut", (2,), f"{share} %", lambda p, share=share: _cut(p, "m.keras", share)
    for name, raw in {"text": b"no model\n" * 50, "random": rng_bytes(), "empty": b""}.items():
        yield "h5", (2,), name, lambda p, raw=raw: _bytes(p / "m.h5", raw)
    for name in ("external link", "external values"):
        yield "h5 reads", (2, 3), name, lambda p, name=name: _outside(p, name)
    for name, change in RUNS.items():
        yield "keras runs", (3,), name, lambda p, change=change: with_config(p / "m.keras", change)
    for name in ("../up.marker", "/tmp/up.marker", "..\\up.marker"):
        yield "keras climbs", (2, 3), name, lambda p, name=name: _with_member(p, name)
    yield "keras", (2,), "two configurations", lambda p: _with_member(p, "config.json")
    yield "bomb", (2,), "submodels 30", lambda p: diamond(p / "m.h5", 30)
    yield "bomb", (2,), "submodels 60", lambda p: diamond(p / "m.h5", 60)
    yield "bomb", (2,), "members", lambda p: _many(p)
    yield "bomb", (2,), "configuration", lambda p: _bomb(p)
    yield "bomb", (2,), "numbers in a configuration", lambda p: _numbers(p)
    for op in ("WriteFile", "ReadFile", "PyFunc", "EagerPyFunc", "Unheard"):
        yield "SavedModel runs", (3,), op, lambda p, op=op: _operation(p, op)
    for name in ("saved_model.pb", "variables/variables.index"):
        yield "SavedModel lacks", (2,), name, lambda p, name=name: _without(p, name)


def rng_bytes():
    """Noise behind HDF5's signature."""
    return b"\x89HDF\r\n\x1a\n" + np.random.default_rng(1).bytes(65536)


def _changed(folder, change):
    path = model(folder / "m.h5")
    with h5py.File(path, "a") as file:
        change(file, file["model_weights"])
    return path


def _cut(folder, name, share):
    path = folder / name
    shutil.copyfile(GOOD, path) if name.endswith("keras") else model(path)
    raw = path.read_bytes()
    return _bytes(path, raw[: len(raw) * share // 100])


def _bytes(path, raw):
    path.write_bytes(raw)
    return path


def _outside(folder, name):
    (folder / "secret.bin").write_bytes(b"s" * 128)
    path = model(folder / "m.h5")
    with h5py.File(path, "a") as file:
        group = file["model_weights/d1"]
        del group["d1/kernel:0"]
        if name == "external link":
            group["d1/kernel:0"] = h5py.ExternalLink("secret.bin", "/")
        else:
            external = [("secret.bin", 0, 128)]
            group.create_dataset("d1/kernel:0", (4, 8), "f4", external=external)
    return path


def _with_member(folder, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        return rezip(folder / "m.keras", [*members().items(), (name, b"{}")])


def _many(folder):
    extra = [(f"assets/{number}", b"") for number in range(20_001)]
    return rezip(folder / "m.keras", [*members().items(), *extra])


def _without_config(path):
    return rezip(path, [(n, d) for n, d in members().items() if n != "config.json"])


def _bomb(folder):
    path = _without_config(folder / "m.keras")
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("config.json", "w", force_zip64=True) as member,
    ):
        for _ in range(400):
            member.write(b" " * (1 << 20))
    return path


def _numbers(folder):
    layers = config(dense("d1", 8), dense("d2", 3))
    layers["config"]["layers"][0]["config"]["junk"] = [0] * 1_000_001
    path = _without_config(folder / "m.keras")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("config.json", json.dumps(layers))
    return path


def _operation(folder, op):
    return in_main_graph(saved_model("module", folder), node("evil", op))


def _without(folder, name):
    path = saved_model("keras3", folder)
    (path / name).unlink()
    return path


CONTROLS = [MODELS / "keras3_cnn.h5", MODELS / "tf_keras_cnn.keras", GOOD]
"""Models in which nothing is to be found."""
