"""What goes in comes out: every era, every dtype, the same bytes every time."""

from __future__ import annotations

import io
import json
import time
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from toys import MODELS, dense, legacy

from modelcut import steps
from modelcut.errors import InputError, UnsafeError
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.job import pipeline
from modelcut.job.request import Job
from modelcut.model.encoding import Sparse
from modelcut.model.encodings.affine import Affine
from modelcut.model.rewrite import Rewrite
from modelcut.recipe.recipe import Recipe

GOLDEN = sorted(path for path in MODELS.iterdir() if path.suffix in (".h5", ".keras"))


def write(model, path, **options):
    path.unlink(missing_ok=True)
    return registry.for_output(path, model).write(model, path, WriteOptions(**options))


def values_of(model):
    return {tensor.name: tensor.pull()[0] for tensor in model.tensors}


def assert_same(one, two):
    one, two = values_of(one), values_of(two)
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == two[name].dtype
        assert one[name].tobytes() == two[name].tobytes(), name


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
@pytest.mark.parametrize("compression", ["none", "fast", "best"])
def test_every_era_comes_back_as_it_was(path, compression, tmp_path):
    model = registry.open_model(path)
    out = tmp_path / f"out{path.suffix}"
    write(model, out, compression=compression)
    again = registry.open_model(out)
    assert_same(model, again)
    assert again.origin.dialect == model.origin.dialect
    if model.architecture is not None:
        assert again.architecture.text == model.architecture.text


def test_the_same_job_gives_the_same_bytes(tmp_path):
    def all_written():
        for path in GOLDEN:
            out = tmp_path / f"out{path.suffix}"
            write(
                registry.open_model(path), out, provenance=lambda: {"history": [{"modelcut": "x"}]}
            )
            yield path.name, out.read_bytes()

    first = dict(all_written())
    time.sleep(1.1)  # HDF5 counts time in seconds
    for name, raw in all_written():
        assert raw == first[name], name


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_layers_come_in_the_order_that_keras_gave(path):
    model = registry.open_model(path)
    recorded = MODELS / f"{path.name.split('.')[0]}.npz"
    if model.architecture is not None:
        assert model.architecture.order() == list(np.load(recorded)["order"])


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_every_weight_has_a_role(path):
    model = registry.open_model(path)
    for layer in model.layers:
        roles = [tensor.role for tensor in layer.tensors]
        assert len(set(roles)) == len(roles)
        if model.architecture is None:
            continue
        if layer.class_name == "Dense":
            assert roles == ["kernel", "bias"]
        if layer.class_name == "BatchNormalization":
            assert roles == ["gamma", "beta", "moving_mean", "moving_variance"]
            assert {t.kind for t in layer.tensors} == {"norm", "state"}
        if layer.class_name == "Bidirectional":
            assert roles[0] == "forward/kernel"
            assert layer.tensors[1].kind == "recurrent"


def test_the_optimizer_is_dropped_and_said(tmp_path):
    path = MODELS / "keras3_cnn.h5"
    model = registry.open_model(path)
    written = write(model, tmp_path / "out.h5")
    assert "optimizer state" in written.dropped[0]
    with h5py.File(tmp_path / "out.h5") as file:
        assert "optimizer_weights" not in file
        assert "training_config" in file.attrs
    written = write(model, tmp_path / "kept.h5", keep_optimizer=True)
    assert written.dropped == ()
    with h5py.File(tmp_path / "kept.h5") as kept, h5py.File(path) as old:
        names = []
        old["optimizer_weights"].visit(names.append)
        for name in names:
            if isinstance(old[f"optimizer_weights/{name}"], h5py.Dataset):
                a, b = old[f"optimizer_weights/{name}"], kept[f"optimizer_weights/{name}"]
                np.testing.assert_array_equal(a[()], b[()])


def test_what_other_tools_keep_in_the_file_is_kept(tmp_path):
    path = tmp_path / "in.h5"
    path.write_bytes((MODELS / "tf_keras_sequential.h5").read_bytes())
    with h5py.File(path, "a") as file:
        file.create_dataset("meta/labels", data=np.arange(5))
        file["meta"].attrs["who"] = "another tool"
        file.attrs["custom"] = np.arange(3)
    write(registry.open_model(path), tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as out:
        np.testing.assert_array_equal(out["meta/labels"][()], np.arange(5))
        assert out["meta"].attrs["who"] == "another tool"
        np.testing.assert_array_equal(out.attrs["custom"], np.arange(3))


def test_encodings_are_known_again(tmp_path):
    for name in ("keras3_sequential.h5", "keras3_text.keras", "keras3_cnn.weights.h5"):
        model = registry.open_model(MODELS / name)
        kernel = next(t for t in model.tensors if t.kind == "kernel")
        scale = np.full((1,) * len(kernel.shape), 0.05, "float32")

        def edit(values, encoding, scale=scale):
            grid = Sparse(Affine(4, scale))
            return Rewrite(grid)

        edited = model.with_tensors({kernel.name: kernel.then(0, edit, ("sparse", "affine"))})
        out = tmp_path / f"out{(MODELS / name).suffix}"
        write(edited, out, provenance=lambda: {"history": [{"modelcut": "x"}]})
        again = registry.open_model(out)
        found = {t.name: t.encoding for t in again.tensors}[kernel.name]
        assert found.label == "sparse, int4"
        assert again.origin.provenance["history"] == [{"modelcut": "x"}]


def test_encodings_that_do_not_fit_are_ignored(tmp_path):
    model = registry.open_model(MODELS / "keras3_sequential.h5")
    kernel = next(model.tensors)
    wrong = replace(kernel, encoding=Affine(4, np.ones((1, 999), "float32")))
    write(model.with_tensors({kernel.name: wrong}), tmp_path / "out.h5")
    again = registry.open_model(tmp_path / "out.h5")
    assert "does not fit" in again.origin.warnings[0]
    assert next(again.tensors).encoding.label == "dense"


def other(path):
    return ".keras" if path.suffix == ".h5" else ".h5"


WHOLE = [path for path in GOLDEN if ".weights" not in path.name]


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_h5_and_keras_files_go_over_to_each_other(path, tmp_path):
    model = registry.open_model(path)
    out = tmp_path / f"out{other(path)}"
    write(model, out)
    again = registry.open_model(out)
    assert_same(model, again)
    assert again.origin.dialect == model.origin.dialect
    assert again.architecture.keras_version == model.architecture.keras_version


def places(path):
    with zipfile.ZipFile(path) as archive:
        file = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    found = {}
    file.visititems(
        lambda key, item: found.update({key: item.shape}) if hasattr(item, "shape") else None
    )
    kept = {key: found[key] for key in found if not key.startswith(("optimizer", "metrics"))}
    return kept, "vars" in file


@pytest.mark.parametrize(
    "path", [p for p in WHOLE if p.suffix == ".h5"], ids=lambda path: path.name
)
def test_a_keras_file_has_the_places_that_its_keras_gives(path, tmp_path):
    write(registry.open_model(path), tmp_path / "out.keras")
    assert places(tmp_path / "out.keras") == places(path.with_suffix(".keras"))


def test_keras_2_takes_attention_by_its_own_names(tmp_path):
    golden = json.loads((MODELS.parent / "configs" / "tf_keras_keywords.json").read_text())
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"], file.attrs["keras_version"] = golden["config"], "2.21.0"
        root = file.create_group("model_weights")
        names = golden["orders"][0][1]
        root.attrs["layer_names"] = names
        for name in names:
            weights = golden["legacy"].get(name, [])
            group = root.create_group(name)
            group.attrs["weight_names"] = [weight for weight, _ in weights]
            for weight, shape in weights:
                group[weight] = np.ones(shape, "float32")
    write(registry.open_model(tmp_path / "m.h5"), tmp_path / "out.keras")
    found, _ = places(tmp_path / "out.keras")
    assert found == {key: tuple(shape) for key, shape in golden["store"].items()}


def test_what_no_keras_file_is_known_to_hold(tmp_path):
    arrays = {"d": {"d/kernel:0": np.ones((3, 2), "float32"), "d/bias:0": np.ones(2, "float32")}}

    def reason(layer, model="Sequential"):
        layers = [{**dense("d", 2), **layer}]
        config = {"class_name": model, "config": {"name": "toy", "layers": layers}}
        legacy(tmp_path / "m.h5", arrays, config)
        return registry.by_name("keras_zip").refusal(registry.open_model(tmp_path / "m.h5"))

    assert reason({}) == ""
    assert "weights of a Mine (d); name the output .h5" in reason({"class_name": "Mine"})
    assert "class Ours is its author's own; name the output .h5" in reason({}, "Ours")
    weights = {"kernel": (3, 6), "recurrent_kernel": (2, 6), "bias": (12,)}
    arrays["d"] = {
        f"d/{way}/{role}:0": np.ones(shape, "float32")
        for way in ("forward", "backward")
        for role, shape in weights.items()
    }
    cell = {"class_name": "CuDNNGRU", "config": {"name": "g", "units": 2}}
    both = {"class_name": "Bidirectional", "config": {"name": "d", "layer": cell}}
    assert "Keras 2 loads no CuDNNGRU from a .keras file; name the output .h5" in reason(both)


def test_keras_1(tmp_path):
    config = {
        "class_name": "Sequential",
        "config": [
            {
                "class_name": "Convolution2D",
                "config": {
                    "name": "convolution2d_1",
                    "nb_filter": 4,
                    "nb_row": 3,
                    "nb_col": 3,
                    "batch_input_shape": [None, 8, 8, 1],
                    "dim_ordering": "tf",
                    "border_mode": "valid",
                },
            },
            {"class_name": "Flatten", "config": {"name": "flatten_1"}},
            {"class_name": "Dense", "config": {"name": "dense_1", "output_dim": 3}},
        ],
    }
    rng = np.random.default_rng(0)
    arrays = {
        "convolution2d_1": {
            "convolution2d_1_W": rng.normal(size=(3, 3, 1, 4)).astype("float32"),
            "convolution2d_1_b": np.zeros(4, "float32"),
        },
        "flatten_1": {},
        "dense_1": {
            "dense_1_W": rng.normal(size=(144, 3)).astype("float32"),
            "dense_1_b": np.zeros(3, "float32"),
        },
    }
    legacy(tmp_path / "k1.h5", arrays, config, version=None)
    model = registry.open_model(tmp_path / "k1.h5")
    assert model.origin.dialect == "keras1"
    assert "no .keras files; name the output .h5" in registry.by_name("keras_zip").refusal(model)
    assert [t.name for t in model.tensors][:2] == ["convolution2d_1/kernel", "convolution2d_1/bias"]
    assert next(model.tensors).out_axis == 3
    write(model, tmp_path / "out.h5")
    assert_same(model, registry.open_model(tmp_path / "out.h5"))


def test_lists_of_names_that_pass_64_kb_are_split(tmp_path):
    names = [f"{'a_rather_long_name_' * 12}{i:06d}" for i in range(330)]
    config = {"class_name": "Sequential", "config": {"layers": [dense(n, 2) for n in names]}}
    kernel, bias = np.ones((2, 2), "float32"), np.zeros(2, "float32")
    path = tmp_path / "long.h5"
    with h5py.File(path, "w", libver="latest") as file:
        # The configuration of so many layers passes 64 KB too; new HDF5 keeps it apart.
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.4.0"
        root = file.create_group("model_weights")
        for index, part in enumerate(np.array_split(np.array([n.encode() for n in names]), 3)):
            root.attrs[f"layer_names{index}"] = part
        for name in names:
            group = root.create_group(name)
            group.attrs["weight_names"] = np.array([f"{name}/kernel:0".encode(), b"b:0"])
            group[f"{name}/kernel:0"] = kernel
            group["b:0"] = bias
    model = registry.open_model(path)
    assert len(list(model.tensors)) == 660
    write(model, tmp_path / "out.h5")
    assert_same(model, registry.open_model(tmp_path / "out.h5"))
    with h5py.File(tmp_path / "out.h5") as file:
        assert "layer_names1" in file["model_weights"].attrs


def test_bare_weights(tmp_path):
    arrays = {
        "dense_1": {"dense_1/kernel:0": np.ones((3, 2), "float32"), "dense_1/bias:0": np.ones(2)},
        "bn": {"bn/gamma:0": np.ones(2, "float32"), "bn/moving_mean:0": np.ones(2, "float32")},
    }
    legacy(tmp_path / "w.h5", arrays)
    model = registry.open_model(tmp_path / "w.h5")
    assert model.origin.weights_only
    assert [t.kind for t in model.tensors] == ["kernel", "bias", "norm", "state"]
    assert registry.by_name("keras_zip").refusal(model)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    nps.arrays(
        st.sampled_from(["float16", "float32", "float64", "int8", "int64", "bool"]),
        nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
    ),
    st.sampled_from(["none", "fast", "best"]),
)
def test_any_array_survives(tmp_path, values, compression):
    path, out = tmp_path / "in.h5", tmp_path / "out.h5"
    path.unlink(missing_ok=True)
    legacy(path, {"layer": {"w": values}})
    model = registry.open_model(path)
    write(model, out, compression=compression)
    assert_same(model, registry.open_model(out))


@pytest.mark.parametrize("shape", [(700, 900), (3, 3, 70, 130), (1, 500_000), (500_000,)])
@pytest.mark.parametrize("zeros", [0.0, 0.9, 1.0])
def test_large_tensors_in_chunks(tmp_path, shape, zeros):
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape).astype("float32")
    values[rng.random(shape) < zeros] = 0
    legacy(tmp_path / "in.h5", {"layer": {"w": values}})
    written = write(registry.open_model(tmp_path / "in.h5"), tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        # HDF5's own filter reads it, as plain Keras would.
        np.testing.assert_array_equal(file["layer/w"][()], values)
    assert_same(registry.open_model(tmp_path / "in.h5"), registry.open_model(tmp_path / "out.h5"))
    stored = written.stored["layer/w"]
    assert stored <= values.nbytes
    if zeros == 0.9:
        assert stored < values.nbytes / 5


def broken(tmp_path, change):
    path = tmp_path / "broken.h5"
    path.write_bytes((MODELS / "tf_keras_sequential.h5").read_bytes())
    with h5py.File(path, "a") as file:
        change(file, file["model_weights"])
    return path


def _config(**changes):
    def change(file, root):
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][-1]["config"].update(changes)
        file.attrs["model_config"] = json.dumps(config)

    return change


def _replace(name, values):
    def change(file, root):
        del root[name]
        root[name] = values

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, r: f.attrs.pop("model_config"), "no model_config"),
        (lambda f, r: f.attrs.__setitem__("model_config", "{"), "not valid JSON"),
        (lambda f, r: f.attrs.__setitem__("model_config", 7), "not text"),
        (_config(units=8), "declares a kernel of ?×8, the file holds 12×3"),
        (_config(units=10**9), "declares a kernel"),
        (lambda f, r: r.attrs.__delitem__("layer_names"), "no layer_names"),
        (lambda f, r: r["dense"].attrs.__delitem__("weight_names"), "no weight_names"),
        (lambda f, r: r["dense"].attrs.__setitem__("weight_names", [b"../x"]), "plain path"),
        (lambda f, r: r["dense"].attrs.__setitem__("weight_names", [b"nope"]), "does not exist"),
        (lambda f, r: r["dense"].attrs.__setitem__("weight_names", [b"dense"]), "is a group"),
        (lambda f, r: r["dense"].attrs.__setitem__("weight_names", [b"dense/bias:0"]), "2 weights"),
        (_replace("dense/dense/kernel:0", np.ones((8, 12), "complex64")), "not weights"),
        (_replace("dense/dense/kernel:0", np.full((8, 12), b"x")), "not weights"),
        (_replace("dense/dense/kernel:0", h5py.SoftLink("/model_weights")), "soft link"),
    ],
)
def test_broken_files_are_named_in_one_line(tmp_path, change, words):
    with pytest.raises(InputError) as caught:
        registry.open_model(broken(tmp_path, change))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_outside_the_file_are_refused(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"s" * 384)

    def outside(file, root):
        del root["dense/dense/kernel:0"]
        root.create_dataset(
            "dense/dense/kernel:0", (8, 12), "float32", external=[(str(secret), 0, 384)]
        )

    for change in (outside, _replace("dense/dense", h5py.ExternalLink("other.h5", "/x"))):
        with pytest.raises(UnsafeError):
            registry.open_model(broken(tmp_path, change))


def test_hollow_datasets_are_refused(tmp_path):
    def hollow(file, root):
        del root["dense/dense/kernel:0"]
        root.create_dataset("dense/dense/kernel:0", (1 << 20, 1 << 14), "float32")

    with pytest.raises(InputError, match="declares"):
        registry.open_model(broken(tmp_path, hollow))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["keras3_cnn.h5", "keras3_cnn.keras"])
def test_files_cut_short(tmp_path, name, share):
    raw = (MODELS / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(InputError):
        values_of(registry.open_model(path))


def rezip(tmp_path, change):
    path = tmp_path / "broken.keras"
    with zipfile.ZipFile(MODELS / "keras3_sequential.keras") as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in change(members):
            new.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda m: [(n, d) for n, d in m.items() if n != "config.json"], InputError),
        (lambda m: [*m.items(), ("../evil", b"x")], UnsafeError),
        (lambda m: [*m.items(), ("/evil", b"x")], UnsafeError),
        (lambda m: [*m.items(), ("assets\\..\\evil", b"x")], UnsafeError),
        (lambda m: [*m.items(), ("config.json", b"{}")], InputError),
        (
            lambda m: [
                *((n, d) for n, d in m.items() if n != "config.json"),
                ("config.json", b"["),
            ],
            InputError,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_are_no_honest_model(tmp_path, change, error):
    with pytest.raises(error):
        registry.open_model(rezip(tmp_path, change))


def test_a_weight_without_axes_goes_through_a_whole_run(tmp_path):
    """Normalization counts in a scalar; every EfficientNet has one."""
    layers = [
        {
            "class_name": "Normalization",
            "config": {"name": "norm", "axis": [-1], "batch_input_shape": [None, 4]},
        },
        dense("out", 3),
    ]
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}
    weights = {
        "norm": {
            "mean:0": np.ones(4, "float32"),
            "variance:0": np.ones(4, "float32"),
            "count:0": np.array(7, "int64"),
        },
        "out": {"out/kernel:0": np.ones((4, 3), "float32"), "out/bias:0": np.ones(3, "float32")},
    }
    legacy(tmp_path / "m.h5", weights, config)
    step = steps.find("quantize", "linear")(bits=8)
    report = pipeline.run(Job(tmp_path / "m.h5", Recipe((step,)), tmp_path / "o.h5"))
    assert report.sizes.after.totals.parameters == 24
    found = values_of(registry.open_model(tmp_path / "o.h5"))
    assert found["norm/count"] == 7
    assert found["norm/count"].shape == ()


def test_the_optimizer_is_missed_in_another_format_too(tmp_path, modelcut):
    call = ("prune", MODELS / "keras3_cnn.h5", "--sparsity", "0.5", "-o", tmp_path / "o.keras")
    said = modelcut(*call, "--json")
    assert said.code == 0, said
    assert json.loads(said.out)["output"]["dropped"]
    said = modelcut(*call, "--keep-optimizer")
    assert said.code == 2
    assert "cannot be written from hdf5 to .keras" in said.err
