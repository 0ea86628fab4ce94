"""What needs a network to run: evaluating, training, converting; and whether it may run at all."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from modelcut.errors import ModelcutError
from modelcut.formats import base, registry
from modelcut.job.check import check_runnable
from modelcut.job.fold import Folded
from modelcut.job.request import Job, Say
from modelcut.model.model import Model
from modelcut.report.schema import LayerError, LayerErrors
from modelcut.safety import printable

_LAYER_SAMPLES = 64
_REARRANGING = frozenset(("equalize", "fold", "simplify", "factorize"))
"""Families of steps after which layers give other values although the network gives the same."""


def conversion(
    job: Job, history: Callable[[], Mapping[str, Any]], say: Say = lambda _: None
) -> base.Conversion:
    """How a file is made by an engine, for a writer that needs to know."""

    def told(make: Callable[..., Mapping[str, Any]]) -> Callable[..., Mapping[str, Any]]:
        def made(*arguments: Any) -> Mapping[str, Any]:
            say("converting")
            return make(job, *arguments)

        return made

    options = job.recipe.head.export
    return base.Conversion(
        told(_export),
        told(partial(_convert, history)),
        told(_onnx),
        quantizes=options.quantizes,
        refine=partial(_refine, job) if options.refines else None,
    )


def _request(job: Job, scratch: Model, target: Path) -> dict[str, Any]:
    """What an engine is told that makes a file of another format.

    Args:
        job: the job as it was requested.
        scratch: scratch file that holds the model.
        target: the file or folder to make.

    Raises:
        UnsafeError: what the engine would build carries code. A SavedModel that is run as a graph
            was not looked at for that.
    """
    check_runnable(scratch, job.trust)
    return {
        "source": str(scratch.origin.path),
        "shown": str(job.model),
        "dialect": scratch.origin.dialect,
        "suffix": registry.of_model(scratch).engine_suffix,
        "trust": job.trust.all,
        "custom_objects": job.trust.custom_objects,
        "target": str(target),
    }


def _export(job: Job, scratch: Model, target: Path) -> Mapping[str, Any]:
    """Has Keras make a SavedModel; see `_request`."""
    from modelcut.engines.saved_model import network as saved_model_network

    return saved_model_network.export(_request(job, scratch, target))


def _onnx(job: Job, scratch: Model, target: Path) -> Mapping[str, Any]:
    """Has Keras make an `.onnx`; see `_request`."""
    from modelcut.engines.onnx import network as onnx_network

    return onnx_network.export(_request(job, scratch, target))


def _convert(
    history: Callable[[], Mapping[str, Any]],
    job: Job,
    scratch: Model,
    target: Path,
    twin: Path | None,
) -> Mapping[str, Any]:
    """Has LiteRT's converter make a `.tflite`; see `_request`.

    Args:
        history: returns the provenance of the model.
        job: the job as it was requested.
        scratch: scratch file that holds the model.
        target: the file to make.
        twin: where to write one that is not quantized; None: nowhere.
    """
    from modelcut.engines.litert import network as litert_network
    from modelcut.formats.litert.tflite import METADATA

    options, data = job.recipe.head.export, job.recipe.head.data
    signatures = registry.of_model(scratch).signatures
    conversion = litert_network.Conversion(
        **_request(job, scratch, target),
        signature=data.signature if signatures else None,
        twin=str(twin) if twin else None,
        rows=str(_rows_beside(twin)) if twin and options.refines else None,
        type=options.type,
        sparse=options.sparse,
        io=options.io,
        samples=options.samples,
        calibrate=str(job.calibrate) if job.calibrate else None,
        data=data.model_dump(mode="json", exclude_unset=True),
        metadata=METADATA,
        provenance=json.dumps(history(), sort_keys=True),
    )
    if not options.sparse:
        return litert_network.convert(conversion)
    with tempfile.TemporaryDirectory(prefix="modelcut-") as folder:
        dense = Path(folder) / "dense.tflite"
        facts = litert_network.convert(replace(conversion, twin=str(dense)))
        facts["sparse"] = {
            "bytes": target.stat().st_size,
            "dense_bytes": dense.stat().st_size,
            "ms": litert_network.milliseconds(target),
            "dense_ms": litert_network.milliseconds(dense),
        }
    return facts


def _rows_beside(twin: Path) -> Path:
    """Where the converter leaves calibration rows for `_refine`."""
    return twin.with_name("rows.npz")


def _refine(job: Job, made: Path, twin: Path) -> Mapping[str, Any]:
    """Refines a .tflite on the calibration rows that the converter left; facts for the report.

    What the interpreter cannot do to that end is said, and the file stays as it is.
    """
    from modelcut.engines.litert import network as litert_network

    request = {
        "source": str(made),
        "shown": str(job.model),
        "target": str(made),
        "twin": str(twin),
        "rows": str(_rows_beside(twin)),
    }
    try:
        return litert_network.refine(request)
    except ModelcutError as error:
        return {"biases": 0, "ranges": 0, "why": printable(error.message, 240)}


def layer_errors(job: Job, folded: Folded, made: Path) -> LayerErrors:
    """Compares what each layer gives in a `.tflite` and in the original network.

    A step that changes what layers give by design, such as one that moves scales from one layer to
    the next, is taken for a part of the original.

    Args:
        job: the job as it was requested.
        folded: the models of the job.
        made: path of the .tflite file.
    """
    from modelcut.engines.litert import network as litert_network

    after = max(
        (n for n, step in enumerate(job.recipe.steps, 1) if step.family in _REARRANGING), default=0
    )
    model, data = folded.models[after], job.recipe.head.data
    reference = f"step {after}, {job.recipe.steps[after - 1].title}" if after else ""
    with contextlib.ExitStack() as stack:
        if after:
            options = base.WriteOptions(compression="none")
            file, form = stack.enter_context(registry.scratch_file(model, options))
            suffix = form.engine_suffix
        else:
            file, suffix = stack.enter_context(registry.plain_file(model))
        request = {
            "source": str(file),
            "shown": str(job.model),
            "dialect": model.origin.dialect,
            "suffix": suffix,
            "trust": job.trust.all,
            "custom_objects": job.trust.custom_objects,
            "signature": None,
            "target": str(made),
            "samples": min(_LAYER_SAMPLES, job.recipe.head.export.samples),
            "calibrate": str(job.calibrate),
            "data": data.model_dump(mode="json", exclude_unset=True),
        }
        try:
            found = litert_network.by_layer(request)
        except ModelcutError as error:
            return LayerErrors(reference, 0, (), {}, printable(error.message, 240))
    rows = tuple(
        LayerError(row["layer"], row["class"], row["mse"], row["sqnr_db"])
        for row in found["layers"]
    )
    return LayerErrors(reference, found["samples"], rows, found["unmatched"])


def write_header(job: Job, made: Path, draft: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a .tflite as a C array beside it, the arena measured; facts for the report.

    Args:
        job: the job as it was requested.
        made: path of the .tflite file.
        draft: path to write to.
        facts: about the .tflite.
    """
    from modelcut.engines.litert import network as litert_network
    from modelcut.formats.litert import c_array

    arena = litert_network.arena(made, len(facts["inputs"]))
    pieces = c_array.text(made.read_bytes(), job.output.stem, facts, arena)
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(pieces)
    return {"path": str(job.header), "arena": arena}
