"""Patterns on layers; the oracle is Python's own fnmatch."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelcut.formats import registry
from modelcut.steps import find, select
from modelcut.steps.base import Context

MODELS = Path(__file__).parents[1] / "data" / "models"
TENSORS = tuple(SimpleNamespace(role=role, kind=role) for role in ("kernel", "bias"))


def layer(name, kind="Dense"):
    return SimpleNamespace(name=name, path=tuple(name.split("/")), class_name=kind, tensors=TENSORS)


NAMES = ("dense", "block/dense", "block/conv_1", "conv_10", "a[1]", "class:Dense", "x?")


@pytest.mark.parametrize("pattern", ["dense", "*", "conv_?", "con*", "[bc]*", "block/*", "a[[]1]"])
def test_a_glob_is_on_the_whole_name_or_its_last_part(pattern):
    for name in NAMES:
        wanted = fnmatchcase(name, pattern) or fnmatchcase(name.split("/")[-1], pattern)
        assert select.matches(pattern, layer(name)) is wanted, name


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("path:block/*", {"block/dense", "block/conv_1"}),
        ("path:dense", {"dense"}),
        ("path:dense?", {"dense"}),  # at the end of one with a prefix it says "may match nothing"
        ("class:De*", set(NAMES)),
        ("class:Conv2D?", set()),
        ("role:kern*", set(NAMES)),
        ("role:gamma", set()),
        ("x?", {"x?"}),
    ],
)
def test_prefixes(pattern, names):
    assert {name for name in NAMES if select.matches(pattern, layer(name))} == names
    wanted = pattern.startswith("role:kern")
    assert select.matches(pattern, layer("y"), TENSORS[0]) in (wanted, pattern == "class:De*")
    assert not select.matches("role:kern*", layer("y"), TENSORS[1])


def test_many_patterns_are_compiled_once():
    patterns = [f"path:*{number}*a?" for number in range(select.MOST_PATTERNS)]
    layers = [layer(f"layer_{number}") for number in range(200)]
    began = time.process_time()
    assert not any(select.matches(pattern, one) for one in layers for pattern in patterns)
    assert time.process_time() - began < 5  # 20 s where each is compiled anew


@pytest.mark.parametrize(
    ("family", "method", "fields", "taken"),
    [
        ("quantize", "linear", {"bits": 8}, True),
        ("quantize", "linear", {"bits": 8, "exclude": ["role:embedding"]}, False),
        ("quantize", "cluster", {"values": 4}, True),
        ("quantize", "float16", {}, True),
        ("quantize", "bfloat16", {}, True),
        ("quantize", "binary", {}, False),
        ("quantize", "ternary", {}, False),
        ("prune", "magnitude", {"sparsity": 0.5}, False),
        ("prune", "magnitude", {"sparsity": 0.5, "include": ["role:embedding"]}, True),
    ],
)
def test_embeddings_are_stored_in_fewer_bits_and_left_alone_by_others(
    family, method, fields, taken
):
    with registry.open_model(MODELS / "keras3_text.keras") as model:
        made = find(family, method)(**fields).apply(model, Context()).model
        (found,) = [tensor for tensor in made.tensors if tensor.kind == "embedding"]
        (before,) = [tensor for tensor in model.tensors if tensor.kind == "embedding"]
    assert (found is not before) == taken
