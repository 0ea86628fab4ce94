"""Damages files, and tells what a reader makes of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import Counter

import numpy as np

from modelcut import safety
from modelcut.errors import ModelcutError
from modelcut.formats import registry
from modelcut.safety import check_path


def values_in(path):
    """The digests of a model's values, without their names, which damage may change as well."""
    check_path(path)
    with registry.open_model(path) as model:
        return sorted({_digest(t.source.read()) for t in model.tensors})


def _digest(values):
    head = f"{values.dtype.name}{values.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(values).tobytes()).hexdigest()


def outcome(path, good):
    """refused, same, or changed; anything else that happens is the reader's fault."""
    try:
        found = values_in(path)
    except (ModelcutError, OSError):
        return "refused"
    return "same" if found == good else "changed"


def flips(raw, count, seed):
    """The content with one bit flipped each time."""
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, len(raw) * 8, count).tolist():
        made = bytearray(raw)
        made[place // 8] ^= 1 << place % 8
        yield bytes(made)


def overwrites(raw, count, seed):
    """The content with up to 64 bytes overwritten by random ones, somewhere."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        size = int(rng.integers(1, 65))
        start = int(rng.integers(0, max(1, len(raw) - size)))
        made = bytearray(raw)
        made[start : start + size] = rng.bytes(size)
        yield bytes(made)


def cuts(raw, step=1):
    """The content cut at each percent."""
    for percent in range(step, 100, step):
        yield raw[: len(raw) * percent // 100]


def tally(source, folder, ways):
    """How the readings of many damaged copies of one file of a model ended.

    Args:
        source: the model, a file or a folder.
        folder: an empty folder to work in.
        ways: gives the damaged contents, from the content.
    """
    copy = folder / source.name
    good = values_in(source)
    found = Counter()
    parts = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    if source.is_dir():
        shutil.copytree(source, copy)
    for part in parts:
        raw, place = part.read_bytes(), copy / part.relative_to(source) if source.is_dir() else copy
        if not raw:
            continue
        for data in ways(raw):
            place.write_bytes(data)
            found[outcome(copy, good)] += 1
        place.write_bytes(raw)
    return found


def in_child(work):
    """Does the work in a child process: a crash of C code is a crash of the child alone."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        safety.watch(True)  # this process is: none of its own for each file
        code = 1
        try:
            os.write(write, json.dumps(work()).encode())
            code = 0
        except BaseException:  # noqa: BLE001 - told by the code
            import traceback

            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child ended with {status}"
    return json.loads(said)
