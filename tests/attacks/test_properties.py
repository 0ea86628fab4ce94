"""Any recipe, attribute and topology: modelcut's own error in one line, or a model."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import h5py
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_hdf5 import model
from toys import dense

from modelcut import scan
from modelcut.errors import ModelcutError
from modelcut.formats import registry
from modelcut.recipe import recipe
from modelcut.recipe.yaml_text import loads

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))

WORDS = st.sampled_from(
    "version steps prune quantize magnitude linear sparsity bits include overrides gates data seed"
    " budget class_name config name layers Sequential Functional Dense units 0.5 8".split()
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


def _own_error(error, unknown="Traceback"):
    assert "\n" not in str(error).strip(), error
    assert unknown not in str(error), error


@QUICK
@given(st.dictionaries(WORDS, PLAIN, max_size=5))
def test_recipes(data):
    try:
        recipe.parse(loads(json.dumps(data), "r"))
    except ModelcutError as error:
        _own_error(error)


@QUICK
@given(st.text(max_size=200))
def test_text_as_a_recipe(text):
    try:
        recipe.parse(loads(text, "r"))
    except ModelcutError as error:
        _own_error(error)


ATTRIBUTES = st.one_of(
    st.text(max_size=20).filter(lambda t: "\0" not in t),
    st.binary(min_size=1, max_size=20).filter(lambda b: b"\0" not in b),
    st.integers(-(2**31), 2**31 - 1),
    st.floats(),
    st.lists(st.integers(0, 9), max_size=3),
    st.lists(st.binary(min_size=1, max_size=9).filter(lambda b: b"\0" not in b), min_size=1),
)


@QUICK
@given(
    st.sampled_from(["", "model_weights", "model_weights/d1"]),
    st.sampled_from(
        "model_config keras_version backend training_config layer_names weight_names "
        "modelcut layer_names0".split()
    ),
    ATTRIBUTES,
)
def test_attributes(place, name, value):
    with tempfile.TemporaryDirectory() as folder:
        path = model(Path(folder) / "m.h5")
        with h5py.File(path, "a") as file:
            (file[place] if place else file).attrs[name] = value
        _look(path)


@st.composite
def topologies(draw):
    """A functional model of a few layers, wired as it comes."""
    names = draw(st.lists(st.sampled_from("abcdx"), min_size=1, max_size=5))
    reference = st.tuples(st.sampled_from("abcdxz"), st.integers(-1, 2), st.integers(-1, 1))
    layers = [
        {"class_name": "InputLayer", "name": "x", "inbound_nodes": [],
         "config": {"name": "x", "batch_input_shape": [None, 4]}}
    ]  # fmt: skip
    for name in names:
        calls = draw(st.lists(st.lists(reference, max_size=3), max_size=3))
        nodes = [[[*one, {}] for one in call] for call in calls]
        entry = {**dense(name, draw(st.integers(0, 8))), "name": name, "inbound_nodes": nodes}
        if draw(st.booleans()):
            entry["class_name"] = draw(st.sampled_from(["Add", "Concatenate", "Flatten", "LSTM"]))
        layers.append(entry)
    ends = draw(st.lists(reference, max_size=2))
    graph = {"name": "m", "layers": layers, "output_layers": [list(end) for end in ends]}
    graph["input_layers"] = [["x", 0, 0]]
    return {"class_name": "Functional", "config": graph}


@QUICK
@given(topologies())
def test_topologies(config):
    with tempfile.TemporaryDirectory() as folder:
        _look(model(Path(folder) / "m.h5", config))
        _look(model(Path(folder) / "n.h5", config, {}))


def _look(path):
    try:
        with registry.open_model(path) as found:
            list(found.tensors)
        scan(path)
    except ModelcutError as error:
        _own_error(error, unknown="of a kind that modelcut does not know")
