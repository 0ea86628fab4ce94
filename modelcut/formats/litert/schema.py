"""What stands in a `.tflite`: its tensors, operators and signatures, checked, nothing run.

The layout is LiteRT's schema (version 3), whose field numbers are written out here; only what
modelcut reports or must refuse is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modelcut.errors import InputError, UnsafeError
from modelcut.formats.litert.flatbuffer import Buffer, BufferTable
from modelcut.safety import printable

IDENTIFIER = b"TFL3"

OPERATORS = (
    "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE"
    " EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D"
    " LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1"
    " RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS"
    " SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER"
    " BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE"
    " UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT"
    " LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG"
    " PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE"
    " EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD"
    " REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV"
    " REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU"
    " SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE"
    " RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE"
    " NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM"
    " BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D"
    " IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL"
    " CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS"
    " RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE"
    " RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2"
    " UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT".split()
)
"""Names by number; the numbers above are StableHLO's, which the interpreter does not run."""

TYPES: dict[int, tuple[str, int]] = {
    0: ("float32", 32),
    1: ("float16", 16),
    2: ("int32", 32),
    3: ("uint8", 8),
    4: ("int64", 64),
    5: ("string", 0),
    6: ("bool", 8),
    7: ("int16", 16),
    8: ("complex64", 64),
    9: ("int8", 8),
    10: ("float64", 64),
    11: ("complex128", 128),
    12: ("uint64", 64),
    13: ("resource", 0),
    14: ("variant", 0),
    15: ("uint32", 32),
    16: ("uint16", 16),
    17: ("int4", 4),
    18: ("bfloat16", 16),
}
"""Type number -> name, and bits a value (0: of no fixed size)."""

_MAPPED_BYTES = 64 << 20

MAX_VALUES = 1 << 30
"""Values that one tensor may declare; 4 GiB of float32."""


@dataclass(frozen=True)
class Quantization:
    """Quantization parameters, `scale * (code - zero_point)`: one, or one per channel."""

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int


@dataclass(frozen=True)
class LiteRTTensor:
    """One tensor of one subgraph.

    Attributes:
        name: as the file says, of any kind.
        shape: with the batch axis.
        signature: like `shape`, -1 for an axis of any length; empty where the file has none.
        dtype: of `TYPES`.
        raw: the bytes of a constant; empty for what is computed.
        quantization: None where the values stand for themselves.
        sparse: the constant is stored in LiteRT's sparse form.
    """

    name: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    dtype: str
    raw: np.ndarray
    quantization: Quantization | None
    sparse: bool


@dataclass(frozen=True)
class Operation:
    """One operator: its name, and the numbers of its tensors; -1 for an input left out."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Subgraph:
    """One subgraph."""

    name: str
    values: tuple[LiteRTTensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class File:
    """A whole `.tflite`.

    Attributes:
        graphs: the first is the network, the others are bodies of its loops and conditions.
        custom: operators that are not LiteRT's own: their code comes from elsewhere.
        description: who wrote it, as it says.
        metadata: name -> bytes.
        inputs, outputs: of the first graph by the names of its signature (or of its tensors).
    """

    graphs: tuple[Subgraph, ...]
    custom: tuple[str, ...]
    description: str
    metadata: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)


def parse(path: Path, *, writable: bool = False) -> File:
    """Reads a file; constants of a large one are read from the disk when they are used.

    A file of up to 64 MiB is read into memory, so that no file is left open; a larger one, and one
    that is written to, is mapped for as long as its constants are in use.

    Args:
        path: of the file.
        writable: changes of a constant or a scale are written into the file.

    Raises:
        InputError: it is broken, or declares what no machine holds.
        UnsafeError: it reaches outside itself.
    """
    where = str(path)
    if path.stat().st_size < 8:
        raise InputError(f"{where}: damaged: too short for a .tflite file")
    mapped = writable or path.stat().st_size > _MAPPED_BYTES
    data = (
        np.memmap(path, np.uint8, "r+" if writable else "r")
        if mapped
        else np.frombuffer(path.read_bytes(), np.uint8)
    )
    buffer = Buffer(data, where)
    model = buffer.root()
    if model.scalar(0, "I") != 3:
        raise InputError(f"{where}: version {model.scalar(0, 'I')} of LiteRT's schema, not 3")
    if model.tables(8) or model.tables(9):
        raise UnsafeError(f"{where}: keeps its weights in other files")
    codes = [_operator(table, where) for table in model.tables(1)]
    buffers = [_bytes(table) for table in model.tables(4)]
    graphs = tuple(_graph(table, buffers, codes, where) for table in model.tables(2))
    if not graphs or not graphs[0].inputs or not graphs[0].outputs:
        raise InputError(f"{where}: holds no network with inputs and outputs")
    metadata = {}
    for table in model.tables(6):
        metadata[table.text(0)] = _at(buffers, table.scalar(1, "I"), where, "buffer")
    inputs = {graphs[0].values[i].name: i for i in graphs[0].inputs}
    outputs = {graphs[0].values[i].name: i for i in graphs[0].outputs}
    signatures = [table for table in model.tables(7) if table.scalar(4, "I") == 0]
    if len(signatures) == 1:
        named = [_names(signatures[0].tables(number)) for number in (0, 1)]
        if set(named[0].values()) == set(inputs.values()):
            inputs = {n: i for i in graphs[0].inputs for n, at in named[0].items() if at == i}
        if set(named[1].values()) == set(outputs.values()):
            outputs = {n: i for i in graphs[0].outputs for n, at in named[1].items() if at == i}
    if len(inputs) != len(graphs[0].inputs):
        raise InputError(f"{where}: two inputs have one name")
    custom = tuple(sorted({name.partition(":")[2] for name in codes if name.startswith("CUSTOM:")}))
    return File(graphs, custom, model.text(3), metadata, inputs, outputs)


def codes(value: LiteRTTensor) -> np.ndarray:
    """The values of a constant as they are stored, those of 4 bits unpacked."""
    if value.dtype != "int4":
        return value.raw.view(np.dtype(value.dtype).newbyteorder("<")).reshape(value.shape)
    pairs = np.stack([value.raw << 4, value.raw], axis=-1).ravel()
    count = int(np.prod(value.shape, dtype=np.int64))
    return (pairs[:count].view(np.int8) >> 4).reshape(value.shape)


def _operator(table: BufferTable, where: str) -> str:
    code = max(table.scalar(0, "b"), table.scalar(3, "i"))
    if code < 0 or code > 1000:
        raise InputError(f"{where}: damaged: unknown operator number {code}")
    custom = table.text(1)
    if custom or code == OPERATORS.index("CUSTOM"):
        return f"CUSTOM:{printable(custom, 60)}"
    return OPERATORS[code] if code < len(OPERATORS) else f"STABLEHLO_{code}"


def _bytes(table: BufferTable) -> np.ndarray:
    offset, count = table.scalar(1, "Q"), table.scalar(2, "Q")
    if offset <= 1 and not count:
        return table.vector(0, "u1")
    # Files over 2 GB keep constants behind the FlatBuffer.
    if offset + count > len(table.buffer.data):
        raise table.buffer.broken("a constant lies outside the file")
    return table.buffer.data[offset : offset + count]


def _at(items: Sequence[np.ndarray], index: int, where: str, what: str) -> np.ndarray:
    if not 0 <= index < len(items):
        raise InputError(f"{where}: damaged: {what} {index} of {len(items)}")
    return items[index]


def _names(maps: Sequence[BufferTable]) -> dict[str, int]:
    return {table.text(0): table.scalar(1, "I") for table in maps}


def _graph(table: BufferTable, buffers: list[np.ndarray], codes: list[str], where: str) -> Subgraph:
    values = tuple(_value(entry, buffers, where) for entry in table.tables(0))
    operations = []
    for entry in table.tables(3):
        index = entry.scalar(0, "I")
        if index >= len(codes):
            raise InputError(f"{where}: damaged: operator {index} of {len(codes)}")
        numbers = [_indices(entry, number, len(values), where, least=-1) for number in (1, 2)]
        operations.append(Operation(codes[index], numbers[0], numbers[1]))
    inputs = _indices(table, 1, len(values), where)
    outputs = _indices(table, 2, len(values), where)
    return Subgraph(table.text(4), values, inputs, outputs, tuple(operations))


def _indices(
    table: BufferTable, number: int, count: int, where: str, least: int = 0
) -> tuple[int, ...]:
    found = table.vector(number, "i4")
    if found.size and (int(found.min()) < least or int(found.max()) >= count):
        raise InputError(f"{where}: damaged: a tensor number is not among the {count} tensors")
    return tuple(int(n) for n in found)


def _value(table: BufferTable, buffers: list[np.ndarray], where: str) -> LiteRTTensor:
    number = table.scalar(1, "b")
    if number not in TYPES:
        raise InputError(f"{where}: a tensor of the unknown type {number}")
    dtype, bits = TYPES[number]
    shape = tuple(int(n) for n in table.vector(0, "i4"))
    name = table.text(3)
    if len(shape) > 8 or min(shape, default=0) < 0 or math.prod(shape) > MAX_VALUES:
        raise InputError(f"{where}: tensor {printable(name, 60)!r} declares the shape {shape[:9]}")
    raw = _at(buffers, table.scalar(2, "I"), where, "buffer")
    sparse = table.has(6)
    if raw.size and bits and not sparse and raw.size != (math.prod(shape) * bits + 7) // 8:
        raise InputError(
            f"{where}: damaged: tensor {printable(name, 60)!r} of shape {shape} holds "
            f"{raw.size:,} bytes"
        )
    signature = tuple(int(n) for n in table.vector(7, "i4"))
    quantization = _quantization(table.table(4), shape, f"{where}: tensor {printable(name, 60)!r}")
    return LiteRTTensor(name, shape, signature, dtype, raw, quantization, sparse)


def _quantization(
    table: BufferTable | None, shape: tuple[int, ...], where: str
) -> Quantization | None:
    if table is None:
        return None
    scale = table.vector(2, "f4")
    if not scale.size:
        return None
    zero = table.vector(3, "i8")
    axis = table.scalar(6, "i")
    zero = zero if zero.size else np.zeros(scale.size, "i8")
    wanted = 1 if scale.size == 1 else shape[axis] if 0 <= axis < len(shape) else -1
    fits = scale.size == wanted and zero.size in (1, scale.size)
    if not fits or not np.isfinite(scale).all() or (scale < 0).any():
        raise InputError(f"{where}: its scales do not fit the shape {shape}")
    return Quantization(scale, np.broadcast_to(zero, scale.shape), axis)
