"""What a variable of a SavedModel is for: from how the graph uses it, and from its name.

The graph is the better witness where it speaks: the second operand of a `MatMul` is a kernel,
whatever its name. Names decide where the graph is silent, and always for statistics, which no step
may take for weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from modelcut.formats.saved_model.uses import Use
from modelcut.graph.keras import classes
from modelcut.graph.keras.classes import WeightSpec

MAINTENANCE = frozenset(
    """SaveV2 Save SaveSlices Assign AssignVariableOp VarIsInitializedOp IsVariableInitialized
    DestroyResourceOp AssignAddVariableOp AssignSubVariableOp AssignAdd AssignSub Shape
    VariableShape NoOp DisableCopyOnRead Size Rank""".split()
)
"""What is done to a variable without using what is in it."""

_WORDS = {"kernel": "kernel", "bias": "bias", "embedding": "embeddings"}
_PLAIN = re.compile(r"^(Variable(_\d+)?|\d+)$")
_LATER_KERNELS = dict.fromkeys(
    "Conv Conv2D Conv3D _FusedConv2D _FusedConv3D QuantizedConv2D FusedPadConv2D".split(), 1
) | {"SparseTensorDenseMatMul": 3, "FusedPadConv2D": 2}
"""Operations whose operand of this number is a kernel, inputs before outputs in its last axes."""
_TRANSPOSED = frozenset("Conv2DBackpropInput Conv3DBackpropInput Conv3DBackpropInputV2".split())
_DEPTHWISE = frozenset(
    "DepthwiseConv2dNative DepthwiseConv2dNativeBackpropInput _FusedDepthwiseConv2dNative".split()
)
_PRODUCTS = {
    "MatMul": ("transpose_a", "transpose_b"),
    "_FusedMatMul": ("transpose_a", "transpose_b"),
    "SparseMatMul": ("transpose_a", "transpose_b"),
    "BatchMatMul": ("adj_x", "adj_y"),
    "BatchMatMulV2": ("adj_x", "adj_y"),
    "BatchMatMulV3": ("adj_x", "adj_y"),
}
_LOOKUPS = frozenset(
    """Gather GatherV2 GatherNd ResourceGather ResourceGatherNd SparseSegmentMean SparseSegmentSum
    SparseSegmentSqrtN SparseSegmentMeanWithNumSegments SparseSegmentSumWithNumSegments
    SparseSegmentSqrtNWithNumSegments""".split()
)
_NORMS = re.compile(r"^(_FusedBatchNormEx|FusedBatchNorm(V[23])?)$")
_SUMS = frozenset("BiasAdd BiasAddV1 Add AddV2".split())
_TRAINING = re.compile(r"^(Resource)?(Sparse)?Apply[A-Z]")


def real(uses: Sequence[Use]) -> list[Use]:
    """The uses that look at the values."""
    return [use for use in uses if use.op not in MAINTENANCE]


def decide(name: str, rank: int, uses: Sequence[Use], *, complete: bool) -> WeightSpec:
    """Role, kind and axes of a variable.

    Args:
        name: the last part of what it is called.
        rank: number of its axes.
        uses: of it in the graph.
        complete: all uses are known, so that a variable without any takes no part.
    """
    found = [spec for spec in (_from_use(use, rank) for use in real(uses)) if spec is not None]
    named = classes.kind_of(name, rank)
    spec = _strongest(found)
    if named == "state" or (complete and not real(uses)):
        spec = WeightSpec("value", "state")
    elif spec is None:
        last, before = (rank - 1, rank - 2) if named in ("kernel", "recurrent") else (None, None)
        spec = WeightSpec("value", named, None, last, before)
    elif named in ("recurrent", "embedding") and spec.kind == "kernel":
        spec = WeightSpec("value", named, None, spec.out_axis, spec.in_axis)
    return spec


def word(spec: WeightSpec, name: str) -> str:
    """The role of a variable: its own name where that says what it is, else a word for its kind.

    Args:
        spec: as decided.
        name: the last part of what the variable is called; "" where that is the layer's name.
    """
    if name and not _PLAIN.match(name):
        return name
    return _WORDS.get(spec.kind, "value")


_ORDER = ("state", "embedding", "kernel", "norm", "bias")


def _strongest(found: Sequence[WeightSpec]) -> WeightSpec | None:
    """Of several uses the one that forbids most."""
    for kind in _ORDER:
        for spec in found:
            if spec.kind == kind:
                return spec
    return None


def _from_use(use: Use, rank: int) -> WeightSpec | None:
    op, operand = use.op, use.operand
    spec: WeightSpec | None = None
    if op in _PRODUCTS and operand < 2 and rank >= 2:
        flipped = use.node.attribute(_PRODUCTS[op][operand]).integer(5)
        inner = (-2, -1) if operand else (-1, -2)
        spec = _kernel(use, rank, *(reversed(inner) if flipped else inner))
    elif operand == _LATER_KERNELS.get(op) and rank >= 2:
        spec = _kernel(use, rank, -2, -1)
    elif op in _TRANSPOSED and operand == 1 and rank >= 2:
        spec = _kernel(use, rank, -1, -2)
    elif op in _DEPTHWISE and operand == 1 and rank >= 2:
        spec = WeightSpec("kernel", "kernel", None, _axis(use, rank, -2))
    elif op == "Einsum" and rank >= 2:
        spec = _einsum(use, rank)
    elif op in _LOOKUPS and operand == 0 and rank >= 2:
        spec = WeightSpec("embeddings", "embedding", None, rank - 1)
    elif _NORMS.match(op) and 1 <= operand <= 4:
        spec = WeightSpec("value", "norm" if operand < 3 else "state")
    elif op in _SUMS and (operand == 1 or op in ("Add", "AddV2")) and rank == 1:
        spec = WeightSpec("bias", "bias")
    elif _TRAINING.match(op) and operand > 0:
        spec = WeightSpec("value", "state")
    return spec


def _kernel(use: Use, rank: int, inputs: int, outputs: int) -> WeightSpec:
    in_axis, out_axis = _axis(use, rank, inputs), _axis(use, rank, outputs)
    if in_axis is None or out_axis is None:
        in_axis, out_axis = rank - 2, rank - 1
    return WeightSpec("kernel", "kernel", None, out_axis, in_axis)


def _axis(use: Use, rank: int, at: int) -> int | None:
    """The variable's own axis behind one of the value as it is used."""
    if use.axes is None:
        return at % rank
    return use.axes[at] if -len(use.axes) <= at < len(use.axes) else None


def _einsum(use: Use, rank: int) -> WeightSpec | None:
    """A kernel's axes from the equation, such as "abc,cde->abde"."""
    equation = str(use.node.attribute("equation").blob(2), "utf-8", "replace").replace(" ", "")
    left, _, result = equation.partition("->")
    operands = left.split(",")
    if use.operand >= len(operands) or len(operands) != 2:
        return None
    mine = operands[use.operand].replace("...", "")
    if len(mine) != rank or (use.axes is not None and len(use.axes) != rank):
        return WeightSpec("kernel", "kernel", None, rank - 1, rank - 2)
    other = operands[1 - use.operand]
    contracted = [i for i, letter in enumerate(mine) if letter in other and letter not in result]
    outputs = [i for i, letter in enumerate(mine) if letter in result and letter not in other]
    if not contracted or not outputs:
        return None
    return _kernel(use, rank, contracted[0], outputs[-1])
