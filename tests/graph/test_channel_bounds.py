"""Networks that would take forever to follow, or more memory than there is, are not followed."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest
from test_groups import layer

from modelcut.graph import call_counts, channel_walk
from modelcut.graph.architecture import Architecture
from modelcut.graph.groups import dependencies, trace
from modelcut.steps.prune import _readers


def model(layers, outputs, name="m"):
    config = {
        "name": name,
        "layers": layers,
        "input_layers": [["x", 0, 0]],
        "output_layers": [out if isinstance(out, list) else [out, 0, 0] for out in outputs],
    }
    return {"class_name": "Functional", "name": name, "config": config}


def start(*shape):
    return layer("InputLayer", "x", batch_input_shape=[None, *(shape or (3,))])


def diamonds(depth):
    """Submodels of which each calls the one inside of it twice: 2 ** depth calls of one layer."""
    inner = model([start(), layer("Dense", "d", ["x"], units=3)], ["d"], "s0")
    for number in range(1, depth):
        inner["inbound_nodes"] = [[["x", 0, 0, {}]]] * 2
        name = inner["name"]
        join = layer("Add", "a")
        join["inbound_nodes"] = [[[name, 1, 0, {}], [name, 2, 0, {}]]]
        inner = model([start(), inner, join], ["a"], f"s{number}")
    return inner


def outputs(count):
    """A submodel of many outputs, called as often."""
    inner = model([start(), layer("Dense", "d", ["x"], units=3)], ["d"] * count, "s")
    inner["inbound_nodes"] = [[["x", 0, 0, {}]]] * count
    return model([start(), inner], [["s", n + 1, n] for n in range(count)])


def calls(count):
    again = layer("Dense", "d", units=3)
    again["inbound_nodes"] = [[["x", 0, 0, {}]], *([["d", n, 0, {}]] for n in range(count - 1))]
    return model([start(), again], [["d", count - 1, 0]])


def doubled(count):
    """Concatenated with itself, again and again."""
    names = ["x", *(f"c{n}" for n in range(count))]
    layers = [layer("Concatenate", new, [old, old]) for old, new in pairwise(names)]
    return model([start(), *layers], names[-1:])


def flat(count):
    """Four million values of a sample, looked at by many layers."""
    layers = [layer("Lambda", f"l{n}", ["f"]) for n in range(count)]
    return model(
        [start(2048, 2048), layer("Flatten", "f", ["x"]), *layers], [e["name"] for e in layers]
    )


@pytest.mark.parametrize(
    ("root", "followed"),
    [
        (diamonds(60), False),
        (diamonds(6), True),
        (outputs(500), False),
        (calls(1001), False),
        (doubled(40), True),
        (flat(500), False),
    ],
    ids="diamonds few outputs calls doubled flat".split(),
)
def test_work_is_bounded(root, followed, monkeypatch):
    monkeypatch.setattr(channel_walk, "MAX_CALLS", 1000)
    architecture = Architecture.parse(json.dumps(root), "2.4.0", "test")
    begun = time.process_time()
    told = dependencies(architecture, {("s",): {"kernel": (3, 3)}})
    assert told.groups == ()
    assert (told.kept == {("s",): "the network has too many calls of layers"}) is not followed
    assert (trace(architecture) is not None) is followed
    if not followed:
        assert _readers.readers(architecture) == {}
    assert time.process_time() - begun < 10


def test_the_number_of_calls_is_told_without_following_any():
    # An input, a layer and an output; then an input, both calls, a sum and an output.
    assert [call_counts.total(diamonds(depth)) for depth in (1, 2, 3)] == [3, 9, 21]
    assert call_counts.total(diamonds(200)) > 2**200
