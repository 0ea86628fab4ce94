"""What Keras' own quantization, and LoRA, make of the weights of a layer.

`model.quantize(...)` leaves its mode in the layer's dtype policy ("int8", "int4/128",
"gptq/4/-1"), and `enable_lora` a rank. Both replace and add weights, in an order that a `.keras`
file has from `variable_serialization_spec` (keras/src/layers/core/dense.py) and an `.h5` file from
the order in which a fresh layer creates them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from modelcut.graph.keras.classes import Config, Shape, WeightSpec, integer, units, weights

_MODE = re.compile(r"^(int8|int4|float8|gptq|awq)(?:/([\d/-]+))?(?:_from_\w+)?$")
_QUANTIZED = frozenset("Dense EinsumDense Embedding".split())
_WITH_LORA = _QUANTIZED | frozenset("Conv1D Conv2D Conv3D".split())
_ATTENTION = frozenset("MultiHeadAttention GroupedQueryAttention GroupQueryAttention".split())
_ATTENTION_MODES = ("int8", "int4", "float8")
_FLOAT8 = (
    "inputs_scale inputs_amax_history kernel_scale kernel_amax_history outputs_grad_scale"
    " outputs_grad_amax_history"
).split()


@dataclass(frozen=True)
class Part:
    """One weight of such a layer, in the order in which a fresh layer creates them.

    Attributes:
        spec: what it is.
        place: its number in a `.keras` file; None: it is not kept there (LoRA's factors).
        frozen: Keras does not train it.
    """

    spec: WeightSpec
    place: int | None
    frozen: bool


def mode(config: Config) -> str:
    """Keras' quantization mode of a layer: int8, int4, float8, gptq or awq; "" for none."""
    found = _policy(config)
    return found[1] if found else ""


def _policy(config: Config) -> re.Match[str] | None:
    dtype: Any = config.get("dtype")
    if isinstance(dtype, dict):
        inner = dtype.get("config")
        dtype = inner.get("mode", inner.get("name")) if isinstance(inner, dict) else None
    return _MODE.match(dtype) if isinstance(dtype, str) else None


def lora_rank(class_name: str, config: Config) -> int | None:
    """The rank of a layer's LoRA factors; None where it has none."""
    return integer(config.get("lora_rank")) or None if class_name in _WITH_LORA else None


def is_changed(class_name: str, config: Config) -> bool:
    """Whether a layer has other weights than its class says, by Keras' quantization or LoRA."""
    by_mode = class_name in _QUANTIZED and bool(mode(config))
    return by_mode or lora_rank(class_name, config) is not None


def forms(class_name: str, config: Config) -> list[list[Part]]:
    """The lists of weights that a layer may have, likelier ones first.

    There are several where the configuration does not tell: `kernel_zero` and `g_idx` of int4 are
    there for blocks only; Keras 3.15 leaves `kernel_zero` of GPTQ and AWQ out of `.keras` files;
    and an attention's configuration does not say that its projections are quantized.

    Returns:
        [] for a layer that Keras has not changed; an attention's are besides its plain one.
    """
    if class_name in _ATTENTION:
        return [_attention(weights(class_name, config), how) for how in _ATTENTION_MODES]
    if not is_changed(class_name, config):
        return []
    own = weights(class_name, config)
    how = mode(config) if class_name in _QUANTIZED else ""
    found = [_parts(own, how, _bits(config))]
    optional = {"int4": ("_zero", "g_idx"), "gptq": ("_zero",), "awq": ("_zero",)}.get(how)
    if optional:
        found.append(_without(found[0], optional))
    rank = lora_rank(class_name, config)
    return [_with_lora(parts, how) for parts in found] if rank is not None else found


def _bits(config: Config) -> int:
    found = _policy(config)
    settings = (found[2] or "").split("/") if found else []
    return int(settings[0]) if settings and settings[0].isdigit() else 4


def _parts(own: Sequence[WeightSpec], how: str, bits: int) -> list[Part]:
    """Of a layer that owns a kernel (or embeddings), and perhaps a bias."""
    kernel, biases = own[0], list(own[1:])
    role = kernel.role
    placed = [kernel.role, *(spec.role for spec in biases)]
    extra: list[WeightSpec] = []
    if how == "float8":
        extra = [_extra(name) for name in _FLOAT8]
        kernel = replace(kernel, held="float8 when run")
    elif how in ("gptq", "awq"):
        names = [
            f"{role}_scale",
            f"{role}_zero",
            *(["awq_scales"] if how == "awq" else []),
            "g_idx",
        ]
        extra = [_extra(name) for name in names]
        placed = [*(spec.role for spec in biases), role]
        each = "int4, 2 a byte" if how == "awq" or bits == 4 else f"int{bits}"
        kernel = replace(kernel, shape=None, out_axis=0, in_axis=1, held=f"{how} {each}")
    elif how:
        extra = [_extra(f"{role}_scale")]
        if how == "int4":
            extra += [_extra(f"{role}_zero"), _extra("g_idx")]
            kernel = replace(kernel, shape=None, held="int4, 2 a byte")
        else:
            kernel = replace(kernel, held="int8")
    placed += [spec.role for spec in extra]
    trained = how == "float8" or not how
    created = [kernel, *extra, *biases] if how != "float8" else [*extra, kernel, *biases]
    return [
        Part(spec, placed.index(spec.role), frozen=not trained and spec not in biases)
        for spec in created
    ]


def _extra(role: str) -> WeightSpec:
    return WeightSpec(role, "state")


def _without(parts: Sequence[Part], endings: tuple[str, ...]) -> list[Part]:
    kept = [part for part in parts if not part.spec.role.endswith(endings)]
    order = sorted(part.place for part in kept if part.place is not None)
    return [
        replace(part, place=None if part.place is None else order.index(part.place))
        for part in kept
    ]


def _with_lora(parts: Sequence[Part], how: str) -> list[Part]:
    """The kernel is frozen then, and two factors are trained; a `.keras` file has them merged."""
    first = next(part for part in parts if part.spec.kind in ("kernel", "embedding"))
    role = first.spec.role
    base = [
        replace(part, spec=replace(part.spec, held=part.spec.held or "base of LoRA"), frozen=True)
        if part is first
        else part
        for part in parts
    ]
    factor = f"factor of LoRA{f', {how}' if how else ''}"
    added = [WeightSpec(f"lora_{role}_{one}", first.spec.kind, held=factor) for one in "ab"]
    return [*base, *(Part(spec, None, frozen=False) for spec in added)]


def _attention(own: Sequence[WeightSpec], how: str) -> list[Part]:
    """Each projection is an EinsumDense, with a group of its own in a `.keras` file."""
    found: list[Part] = []
    for kernel in (spec for spec in own if spec.role.endswith("/kernel")):
        name = kernel.role.partition("/")[0]
        bias = [spec for spec in own if spec.role == f"{name}/bias"]
        plain = [replace(spec, role=spec.role.partition("/")[2]) for spec in (kernel, *bias)]
        for part in _parts(plain, how, 4):
            found.append(replace(part, spec=replace(part.spec, role=f"{name}/{part.spec.role}")))
    return found


def plain_config(config: Config) -> dict[str, Any]:
    """A layer's configuration as if Keras had not changed its weights, wrapped layers too."""
    kept = {key: value for key, value in config.items() if key not in ("dtype", "lora_rank")}
    inner = config.get("layer")
    if isinstance(inner, dict) and isinstance(inner.get("config"), dict):
        kept["layer"] = {**inner, "config": plain_config(inner["config"])}
    return kept


def plain_shape(class_name: str, config: Config, stored: Sequence[int], held: str) -> Shape | None:
    """The shape of a kernel before Keras packed or turned it; None where that is not known.

    Args:
        class_name: class name of the layer that owns it.
        config: configuration of that layer.
        stored: the shape in the file.
        held: how Keras holds it (`WeightSpec.held`).
    """
    turned = held.startswith(("gptq", "awq"))
    if not turned and "a byte" not in held:
        return tuple(stored)
    if class_name == "Dense" and len(stored) == 2:
        return (stored[1] if turned else stored[0], units(config))
    if class_name == "EinsumDense" and len(stored) == 2:
        return _einsum_kernel(config, stored[1] if turned else stored[0])
    return None


def _einsum_kernel(config: Config, rows: int) -> Shape | None:
    """A kernel of as many values: what is contracted, and the other axes of the kernel."""
    found = re.fullmatch(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)", str(config.get("equation")))
    said = config.get("output_shape")
    said = [said] if isinstance(said, int) else said
    if found is None or not isinstance(said, list):
        return None
    sizes = dict(zip(found[3][1:], said, strict=False))
    return (rows, *(integer(sizes.get(axis)) for axis in found[2] if axis in found[3]))


def why_fixed(held: str) -> str:
    """Why no step edits a tensor that Keras holds so."""
    if "LoRA" in held:
        return "LoRA adds a product of two factors to the kernel: merge them first (save as .keras)"
    return f"quantized by Keras ({held}): no step follows it"
