"""Samples in arrays, Parquet and images: what a CSV of the same numbers gives; what is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from modelcut.data import DataOptions, InputSpec
from modelcut.data.images import preprocessed
from modelcut.data.sources import check_source, open_table
from modelcut.errors import InputError, UsageError

X = np.arange(40, dtype=np.float32).reshape(10, 4)
Y = np.arange(10) % 3
ONE = (InputSpec("x_in", (2, 2)),)


def all_of(table, size=4):
    batches = list(table.batches(size))
    inputs = {n: np.concatenate([b.inputs[n] for b in batches]) for n in batches[0].inputs}
    labels = None
    if batches[0].labels is not None:
        labels = np.concatenate([b.labels for b in batches])
    return inputs, labels


def as_csv(path):
    rows = [f"{','.join(map(str, row))},{label}" for row, label in zip(X, Y, strict=True)]
    path.write_text("a,b,c,d,label\n" + "\n".join(rows) + "\n")
    return path


def as_parquet(path):
    columns = {name: X[:, index] for index, name in enumerate("abcd")}
    pq.write_table(pa.table({**columns, "label": Y}), path)
    return path


def as_npz(path, **more):
    np.savez(path, x=X, y=Y, **more)
    return path


def as_zstd(path):
    raw = as_csv(path.with_name("plain.csv")).read_bytes()
    path.write_bytes(zstandard.compress(raw))
    return path


@pytest.mark.parametrize(
    ("name", "make"),
    [("s.parquet", as_parquet), ("s.npz", as_npz), ("s.csv.zst", as_zstd), ("s.csv", as_csv)],
)
def test_every_source_gives_the_same(tmp_path, name, make):
    path = make(tmp_path / name)
    options = DataOptions(scale="1/2")
    table = open_table(path, options, ONE)
    inputs, labels = all_of(table)
    np.testing.assert_array_equal(inputs["x_in"], X.reshape(10, 2, 2) / 2)
    assert inputs["x_in"].dtype == np.float32
    np.testing.assert_array_equal(labels, Y[:, None].astype(float))
    assert table.cleaning.rows_used == 10
    assert table.width == 4
    assert len(table.labels) == 1
    limited = open_table(path, DataOptions(limit=3), ONE)
    assert len(all_of(limited)[1]) == 3
    unlabelled = open_table(path, options, ONE, labelled=False)
    assert all_of(unlabelled)[1] is None
    check_source(path)


def test_zstandard_of_several_frames(tmp_path):
    """As pzstd writes it: a note before, and a frame for each part."""
    text = as_csv(tmp_path / "t.csv").read_bytes()
    note = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"
    parts = [zstandard.compress(text[:60]), zstandard.compress(text[60:])]
    (tmp_path / "t.csv.zst").write_bytes(note + note.join(parts))
    wanted, _ = all_of(open_table(tmp_path / "t.csv", DataOptions(), ONE))
    found, _ = all_of(open_table(tmp_path / "t.csv.zst", DataOptions(), ONE))
    np.testing.assert_array_equal(found["x_in"], wanted["x_in"])


def test_arrays_by_the_names_of_the_inputs(tmp_path):
    two = (InputSpec("left", (2,)), InputSpec("right", (2,)))
    path = tmp_path / "s.npz"
    np.savez(path, right=X[:, 2:], left=X[:, :2], truth=Y)
    inputs, labels = all_of(open_table(path, DataOptions(label="truth"), two))
    np.testing.assert_array_equal(inputs["left"], X[:, :2])
    np.testing.assert_array_equal(labels[:, 0], Y)
    swapped = DataOptions(label="truth", inputs={"left": "right", "right": "left"})
    np.testing.assert_array_equal(all_of(open_table(path, swapped, two))[0]["left"], X[:, 2:])


def test_labels_of_several_outputs(tmp_path):
    path = tmp_path / "s.npz"
    box = np.arange(40.0).reshape(10, 4)
    side = np.array(["left", "right"] * 5)
    np.savez(path, x=X, box=box, side=side, other=Y)
    mapped = DataOptions(label={"a": "side", "b": "box", "c": "side", "d": ["other", "box"]})
    table = open_table(path, mapped, ONE)
    _, labels = all_of(table)
    assert labels.shape == (10, 11)
    assert [table.names[at] for at in table.labels] == [
        *("side", "box_0", "box_1", "box_2", "box_3", "side"),
        *("other", "box_0", "box_1", "box_2", "box_3"),
    ]
    assert labels[:, 0].tolist() == labels[:, 5].tolist() == side.tolist()
    np.testing.assert_array_equal(labels[:, 1:5].astype(float), box)
    np.testing.assert_array_equal(labels[:, 6].astype(float), Y)
    assert {output: len(names) for output, names in table.options.label.items()} == {
        "a": 1,
        "b": 4,
        "c": 1,
        "d": 5,
    }
    assert table.names[table.features["x_in"][0]] == "x_in", "behind the labels"
    listed = open_table(path, DataOptions(label=["other", "box"]), ONE)
    np.testing.assert_array_equal(all_of(listed)[1], np.column_stack([Y, box]))
    with pytest.raises(UsageError, match="has no array 'size'"):
        open_table(path, DataOptions(label={"a": "side", "b": "size"}), ONE)


def test_a_label_of_one_output_is_not_finite(tmp_path):
    path = tmp_path / "s.npz"
    bad = np.where(np.arange(10) == 3, np.nan, 1.0)
    np.savez(path, x=X, kind=Y, size=bad)
    options = DataOptions(label={"a": "kind", "b": "size"})
    with pytest.raises(InputError, match="sample 3 has no finite label"):
        all_of(open_table(path, options, ONE))
    _, labels = all_of(open_table(path, options.model_copy(update={"clean": "drop"}), ONE))
    np.testing.assert_array_equal(labels[:, 0], np.delete(Y, 3))


def test_one_array(tmp_path):
    path = tmp_path / "s.npy"
    np.save(path, X)
    inputs, labels = all_of(open_table(path, DataOptions(), ONE))
    np.testing.assert_array_equal(inputs["x_in"].reshape(10, 4), X)
    assert labels is None
    inputs, labels = all_of(open_table(path, DataOptions(label="input"), ONE))
    np.testing.assert_array_equal(labels, X)


@pytest.mark.parametrize(
    ("arrays", "fields", "message"),
    [
        ({"x": X[:, :3], "y": Y}, {}, r"of shape \(10, 3\) does not fill the input"),
        ({"x": X, "y": Y[:5]}, {}, "arrays of different lengths"),
        ({"x": X.astype(str), "y": Y}, {}, "the input 'x_in' takes float32"),
        ({"p": X, "q": X, "y": Y}, {}, "no array is named like the model's input 'x_in'"),
        ({"x": X, "y": Y}, {"label": "z"}, "has no array 'z'"),
        ({"x": X, "y": Y}, {"label": 2}, "name one of them"),
        ({"x": X, "y": Y}, {"clean": "impute"}, "is for tables"),
        ({"x": X, "y": Y}, {"inputs": {"x_in": "z"}}, "has no array 'z'"),
        ({"x": X, "y": Y}, {"preprocess": "tf"}, "is for images"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, fields, message):
    path = tmp_path / "s.npz"
    np.savez(path, **arrays)
    with pytest.raises((InputError, UsageError), match=message):
        open_table(path, DataOptions(**fields), ONE)


def test_values_that_are_not_finite(tmp_path):
    bad = X.astype(np.float64)
    bad[2, 1], bad[7, 0] = np.nan, 1e300
    path = tmp_path / "s.npz"
    np.savez(path, x=bad, y=Y)
    with pytest.raises(InputError, match="sample 2 of 'x_in' holds a value that is not finite"):
        all_of(open_table(path, DataOptions(), ONE))
    table = open_table(path, DataOptions(clean="drop"), ONE)
    inputs, labels = all_of(table)
    np.testing.assert_array_equal(labels[:, 0], np.delete(Y, [2, 7]))
    assert table.cleaning.dropped_nonfinite == 2
    assert len(inputs["x_in"]) == 8


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "s.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="cannot be read as NumPy arrays"):
        open_table(path, DataOptions(), ONE)
    for name in ("s.npz", "s.npy", "s.parquet", "s.csv.zst"):
        broken = tmp_path / name
        broken.write_bytes(b"\x28\xb5\x2f\xfdrubbish" if name.endswith("zst") else b"PK\3\4x")
        with pytest.raises(InputError):
            list(open_table(broken, DataOptions(), ONE).batches(4))


def test_parquet_of_the_wrong_types(tmp_path):
    path = tmp_path / "s.parquet"
    columns = {name: list(map(str, X[:, index])) for index, name in enumerate("abcd")}
    pq.write_table(pa.table({**columns, "label": Y}), path)
    with pytest.raises(InputError, match="column 'a' holds string, not numbers"):
        open_table(path, DataOptions(), ONE)


def test_parquet_with_holes_is_cleaned_like_a_csv(tmp_path):
    path = tmp_path / "s.parquet"
    columns = {name: X[:, index].tolist() for index, name in enumerate("abcd")}
    columns["b"][3] = None
    columns["c"][5] = float("inf")
    names = ["zero", "one", "two"]
    pq.write_table(pa.table({**columns, "label": [names[y] for y in Y]}), path)
    with pytest.raises(InputError, match="row 4 of data holds a cell"):
        all_of(open_table(path, DataOptions(), ONE))
    table = open_table(path, DataOptions(clean="drop"), ONE)
    _, labels = all_of(table)
    assert list(labels[:, 0]) == [names[y] for i, y in enumerate(Y) if i not in (3, 5)]
    filled = open_table(path, DataOptions(clean="impute"), ONE)
    inputs, _ = all_of(filled)
    assert len(inputs["x_in"]) == 10
    assert filled.cleaning.imputed_cells == 2
    mean = np.delete(X[:, 1].astype(np.float64), 3).mean()
    assert inputs["x_in"][3, 0, 1] == pytest.approx(mean)


# ── images ──

GRAY = (InputSpec("pixels", (4, 6, 1)),)
COLOR = (InputSpec("pixels", (4, 6, 3)),)


@pytest.fixture
def folder(tmp_path):
    """Two classes: dark and light images of 4 × 6 pixels, one of them larger."""
    image = pytest.importorskip("PIL.Image")
    root = tmp_path / "images"
    for name, value, count in (("dark", 10, 3), ("light", 200, 2)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            size = (6, 4) if number else (12, 8)
            image.new("RGB", size, (value, value, value)).save(root / name / f"{number}.png")
    (root / "dark" / "notes.txt").write_text("no image")
    return root


def test_a_folder_of_images(folder):
    table = open_table(folder, DataOptions(scale="1/255"), GRAY)
    assert table.options.classes == ["dark", "light"]
    inputs, labels = all_of(table)
    assert list(labels[:, 0]) == ["dark", "light", "dark", "light", "dark"]
    assert inputs["pixels"].shape == (5, 4, 6, 1)
    np.testing.assert_allclose(inputs["pixels"][1], 200 / 255, rtol=1e-6)
    check_source(folder)
    with pytest.raises(InputError, match="folder without samples"):
        check_source(folder / "dark")


def test_a_csv_of_paths(folder):
    path = folder / "list.csv"
    path.write_text("file,age,label\ndark/0.png,3,0\nlight/1.png,4,1\n")
    table = open_table(path, DataOptions(images="file"), COLOR)
    inputs, labels = all_of(table)
    assert labels.tolist() == [[0.0], [1.0]]
    assert inputs["pixels"][:, 0, 0, 0].tolist() == [10, 200]
    path.write_text("file,label\ndark/0.png,0\ndark/missing.png,1\ndark/notes.txt,1\n")
    with pytest.raises(InputError, match=r"missing.png: no such file"):
        all_of(open_table(path, DataOptions(images="file"), COLOR))
    kept = open_table(path, DataOptions(images="file", clean="drop"), COLOR)
    assert len(all_of(kept)[1]) == 1
    assert kept.cleaning.dropped_unreadable == 2
    with pytest.raises(UsageError, match="has no column 'path'"):
        open_table(path, DataOptions(images="path"), COLOR)


def test_images_are_for_models_that_take_them(folder):
    with pytest.raises(InputError, match="images are for a model with one input"):
        open_table(folder, DataOptions(), ONE)


def test_preprocessing_is_that_of_keras_applications():
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 3, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(preprocessed(pixels, "mobilenet_v2"), pixels / 127.5 - 1, atol=1e-6)
    caffe = preprocessed(pixels, "vgg16")
    np.testing.assert_allclose(caffe[..., 0], pixels[..., 2] - 103.939, rtol=1e-5)
    np.testing.assert_allclose(caffe[..., 2], pixels[..., 0] - 123.68, rtol=1e-5)
    torch = preprocessed(pixels, "densenet")
    np.testing.assert_allclose(torch[..., 1], (pixels[..., 1] / 255 - 0.456) / 0.224, rtol=1e-5)
    assert preprocessed(pixels, "efficientnet") is pixels


def test_pixels_of_other_depths(tmp_path):
    """16 bits become 8 as in TensorFlow; Pillow alone would clip them."""
    from PIL import Image

    pixels = np.arange(16, dtype="<u2").reshape(4, 4) * 4000
    spec = (InputSpec("x", (4, 4, 1)),)

    def read(image, name):
        image.save(tmp_path / name)
        (tmp_path / "t.csv").write_text(f"image,label\n{name},0\n")
        table = open_table(tmp_path / "t.csv", DataOptions(images="image"), spec)
        return next(iter(next(table.batches(1)).inputs.values()))[0, ..., 0]

    wide = Image.fromarray(pixels)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read(wide, name), pixels // 256)
    gray = Image.fromarray((pixels // 256).astype("u1"))
    bits = gray.convert("1")
    np.testing.assert_array_equal(read(bits, "b.png"), np.asarray(bits) * 255.0)
    for kind in ("f4", "i4"):
        with pytest.raises(InputError, match=r"c\.tif: .* numbers of 32 bits, not pixels"):
            read(Image.fromarray(pixels.astype(kind)), "c.tif")


def test_a_damaged_tiff_is_one_error(tmp_path, capfd):
    from PIL import Image

    image = Image.effect_noise((16, 16), 60)
    image.save(tmp_path / "a.tif", compression="tiff_lzw")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    (tmp_path / "t.csv").write_text("image,label\na.tif,0\n")
    spec = (InputSpec("x", (16, 16, 1)),)
    failed = 0
    for at in range(8, len(data), 5):
        (tmp_path / "a.tif").write_bytes(bytes([*data[:at], data[at] ^ 255, *data[at + 1 :]]))
        try:
            list(open_table(tmp_path / "t.csv", DataOptions(images="image"), spec).batches(1))
        except InputError:
            failed += 1
    assert failed > 5
    assert capfd.readouterr().err == ""  # libtiff writes there itself


def test_what_is_odd_beside_the_pixels_is_no_warning(tmp_path):
    from PIL import Image

    image = Image.new("L", (4, 4), 7)
    image.save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*" + b"\xff" * 400)
    (tmp_path / "t.csv").write_text("image,label\na.jpg,0\n")
    spec = (InputSpec("x", (4, 4, 1)),)
    table = open_table(tmp_path / "t.csv", DataOptions(images="image"), spec)
    (batch,) = table.batches(1)  # a warning is an error in these tests
    assert abs(batch.inputs["x"] - 7).max() <= 1
