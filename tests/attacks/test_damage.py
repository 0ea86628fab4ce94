"""Flipped bits, cuts and overwritten bytes: one line or the right values, in every format.

The slow forms are those whose figures stand in `modelcut docs security`.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
from damage import cuts, flips, in_child, overwrites, tally
from test_saved_model import saved_model
from toys import MODELS

import modelcut

TFLITE = sorted((Path(__file__).parents[1] / "data" / "tflite").glob("*.tflite"))[0]
FORMATS = ["h5", "keras", "saved_model", "mcut", "tar.gz", "zip", "tflite"]
CHECKED = {"keras", "saved_model", "mcut", "tar.gz", "zip"}
"""Formats with checksums: what is accepted has the values that were written."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    shutil.copyfile(MODELS / "keras3_sequential.h5", folder / "m.h5")
    shutil.copyfile(MODELS / "keras3_sequential.keras", folder / "m.keras")
    modelcut.pack(folder / "m.h5", folder / "m.mcut")
    model = saved_model("keras3", folder)
    shutil.copyfile(TFLITE, folder / "m.tflite")
    import tarfile

    with tarfile.open(folder / "m.tar.gz", "w:gz") as archive:
        archive.add(model, "m")
    with zipfile.ZipFile(folder / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for part in sorted(model.rglob("*")):
            if part.is_file():
                archive.write(part, f"m/{part.relative_to(model)}")
    return {"saved_model": model, **{k: folder / f"m.{k}" for k in FORMATS if k != "saved_model"}}


def _check(form, found, least):
    assert sum(found.values()) >= least, found
    assert found.get("refused", 0), found
    if form in CHECKED:
        assert found.get("changed", 0) == 0, found


@pytest.mark.parametrize("form", FORMATS)
def test_damage(form, sources, tmp_path):
    def ways(raw):
        yield from flips(raw, 12, 0)
        yield from overwrites(raw, 6, 0)
        yield from cuts(raw, 13)

    found = in_child(lambda: dict(tally(sources[form], tmp_path, ways)))
    _check(form, found, 25)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["flips", "cuts", "overwrites"])
def test_much_damage(kind, form, sources, tmp_path, capsys):
    ways = {
        "flips": lambda raw: flips(raw, 1000, 1),
        "cuts": cuts,
        "overwrites": lambda raw: overwrites(raw, 200, 1),
    }[kind]
    found = in_child(lambda: dict(tally(sources[form], tmp_path, ways)))
    with capsys.disabled():
        print(f"\n{form} {kind}: {found}")
    if kind == "cuts" and form == "saved_model":
        assert found.get("changed", 0) == 0, found
    else:
        _check(form, found, 99)
