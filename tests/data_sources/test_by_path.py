"""Samples in files of their own: arrays and sounds by path; the oracle is what was written."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest

from modelcut.data import DataOptions, InputSpec
from modelcut.data.sources import open_table
from modelcut.errors import InputError, UsageError

RNG = np.random.default_rng(0)
ONE = (InputSpec("x", (4, 3)),)


def table_of(folder, names, column="file"):
    lines = [f"{name},{number % 2}" for number, name in enumerate(names)]
    (folder / "t.csv").write_text("\n".join([f"{column},label", *lines, ""]))
    return folder / "t.csv"


def all_of(table, size=4):
    batches = list(table.batches(size))
    return (
        np.concatenate([next(iter(batch.inputs.values())) for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
    )


def as_wav(path, values, width=2, rate=8000):
    """Whole numbers (frames, channels) as PCM."""
    data = values.astype("<i4") if width > 1 else values.astype("u1")
    raw = data.tobytes()
    if width in (2, 3):  # the low bytes of each number
        raw = data.reshape(-1, 1).view("u1").reshape(-1, 4)[:, :width].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)


@pytest.fixture
def arrays(tmp_path):
    """Ten arrays: of the input's shape, and flat ones."""
    values = RNG.normal(size=(10, 4, 3)).astype("float32")
    (tmp_path / "a").mkdir()
    for number, value in enumerate(values):
        np.save(tmp_path / f"a/{number}.npy", value if number % 3 else value.reshape(-1))
    return tmp_path, values


def test_arrays_in_a_column(arrays):
    folder, values = arrays
    path = table_of(folder, [f"a/{number}.npy" for number in range(10)])
    table = open_table(path, DataOptions(arrays="file", scale=0.5), ONE)
    found, labels = all_of(table)
    np.testing.assert_array_equal(found, values * np.float32(0.5))
    np.testing.assert_array_equal(labels[:, 0], np.arange(10) % 2)
    assert (table.width, table.cleaning.rows_used) == (12, 10)
    open_length = (InputSpec("x", (None, 3)),)
    with pytest.raises(InputError, match="does not fill"):  # one axis, and two to be guessed
        all_of(open_table(path, DataOptions(arrays="file"), (InputSpec("x", (None, 5)),)))
    found, _ = all_of(open_table(path, DataOptions(arrays="file"), open_length))
    np.testing.assert_array_equal(found, values)


def test_arrays_in_folders_of_classes(arrays):
    folder, values = arrays
    for number in range(10):
        (folder / f"c/{'no' if number % 2 else 'yes'}").mkdir(parents=True, exist_ok=True)
        np.save(folder / f"c/{'no' if number % 2 else 'yes'}/{number}.npy", values[number])
    table = open_table(folder / "c", DataOptions(), ONE)
    found, labels = all_of(table)
    assert table.options.classes == ["no", "yes"]
    assert list(labels[:2, 0]) == ["no", "yes"]
    np.testing.assert_array_equal(found[0], values[1])


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def _object():
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], object), allow_pickle=True)
    return buffer.getvalue()


def _promising(shape):
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + bytes(48)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_object(), "cannot be read as an .npy"),
        (_promising((1 << 40,)), "cannot be read as an .npy"),
        (_promising((5, 3))[:-48] + bytes(60), "an array of 5×3 does not fill the model's 4×3"),
        (b"", "is empty"),
        (b"\x93NUMPY\x01", "cannot be read as an .npy"),
        (None, "no such file"),
    ],
)
def test_a_damaged_array_is_refused_or_left_out(arrays, content, message, capfd):
    folder, _ = arrays
    if content is not None:
        (folder / "bad.npy").write_bytes(content)
    path = table_of(folder, ["a/1.npy", "bad.npy", "a/2.npy"])
    with pytest.raises(InputError, match=message):
        all_of(open_table(path, DataOptions(arrays="file"), ONE))
    table = open_table(path, DataOptions(arrays="file", clean="drop"), ONE)
    assert len(all_of(table)[0]) == 2
    assert table.cleaning.dropped_unreadable == 1
    assert "executed" not in capfd.readouterr().out


def test_values_that_are_not_finite_are_counted_apart(arrays):
    folder, values = arrays
    bad = values[0].copy()
    bad[1, 1] = np.inf
    np.save(folder / "bad.npy", bad)
    path = table_of(folder, ["bad.npy", "a/2.npy"])
    table = open_table(path, DataOptions(arrays="file", clean="drop"), ONE)
    all_of(table)
    assert (table.cleaning.dropped_nonfinite, table.cleaning.dropped_unreadable) == (1, 0)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_sounds_of_every_width(tmp_path, width, channels):
    top = 1 << (8 * width - 1)
    whole = RNG.integers(-top, top, (100, channels))
    as_wav(tmp_path / "s.wav", whole + (128 if width == 1 else 0), width)
    path = table_of(tmp_path, ["s.wav"])
    shape = (80,) if channels == 1 else (120, 2)
    found, _ = all_of(open_table(path, DataOptions(audio="file"), (InputSpec("x", shape),)))
    expected = (whole / top).astype("float32")
    expected = expected[:80, 0] if channels == 1 else np.pad(expected, ((0, 20), (0, 0)))
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: as_wav(path, np.zeros((9, 2))), "has 2 channels, the model takes 1"),
        (lambda path: as_wav(path, np.zeros((9, 1)), rate=16000), "16,000 samples a second"),
        (lambda path: as_wav(path, np.zeros((0, 1))), "holds no sound"),
        (lambda path: path.write_bytes(b"RIFF\xff\xff\xff\xffWAVE"), "cannot be read as audio"),
        (lambda path: path.write_text("x"), "cannot be read as audio"),
    ],
)
def test_sounds_that_do_not_fit(tmp_path, make, message):
    as_wav(tmp_path / "first.wav", np.ones((9, 1)))
    make(tmp_path / "s.wav")
    path = table_of(tmp_path, ["first.wav", "s.wav"])
    with pytest.raises(InputError, match=message):
        all_of(open_table(path, DataOptions(audio="file"), (InputSpec("x", (9,)),)))


def test_a_header_that_promises_much_allocates_little(tmp_path):
    as_wav(tmp_path / "s.wav", np.ones((9, 1)))
    data = bytearray((tmp_path / "s.wav").read_bytes())
    data[4:8] = data[40:44] = (0xFFFFFF00).to_bytes(4, "little")
    (tmp_path / "s.wav").write_bytes(bytes(data))
    path = table_of(tmp_path, ["s.wav"])
    found, _ = all_of(open_table(path, DataOptions(audio="file"), (InputSpec("x", (None,)),)))
    assert found.shape[1] <= 31


def test_a_folder_of_sounds(tmp_path):
    for name in ("no", "yes"):
        (tmp_path / name).mkdir()
        as_wav(tmp_path / name / "s.wav", np.ones((9, 1)))
    table = open_table(tmp_path, DataOptions(), (InputSpec("x", (9, 1)),))
    found, labels = all_of(table)
    assert found.shape == (2, 9, 1)
    assert list(labels[:, 0]) == ["no", "yes"]


@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ({"arrays": "none"}, ONE, "has no column 'none'"),
        ({"arrays": "file", "clean": "impute"}, ONE, "is for tables"),
        ({"arrays": "file", "preprocess": "tf"}, ONE, "is for images"),
        ({"arrays": "file"}, ONE * 2, "a model with one input"),
        ({"audio": "file"}, (InputSpec("x", (8, 8, 1)),), "--arrays"),
        ({"audio": "file"}, (InputSpec("x", (9,), "int32"),), "in floats"),
    ],
)
def test_bad_requests(tmp_path, options, inputs, message):
    path = table_of(tmp_path, ["s.npy"])
    with pytest.raises((InputError, UsageError), match=message) as raised:
        open_table(path, DataOptions(**options), inputs)
    assert "\n" not in str(raised.value)


def test_one_kind_at_a_time():
    with pytest.raises(ValueError, match="images and audio: samples are of one kind"):
        DataOptions(images="a", audio="b")


@pytest.mark.parametrize(
    ("suffix", "form", "subtype", "error"),
    [
        (".flac", "FLAC", "PCM_16", 2.0**-15),
        (".flac", "FLAC", "PCM_24", 2.0**-23),
        (".ogg", "OGG", "VORBIS", 0.05),
        (".ogg", "OGG", "OPUS", 0.05),
        (".wav", "WAV", "FLOAT", 0.0),
        (".wav", "WAV", "ULAW", 0.03),
    ],
)
def test_sounds_that_are_not_pcm(tmp_path, suffix, form, subtype, error):
    soundfile = pytest.importorskip("soundfile", reason='pip install "modelcut[audio]"')
    time = np.arange(4800) / 48000
    wave_ = np.stack([np.sin(2 * np.pi * 440 * time), np.cos(2 * np.pi * 220 * time)], axis=1)
    wanted = (0.5 * wave_).astype("f4")
    name = f"a{suffix}"
    soundfile.write(tmp_path / name, wanted, 48000, format=form, subtype=subtype)
    path = table_of(tmp_path, [name, name])
    spec = (InputSpec("x", (4000, 2)),)
    table = open_table(path, DataOptions(audio="file"), spec)
    found, labels = all_of(table)
    assert found.shape == (2, 4000, 2)
    assert labels[:, 0].tolist() == [0, 1]
    assert table.rate == 48000
    assert np.sqrt(np.square(found[0] - wanted[:4000]).mean()) <= error
    # Longer than the file: filled with zeros.
    longer = open_table(path, DataOptions(audio="file"), (InputSpec("x", (9000, 2)),))
    found, _ = all_of(longer)
    assert not found[0, 4800 + 2048 :].any()  # a codec may end in a block of its own
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=rf"{name}: cannot be read as audio: "):
        all_of(open_table(path, DataOptions(audio="file"), spec))


def test_a_sound_that_is_cut(tmp_path):
    values = RNG.integers(-9000, 9000, (100, 1))
    as_wav(tmp_path / "a.wav", values)
    data = (tmp_path / "a.wav").read_bytes()
    path = table_of(tmp_path, ["a.wav", "a.wav"])
    spec = (InputSpec("x", (100,)),)
    (tmp_path / "a.wav").write_bytes(data[:-60])
    with pytest.raises(InputError, match=r"a\.wav: .* is cut: 184 of 244 bytes are there"):
        all_of(open_table(path, DataOptions(audio="file"), spec))
    # Written to a pipe, the header knows no length.
    head = data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4
    (tmp_path / "a.wav").write_bytes(head + data[44:])
    found, _ = all_of(open_table(path, DataOptions(audio="file"), spec))
    np.testing.assert_array_equal(found[0], (values[:, 0] / 2**15).astype("f4"))


def test_a_folder_of_flac(tmp_path):
    soundfile = pytest.importorskip("soundfile", reason='pip install "modelcut[audio]"')
    for name in ("no", "yes"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "1.flac", np.full(100, 0.25, "f4"), 8000)
    table = open_table(tmp_path, DataOptions(), (InputSpec("x", (100,)),))
    found, labels = all_of(table)
    np.testing.assert_array_equal(found, 0.25)
    assert len(labels) == 2
