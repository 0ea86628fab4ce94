"""Packed SavedModels: every file comes back as a plain write would have made it."""

from __future__ import annotations

import numpy as np
import pytest
from toys import contents, saved_model

from modelcut import steps
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.job import pipeline
from modelcut.job.request import Job
from modelcut.recipe.recipe import Recipe

KINDS = ["keras3", "tf_keras", "module", "v1"]
RECIPES = {
    "nothing": lambda: (),
    "prune and quantize": lambda: (
        steps.find("prune", "magnitude")(sparsity=0.5),
        steps.find("quantize", "linear")(bits=4),
    ),
    "float16": lambda: (steps.find("quantize", "float16")(),),
    "bfloat16": lambda: (steps.find("quantize", "bfloat16")(),),
    "share": lambda: (steps.find("quantize", "cluster")(),),
}


def write(model, path, **options):
    writer = registry.for_output(path, model)
    if writer.folder:
        path.mkdir()
    return writer.write(model, path, WriteOptions(**options))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [False, True])
def test_it_unpacks_to_the_files_that_a_plain_write_makes(kind, keep, tmp_path):
    model = registry.open_model(saved_model(kind, tmp_path))
    write(model, tmp_path / "direct", keep_optimizer=keep)
    packed = write(model, tmp_path / "p.mcut", keep_optimizer=keep)
    again = registry.open_model(tmp_path / "p.mcut")
    assert (again.origin.format, again.origin.container) == ("saved_model", "mcut")
    assert bool(packed.dropped) == (kind == "tf_keras" and not keep)
    assert bool(again.origin.dropped) == (kind == "tf_keras" and keep)
    write(again, tmp_path / "back", keep_optimizer=keep)
    assert contents(tmp_path / "back") == contents(tmp_path / "direct")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RECIPES)
def test_an_edited_model_comes_back(kind, name, tmp_path):
    path = saved_model(kind, tmp_path)
    for out in ("direct", "p.mcut"):
        job = Job(path, Recipe(RECIPES[name]()), tmp_path / out, report=False)
        pipeline.run(job)
    job = Job(tmp_path / "p.mcut", Recipe(()), tmp_path / "back", report=False, lossless=True)
    pipeline.run(job)
    assert contents(tmp_path / "back") == contents(tmp_path / "direct")
    assert (tmp_path / "p.mcut").stat().st_size < sum(
        len(data or b"") for data in contents(tmp_path / "direct").values()
    )


def test_steps_and_packing_go_on_from_a_packed_one(tmp_path, modelcut):
    path = saved_model("tf_keras", tmp_path)
    assert modelcut("pack", path, "-o", tmp_path / "p.mcut", "-q").code == 0
    for source in (path, tmp_path / "p.mcut"):
        out = tmp_path / f"{source.stem}-small"
        said = modelcut("prune", source, "--sparsity", "0.5", "-o", out, "-q")
        assert said.code == 0, said
    for one, two in zip(
        registry.open_model(tmp_path / "tf_keras-small").tensors,
        registry.open_model(tmp_path / "p-small").tensors,
        strict=True,
    ):
        np.testing.assert_array_equal(one.pull()[0], two.pull()[0])
    said = modelcut("factorize", tmp_path / "p.mcut", "--rank", "1", "-o", tmp_path / "f.h5", "-q")
    assert said.code == 0, said
    assert "saved_model" in modelcut("inspect", tmp_path / "p.mcut").out


def test_what_it_unpacks_to_is_said_where_it_cannot_be(tmp_path, modelcut):
    path = saved_model("module", tmp_path)
    modelcut("pack", path, "-o", tmp_path / "p.mcut", "-q")
    said = modelcut("unpack", tmp_path / "p.mcut", "-o", tmp_path / "m.h5")
    assert said.code == 2
    assert "SavedModel holds a graph" in said.err
    assert "folder" in modelcut("unpack", tmp_path / "p.mcut").err


def test_complex_variables_are_carried(tmp_path):
    """Steps cannot edit them; they must not be lost either."""
    from modelcut.formats.saved_model import bundle as saved_model_bundle
    from modelcut.formats.saved_model import sstable

    path = saved_model("v1", tmp_path)
    prefix = path / "variables" / "variables"
    bundle = saved_model_bundle.Bundle(prefix, "v1")
    values = np.array([1 + 2j, 3 - 4j], "complex128")
    with saved_model_bundle.BundleWriter(tmp_path / "new") as writer:
        for entry in bundle.in_order():
            writer.copy(bundle, entry)
        writer.add(saved_model_bundle.Entry(b"waves", 18, (2,), 0, 0, 32, 0), values, [])
        writer.finish(bundle.header)
    assert sstable.read(writer.index)
    (tmp_path / "new.index").rename(prefix.with_name("variables.index"))
    (tmp_path / "new.data-00000-of-00001").rename(saved_model_bundle.shard_path(prefix, 0, 1))
    model = registry.open_model(path)
    assert any("complex" in line for line in model.origin.warnings)
    write(model, tmp_path / "p.mcut")
    write(registry.open_model(tmp_path / "p.mcut"), tmp_path / "back")
    again = saved_model_bundle.Bundle(tmp_path / "back" / "variables" / "variables", "back")
    np.testing.assert_array_equal(again.read(again.entries[b"waves"]), values)
