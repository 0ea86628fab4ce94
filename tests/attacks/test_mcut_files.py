"""Packed files that are cut, flipped or made to harm: named, refused, and never garbage."""

from __future__ import annotations

import resource

import msgpack
import numpy as np
import pytest
from isal import isal_zlib
from toys import MODELS, saved_model

from modelcut.errors import InputError, ModelcutError, UnsafeError
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.formats.mcut import container
from modelcut.formats.mcut.coding import raw
from modelcut.formats.mcut.coding.bits import ByteReader, varint


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.mcut"
    model = registry.open_model(MODELS / "keras3_sequential.h5")
    registry.by_name("mcut").write(model, path, WriteOptions())
    return path.read_bytes()


def values_in(path):
    return {t.name: t.pull()[0].tobytes() for t in registry.open_model(path).tensors}


def test_every_flipped_byte_is_refused(good, tmp_path):
    path = tmp_path / "x.mcut"
    path.write_bytes(good)
    expected = values_in(path)
    for at in range(len(good)):
        for mask in (0x01, 0x80):
            broken = bytearray(good)
            broken[at] ^= mask
            path.write_bytes(broken)
            try:
                assert values_in(path) == expected
            except ModelcutError:
                continue


def test_every_cut_is_refused(good, tmp_path):
    path = tmp_path / "x.mcut"
    for length in range(1, len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(InputError):
            registry.open_model(path)


def test_a_tensor_that_is_damaged_is_named(good, tmp_path):
    path = tmp_path / "x.mcut"
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(InputError, match=r"dense_1/bias is damaged: its checksum"):
        registry.open_model(path)
    path.write_bytes(good[:-1])
    with pytest.raises(InputError, match=r"dense_1/bias is truncated"):
        registry.open_model(path)
    path.write_bytes(good + b"x")
    with pytest.raises(InputError, match="1 bytes follow its end"):
        registry.open_model(path)


def test_a_later_version_is_told_from_damage(good, tmp_path):
    path = tmp_path / "x.mcut"
    path.write_bytes(good[:5] + b"\x03" + good[6:])
    with pytest.raises(InputError, match="version 3") as caught:
        registry.open_model(path)
    assert "upgrade" in caught.value.hint


def apart(data):
    """(head, payloads) of a file."""
    start = ByteReader(data)
    start.take(6)
    header = ByteReader(start.take(start.varint(1 << 30)))
    start.take(4)
    count = header.varint(1000)
    lengths = []
    for _ in range(count):
        lengths.append(header.varint(1 << 40))
        header.take(4)
    size = header.varint(1 << 30)
    head = raw.inflate(
        bytes(header.rest()), size, container._dictionary(container._VERSION), bare=True
    )
    return msgpack.unpackb(head), [bytes(start.take(length)) for length in lengths]


def together(head, payloads):
    """A file whose checksums all hold."""
    directory = [(len(payload), isal_zlib.crc32(payload)) for payload in payloads]
    return container._header(head, directory) + b"".join(payloads)


def tensor_nodes(tree):
    for _, child in tree[2]:
        if child[0] == 0:
            yield from tensor_nodes(child)
        elif child[0] == 1:
            yield child


def huge_shape(head, payloads):
    next(tensor_nodes(head[1]))[2][:] = [1 << 20, 1 << 18]


def negative_shape(head, payloads):
    next(tensor_nodes(head[1]))[2][:] = [-1, 12]


def other_shape(head, payloads):
    next(tensor_nodes(head[1]))[2][:] = [9, 12]


def other_dtype(head, payloads):
    next(tensor_nodes(head[1]))[3] = 99


def twice_the_same_number(head, payloads):
    for node in tensor_nodes(head[1]):
        node[1] = 0


def other_format(head, payloads):
    head[0] = "../../etc/passwd"


def own_format(head, payloads):
    head[0] = "mcut"


def no_tree(head, payloads):
    head[1] = [1, 2, 3]


def climbing_name(head, payloads):
    head[1][2][0][0] = "../../x"


def too_few_records(head, payloads):
    head[3].pop()


def false_encoding(head, payloads):
    head[3][0] = {"kind": "affine", "width": 60, "scale": msgpack.ExtType(1, b"\x00")}


def unknown_encoding(head, payloads):
    head[3][0] = {"kind": "magic"}


def array_that_is_not_there(head, payloads):
    head[3][0] = {"kind": "codebook", "centres": msgpack.ExtType(1, b"\x09")}


def empty_payload(head, payloads):
    payloads[0] = b""


def endless_payload(head, payloads):
    payloads[0] = b"\x03" + varint(1 << 50)


def same_byte_planes(head, payloads):
    """A palette of one value, and a block of one symbol: some bytes for a giant."""
    next(tensor_nodes(head[1]))[2][:] = [1 << 16, 1 << 14]
    payloads[0] = bytes([2, 1, 0, 0, 0, 0, 0, 0, 0, 0]) + b"\x02\x00\x00" * 256


ATTACKS = [
    huge_shape, negative_shape, other_shape, other_dtype, twice_the_same_number, other_format,
    own_format, no_tree, climbing_name, too_few_records, false_encoding, unknown_encoding,
    array_that_is_not_there, empty_payload, endless_payload, same_byte_planes,
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_what_lies_with_sound_checksums_is_refused(attack, good, tmp_path):
    head, payloads = apart(good)
    assert together(head, payloads) == good
    attack(head, payloads)
    path = tmp_path / "x.mcut"
    path.write_bytes(together(head, payloads))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((InputError, UnsafeError)):
        values_in(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


def test_random_payloads_are_refused_or_harmless(good, tmp_path):
    rng = np.random.default_rng(0)
    head, payloads = apart(good)
    path = tmp_path / "x.mcut"
    for round_ in range(300):
        new = [bytearray(payload) for payload in payloads]
        target = new[round_ % len(new)]
        for at in rng.integers(0, len(target), 2):
            target[at] = rng.integers(256)
        path.write_bytes(together(head, [bytes(part) for part in new]))
        try:
            values_in(path)
        except ModelcutError:
            continue


def test_a_head_that_unpacks_to_a_giant_is_refused(tmp_path):
    packed = raw.deflate(bytes(1 << 28), container._dictionary(container._VERSION), bare=True)
    header = varint(0) + varint(1 << 28) + packed
    whole = b"\x89MCUT\x02" + varint(len(header)) + header
    path = tmp_path / "x.mcut"
    path.write_bytes(whole + isal_zlib.crc32(whole).to_bytes(4, "little"))
    with pytest.raises(InputError, match="out of range"):
        registry.open_model(path)


def test_the_command_says_it_in_one_line(good, modelcut, tmp_path):
    path = tmp_path / "x.mcut"
    path.write_bytes(good[:-3])
    said = modelcut("unpack", path, "-o", tmp_path / "o.h5")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "dense_1/bias is truncated" in said.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.mcut"]


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    model = registry.open_model(saved_model("tf_keras", folder))
    registry.by_name("mcut").write(model, folder / "good.mcut", WriteOptions())
    return (folder / "good.mcut").read_bytes()


def entry_of(head, kind):
    return next(entry for entry in head[1][1][1] if entry[4] == kind)


FOLDER_CHANGES = {
    "climbs": lambda head: head[1][0].append(["../evil.marker", b"x"]),
    "absolute": lambda head: head[1][0].append(["/tmp/evil.marker", b"x"]),
    "drive": lambda head: head[1][0].append(["C:/evil.marker", b"x"]),
    "backslash": lambda head: head[1][0].append(["a\\b", b"x"]),
    "twice": lambda head: head[1][0].append(["saved_model.pb", b"x"]),
    "file and folder": lambda head: head[1][0].append(["saved_model.pb/x", b"x"]),
    "no content": lambda head: head[1][0].append(["x", None]),
    "text": lambda head: head[1][0].append(["x", "text"]),
    "a number as name": lambda head: head[1][0].append([7, b""]),
    "many": lambda head: head[1][0].extend([f"f{i}", b""] for i in range(20_001)),
    "no graph": lambda head: head[1][0].clear(),
    "no checkpoint": lambda head: head[1].__setitem__(1, None),
    "key of a number": lambda head: entry_of(head, 0).__setitem__(0, 1 << 50),
    "unknown dtype": lambda head: entry_of(head, 0).__setitem__(1, 99),
    "string dtype": lambda head: entry_of(head, 0).__setitem__(1, 7),
    "negative shape": lambda head: entry_of(head, 0).__setitem__(2, [-1, 4]),
    "huge shape": lambda head: entry_of(head, 0).__setitem__(2, [1 << 20, 1 << 20]),
    "endless zeros": lambda head: entry_of(head, 2).__setitem__(2, [1 << 40]),
    "wrong number": lambda head: entry_of(head, 0).__setitem__(5, 3000),
    "dtype by name": lambda head: entry_of(head, 0).__setitem__(6, "object"),
    "copy of nothing": lambda head: entry_of(head, 0).__setitem__(slice(4, None), [3, 999]),
    "raw cut short": lambda head: entry_of(head, 1).__setitem__(6, b"x"),
    "raw of a text": lambda head: entry_of(head, 1).__setitem__(6, "text"),
    "one entry less": lambda head: head[1][1][1].remove(entry_of(head, 0)),
    "a key twice": lambda head: head[1][1][1].append(list(entry_of(head, 1))),
    "entries of text": lambda head: head[1][1].__setitem__(1, "abc"),
    "not a pair": lambda head: head.__setitem__(1, 5),
}


@pytest.mark.parametrize("change", FOLDER_CHANGES)
def test_a_folder_that_does_not_hold(change, packed_folder, tmp_path, modelcut):
    head, payloads = apart(packed_folder)
    FOLDER_CHANGES[change](head)
    path = tmp_path / "x.mcut"
    path.write_bytes(together(head, payloads))
    said = modelcut("unpack", path, "-o", tmp_path / "out", "-q")
    assert said.code in (2, 3), said
    assert said.err.count("\n") == 1, said.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.mcut"]
    if change in ("climbs", "absolute", "drive", "backslash"):
        assert said.code == 3
