"""SavedModels that read, write, loop, lie about sizes, lead outside, or are broken."""

from __future__ import annotations

import json

import pytest
from toys import saved_model

from modelcut.errors import ModelcutError
from modelcut.formats import registry
from modelcut.formats.files import OnDisk
from modelcut.formats.saved_model import bundle as saved_model_bundle
from modelcut.formats.saved_model import folder as saved_model_folder
from modelcut.formats.saved_model import sstable
from modelcut.formats.saved_model.meta_graph import MetaGraph
from modelcut.formats.saved_model.proto import Message, put_blob, put_integer, read_varint, varint

META, GRAPH, OBJECTS = 2, 2, 7


def rewrite(data, number, change, only=lambda part: True):
    """A message with the submessages of a field changed."""
    result, at = b"", 0
    while at < len(data):
        start = at
        tag, at = read_varint(data, at)
        if tag & 7 == 2:
            length, at = read_varint(data, at)
            part, at = data[at : at + length], at + length
            if tag >> 3 == number and only(part):
                result += put_blob(number, change(part))
                continue
        elif tag & 7 == 0:
            _, at = read_varint(data, at)
        else:
            at += 4 if tag & 7 == 5 else 8
        result += data[start:at]
    return result


def graph_of(folder, change):
    """Changes the meta graph."""
    path = folder / "saved_model.pb"
    path.write_bytes(rewrite(path.read_bytes(), META, change))
    return folder


def node(name, op, *inputs):
    return put_blob(1, name.encode()) + put_blob(2, op.encode()) + b"".join(
        put_blob(3, given.encode()) for given in inputs
    )  # fmt: skip


def in_main_graph(folder, made):
    return graph_of(folder, lambda meta: rewrite(meta, GRAPH, lambda g: g + put_blob(1, made)))


def in_function(folder, made, wanted):
    """Adds an operation to the functions whose name holds a word."""

    def into_library(library):
        return rewrite(
            library,
            1,
            lambda function: function + put_blob(3, made),
            lambda function: wanted in Message(function).message(1).text(1),
        )

    return graph_of(
        folder,
        lambda meta: rewrite(meta, GRAPH, lambda g: rewrite(g, 2, into_library)),
    )


def named(folder, child):
    """Name of the first function that an object has under this name."""
    graph = saved_model_folder.serving_graph(OnDisk(folder, str(folder)))
    numbers = [n for item in graph.objects for name, n in item.children if name == child]
    return graph.objects[numbers[0]].functions[0]


OPS = [
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "PyFunc",
    "EagerPyFunc",
    "PyFuncStateless",
    "TextLineDataset",
    "TFRecordDataset",
    "WholeFileReaderV2",
    "DecodeProtoV2",
    "DebugIdentity",
    "WriteSummary",
    "WriteScalarSummary",
    "CreateSummaryFileWriter",
    "LoadAndRemapMatrix",
    "ImmutableConst",
    "RpcCall",
    "RemoteCall",
    "_Send",
    "XlaLaunch",
    "XlaCallModule",
    "TPUExecute",
    "SomebodysOwnOp",
]


@pytest.mark.parametrize("op", OPS)
def test_operations_that_do_more_than_compute(op, tmp_path, refused):
    folder = in_main_graph(saved_model("module", tmp_path), node("evil", op))
    refused(folder, 3, words=f"operation {op}")


@pytest.mark.parametrize("op", ["EagerPyFunc", "WriteFile"])
def test_operations_inside_functions(op, tmp_path, refused):
    folder = in_function(saved_model("keras3", tmp_path), node("evil", op), "__call__")
    refused(folder, 3, words=f"operation {op}")


def test_printing_into_a_file(tmp_path, refused):
    stream = put_blob(1, b"output_stream") + put_blob(2, put_blob(2, b"file:///tmp/x"))
    folder = in_main_graph(
        saved_model("module", tmp_path), node("p", "PrintV2") + put_blob(5, stream)
    )
    refused(folder, 3, words="PrintV2")


def test_a_main_op_that_writes(tmp_path, refused):
    folder = in_main_graph(saved_model("v1", tmp_path), node("w", "WriteFile"))
    collection = put_blob(1, b"saved_model_main_op") + put_blob(2, put_blob(1, put_blob(1, b"w")))
    graph_of(folder, lambda meta: meta + put_blob(4, collection))
    refused(folder, 3, words="WriteFile")


@pytest.mark.parametrize("op", ["SaveV2", "RestoreV2", "MergeV2Checkpoints"])
def test_checkpoints_in_what_is_run(op, tmp_path, refused):
    folder = in_function(saved_model("module", tmp_path), node("c", op), "score")
    refused(folder, 3, words=op)


@pytest.mark.parametrize("op", ["SaveV2", "RestoreV2"])
def test_a_restore_op_that_goes_elsewhere(op, tmp_path, refused):
    folder = saved_model("v1", tmp_path)
    restore = saved_model_folder.serving_graph(OnDisk(folder, str(folder))).saver[2]
    in_main_graph(folder, node("path", "Const"))
    in_main_graph(folder, node("c", op, "path"))

    def also(meta):
        return rewrite(
            meta,
            GRAPH,
            lambda g: rewrite(
                g,
                1,
                lambda n: n + put_blob(3, b"^c"),
                lambda n: Message(n).text(1) == restore,
            ),
        )

    graph_of(folder, also)
    refused(folder, 3, words=op)


def test_a_table_of_a_file_that_is_no_asset(tmp_path, refused):
    folder = saved_model("module", tmp_path)
    made = node("t", "InitializeTableFromTextFileV2", "elsewhere", "elsewhere:output:0")
    in_function(folder, made, named(folder, "_initialize"))
    refused(folder, 3, words="no asset")


@pytest.mark.parametrize("loop", ["While", "StatelessWhile", "NextIteration"])
def test_a_loop_at_loading(loop, tmp_path, refused):
    folder = saved_model("module", tmp_path)
    in_function(folder, node("l", loop), named(folder, "_initialize"))
    refused(folder, 3, words="loop that runs at loading")


def test_trust_lets_it_through(tmp_path):
    folder = in_main_graph(saved_model("module", tmp_path), node("evil", "WriteFile"))
    model = registry.by_name("saved_model").read(folder)
    registry.by_name("saved_model").check_runnable(model, trust=True)


def test_code_in_the_metadata_of_keras(tmp_path, refused):
    folder = saved_model("tf_keras", tmp_path)
    path = folder / "keras_metadata.pb"
    layer = {"class_name": "Lambda", "config": {"name": "l", "function": ["4wEAAAA=", None, None]}}
    text = json.dumps({"name": "l", **layer}).encode()
    path.write_bytes(path.read_bytes() + put_blob(1, put_integer(2, 99) + put_blob(5, text)))
    refused(folder, 3, words="Lambda")


@pytest.mark.parametrize("out", ["out", "out.tflite"])
def test_code_in_layers_that_keras_would_build_again(out, tmp_path, modelcut, in_one_line):
    """A graph runs without its layers; what is made of them anew does not."""
    folder = saved_model("tf_keras", tmp_path)
    path = folder / "keras_metadata.pb"
    old = b'"activation": "relu"'
    new = b'"activation": {"module": "sidecar", "class_name": "f", "registered_name": "f"}'
    data = rewrite(path.read_bytes(), 1, lambda one: rewrite(one, 5, lambda t: t.replace(old, new)))
    assert new in data
    path.write_bytes(data)
    said = modelcut("factorize", folder, "--rank", "1", "-o", tmp_path / out)
    in_one_line(said, 3)
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize(
    "name", ["../../../secret.txt", "/etc/passwd", "..\\secret.txt", "a/../../b", "C:\\x"]
)
def test_assets_outside(name, tmp_path, refused):
    folder = graph_of(
        saved_model("module", tmp_path),
        lambda meta: rewrite(meta, 6, lambda asset: put_blob(2, name.encode())),
    )
    refused(folder, 3, words="leads out")


def test_a_missing_asset(tmp_path, refused):
    folder = saved_model("module", tmp_path)
    (folder / "assets" / "words.txt").unlink()
    refused(folder, 2, words="is missing")


@pytest.mark.parametrize("name", ["variables", "saved_model.pb", "assets/words.txt"])
def test_links(name, tmp_path, refused):
    folder = saved_model("module", tmp_path)
    (tmp_path / "outside").mkdir()
    moved = tmp_path / "outside" / "it"
    (folder / name).rename(moved)
    (folder / name).symlink_to(moved)
    refused(folder, 3, words="is a link")


def test_no_graph_for_serving(tmp_path, refused):
    def training(meta):
        return rewrite(meta, 1, lambda info: rewrite(info, 4, lambda tag: b"train"))

    refused(graph_of(saved_model("v1", tmp_path), training), 2, words="only train")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("variables/variables.data-00000-of-00001", "is missing"),
        ("variables/variables.index", "has no variables/variables.index"),
        ("saved_model.pb", "has no saved_model.pb"),
    ],
)
def test_missing_files(name, words, tmp_path, refused):
    folder = saved_model("keras3", tmp_path)
    (folder / name).unlink()
    refused(folder, 2, words=words)


def test_folders_without_a_model(tmp_path, refused):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", 2, words="without a model")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "saved_model.pbtxt").write_text("garbage {")
    refused(tmp_path / "text", 2, words="pbtxt")


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("variables/variables.data-00000-of-00001", 0.5),
        ("variables/variables.index", 0.9),
        ("saved_model.pb", 0.99),
        ("saved_model.pb", 0.3),
    ],
)
def test_files_cut_short(name, share, tmp_path, refused):
    path = saved_model("keras3", tmp_path) / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(tmp_path / "keras3", 2)


def _dims(*sizes):
    return b"".join(put_blob(2, put_integer(1, n)) for n in sizes)


def test_a_graph_that_declares_4_tib(tmp_path, refused):
    def larger(item):
        return rewrite(item, 7, lambda v: rewrite(v, 2, lambda shape: _dims(1 << 20, 1 << 20)))

    folder = graph_of(
        saved_model("keras3", tmp_path),
        lambda meta: rewrite(meta, OBJECTS, lambda graph: rewrite(graph, 1, larger)),
    )
    refused(folder, 2, words="declares 1048576×1048576")


@pytest.mark.parametrize("sizes", [(1 << 20, 1 << 20), (1 << 62, 1 << 62), (-1, 4)])
def test_a_checkpoint_that_declares_4_tib(sizes, tmp_path, refused):
    folder = saved_model("v1", tmp_path)
    path = folder / "variables" / "variables.index"
    rows = sstable.read(path.read_bytes())
    key, value = rows[2]
    rows[2] = key, rewrite(value, 2, lambda shape: b"".join(
        put_blob(2, varint(8) + varint(n)) for n in sizes
    ))  # fmt: skip
    path.write_bytes(sstable.write(rows))
    refused(folder, 2)


def test_an_index_that_repeats_a_place_without_end(tmp_path):
    folder = saved_model("v1", tmp_path)
    prefix = folder / "variables" / "variables"
    bundle = saved_model_bundle.Bundle(prefix, "v1")
    entry = max(bundle.entries.values(), key=lambda entry: entry.size)
    big = saved_model_bundle.shard_path(prefix, 0, 1)
    with big.open("ab") as file:
        file.truncate(64 << 20)
    rows = [(b"", bundle.header)]
    for number in range(20_000):
        one = saved_model_bundle.Entry(b"k%05d" % number, 1, (1 << 24,), 0, 0, 64 << 20, entry.crc)
        rows.append((one.key, saved_model_bundle.packed(one)))
    prefix.with_name("variables.index").write_bytes(sstable.write(rows))
    with pytest.raises(ModelcutError, match="far more than"):
        registry.by_name("saved_model").read(folder)


@pytest.mark.parametrize("kind", ["keras3", "module", "v1"])
@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index"])
def test_flipped_bits_give_one_line_or_a_result(kind, name, tmp_path, modelcut):
    folder = saved_model(kind, tmp_path)
    path = folder / name
    raw = path.read_bytes()
    for position in range(0, len(raw), max(1, len(raw) // 60)):
        data = bytearray(raw)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        said = modelcut("prune", folder, "--sparsity", "0.5", "-q", "-o", tmp_path / "out")
        assert said.code in (0, 2, 3), (position, said)
        assert said.err.count("\n") == (1 if said.code else 0)


def test_functions_that_call_each_other_endlessly(tmp_path, refused):
    folder = saved_model("keras3", tmp_path)
    graph = saved_model_folder.serving_graph(OnDisk(folder, str(folder)))
    assert isinstance(graph, MetaGraph)
    name = next(iter(graph.bound))
    made = node("again", "PartitionedCall") + put_blob(
        5, put_blob(1, b"f") + put_blob(2, put_blob(10, put_blob(1, name.encode())))
    )
    in_function(folder, made, name)
    model = registry.by_name("saved_model").read(folder)  # it ends
    assert len(list(model.tensors)) == 10


def _constant(shape, dtype=1, **fields):
    """A node of a constant."""
    numbers = {"content": 4, "float": 5}
    tensor = put_integer(1, dtype) + put_blob(2, _dims(*shape))
    tensor += b"".join(put_blob(numbers[name], data) for name, data in fields.items())
    value = put_blob(1, b"value") + put_blob(2, put_blob(8, tensor))
    return node("lie", "Const") + put_blob(5, value)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (_constant((3, 4), content=bytes(47)), "declares 3×4 of float32, 48 bytes, and holds 47"),
        (_constant((3, 4), content=bytes(52)), "holds 52"),
        (_constant((1 << 20, 1 << 20), float=bytes(4)), "declares 1048576×1048576 values"),
        (_constant((1 << 40,), 7), "declares 1099511627776 values"),
        (_constant((-1, 4), content=bytes(16)), "declares no shape"),
    ],
    ids=["too few", "too many", "4 TiB of one value", "texts", "below 0"],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_constant_whose_shape_lies(inside, made, words, tmp_path, modelcut, in_one_line):
    folder = saved_model("module", tmp_path)
    in_function(folder, made, "score") if inside else in_main_graph(folder, made)
    in_one_line(
        modelcut("prune", folder, "--sparsity", "0.5", "-o", tmp_path / "o"), 2, words=words
    )
    in_one_line(modelcut("scan", folder), 2, words="'lie'")


def test_a_constant_of_one_value_for_many_is_none(tmp_path, modelcut):
    folder = in_main_graph(saved_model("module", tmp_path), _constant((1000, 1000), float=bytes(4)))
    assert modelcut("prune", folder, "--sparsity", "0.5", "-o", tmp_path / "o").code == 0


@pytest.mark.parametrize("kind", ["WriteFile", "EagerPyFunc", "a main op", "an init op"])
def test_a_step_that_edits_weights_says_what_it_carries(kind, tmp_path, modelcut):
    """Nothing is run; whoever loads the pruned folder may run it."""
    if kind == "a main op":
        folder = in_main_graph(saved_model("v1", tmp_path), node("w", "WriteFile"))
        main = put_blob(1, b"saved_model_main_op") + put_blob(2, put_blob(1, put_blob(1, b"w")))
        graph_of(folder, lambda meta: meta + put_blob(4, main))
        word = "WriteFile"
    elif kind == "an init op":
        folder = saved_model("module", tmp_path)
        in_function(folder, node("l", "While"), named(folder, "_initialize"))
        word = "a loop that runs at loading"
    else:
        folder = in_main_graph(saved_model("module", tmp_path), node("w", kind))
        word = f"operation {kind}"
    for command in (("prune", "--sparsity", "0.5"), ("pack",)):
        out = tmp_path / ("o.mcut" if command[0] == "pack" else "o")
        said = modelcut(command[0], folder, *command[1:], "-o", out)
        assert said.code == 0, said
        assert word in said.out
        assert "carried through unexecuted; loading the file may run it" in said.out
