"""Former names of methods and fields: old recipes, commands and calls mean what they meant."""

from __future__ import annotations

import pytest
from toys import MODELS

from modelcut import steps
from modelcut.cli import flags
from modelcut.errors import RecipeError
from modelcut.recipe.recipe import parse, schema
from modelcut.recipe.yaml_text import loads

CNN = MODELS / "keras3_cnn.keras"
OLD = [
    (family, old, new) for family in steps.families() for old, new in steps.aliases(family).items()
]
FIELDS = [
    (steps.find(family, method), old, new)
    for family in steps.families()
    for method in steps.methods(family)
    for old, new in steps.find(family, method).aliases.items()
]


def test_there_are_some():
    assert ("quantize", "huffman", "cluster") in OLD
    assert {(cls.method, old, new) for cls, old, new in FIELDS} == {
        (method, "batch", "batch_size") for method in ("fisher", "gradient", "snip", "taylor")
    }


@pytest.mark.parametrize(("family", "old", "new"), OLD)
def test_a_former_method_is_that_of_today(family, old, new):
    assert old not in steps.methods(family)
    assert steps.find(family, old) is steps.find(family, new)
    now = parse(loads(f"steps: [{{{family}: {new}}}]", "r"))
    for text in (f"{{{family}: {old}}}", f"{{{family}: {{method: {old}}}}}"):
        assert parse(loads(f"steps: [{text}]", "r")) == now
    assert now.to_dict()["steps"] == [{family: new}]


@pytest.mark.parametrize(("cls", "old", "new"), FIELDS)
def test_a_former_field_is_that_of_today(cls, old, new):
    value = cls.model_fields[new].default + 1
    step = cls(sparsity=0.5, **{old: value})
    assert step == cls(sparsity=0.5, **{new: value})
    assert old not in step.model_dump(exclude_unset=True)
    with pytest.raises(ValueError, match=f"{old} is a former name of {new}"):
        cls(sparsity=0.5, **{old: value, new: value})


@pytest.mark.parametrize(("cls", "old", "new"), FIELDS)
def test_overrides_know_former_fields(cls, old, new):
    with pytest.raises(ValueError, match=f"'{new}' cannot be set for one layer"):
        cls(sparsity=0.5, overrides={"dense": {old: 3}})


def test_the_schema_knows_former_names():
    choices = schema()["$defs"]["step"]["anyOf"]
    shown = {part["title"]: part["properties"] for part in choices}
    assert shown["quantize: cluster"]["quantize"]["enum"] == ["cluster", "huffman"]
    assert shown["quantize: linear"]["quantize"]["const"] == "linear"
    former = shown["prune: taylor"]["batch"]
    assert former["deprecated"] is True
    assert former["anyOf"] == shown["prune: taylor"]["batch_size"]["anyOf"]


def test_an_option_keeps_its_former_name():
    (found,) = [
        parameter
        for parameter in flags.of_models([steps.find("prune", "taylor")])
        if parameter.name == "batch_size"
    ]
    (declared,) = found.annotation.__metadata__
    assert (declared.default, *declared.param_decls) == ("--batch-size", "--batch")


def test_an_unknown_name_is_answered_with_that_of_today():
    with pytest.raises(RecipeError, match="did you mean 'cluster'"):
        steps.find("quantize", "clusters")


def test_the_command_writes_the_same_bytes_by_either_name(modelcut, tmp_path):
    written = []
    for method in ("cluster", "huffman"):
        output = tmp_path / f"{method}.h5"
        modelcut("quantize", CNN, "--method", method, "--bits", "3", "-o", output, "--quiet")
        written.append(output.read_bytes())
    assert written[0] == written[1]
