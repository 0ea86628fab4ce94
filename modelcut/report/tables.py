"""The report as a few tables of short texts, for whatever shows tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from modelcut.report import by_layer, tried
from modelcut.report.cells import Table, count, is_number, number, or_dash, percent, size, sized
from modelcut.report.gates import unchecked
from modelcut.report.schema import LayerError, LayerErrors, LayerRow, Report, StepRow, TensorRow
from modelcut.report.summary import metrics_of, summary
from modelcut.safety import printable

_WORST = 8
"""Layers of a .tflite that a terminal lists."""


def tables(report: Report, *, full: bool = False, layers: bool = False) -> Iterator[Table]:
    """All tables that the report has something for.

    Args:
        report: the report.
        full: list untouched tensors too.
        layers: a row for each layer in place of one for each tensor.
    """
    if report.tried:
        yield tried.table(report)
    yield summary(report)
    if len(report.ledger) > 1:
        yield _ledger(report)
    for step in report.steps:
        if step.facts.get("budget"):
            yield _search(step) if "trials" in step.facts["budget"] else _fractions(step)
        if step.facts.get("latency"):
            yield _latencies(step)
        if step.facts.get("rounds"):
            yield _rounds(step)
    facts = (report.output or report.input).facts
    made = facts.get("litert") or facts.get("onnx")
    if made:
        yield _litert(report, made)
    if report.layer_errors and report.layer_errors.layers:
        yield _layer_errors(report.layer_errors, full=full)
    yield by_layer.table(report) if layers else _layers(report, full=full)
    for classes in _classes(report):
        if classes.rows:
            yield classes
    if report.gates:
        yield _gates(report)


def _ledger(report: Report) -> Table:
    rows = [
        (
            row.stage,
            count(row.totals.parameters),
            percent(row.totals.sparsity),
            number(row.totals.bits_per_weight),
            size(row.totals.bytes),
            or_dash(row.totals.deflated_bytes, sized(row.totals)),
        )
        for row in report.ledger
    ]
    columns = ("stage", "parameters", "zeros", "bits/weight", "bytes", "deflated")
    note = "bits/weight: a plain fixed-length writing; deflated: the coder of gzip, fast "
    note += "level, bytes shuffled where that is less"
    if any(row.totals.deflated_estimated for row in report.ledger):
        note += "; ≈: of larger tensors, from pieces (--full-report measures all)"
    return Table("Stage by stage", columns, rows, note=note, drop=("parameters", "zeros"))


def _litert(report: Report, made: Mapping[str, Any]) -> Table:
    """What stands in a .tflite or an .onnx, and how it was made."""
    rows = [(side, _interface(entry)) for side in ("input", "output") for entry in made[f"{side}s"]]
    held = (f"{kind} {size(many)}" for kind, many in sorted(made["constants"].items()))
    rows.append(("constants", ", ".join(held)))
    used = sorted(made["operators"].items(), key=lambda item: (-item[1], item[0]))
    rows.append(("operators", ", ".join(f"{many} {name}" for name, many in used)))
    if "type" in made:
        calibrated = f", calibrated on {count(made['calibration_rows'])} rows"
        calibrated = calibrated if made["calibration_rows"] else ""
        rows.append(("made", f"type {made['type']}{calibrated}, by {made['converter']}"))
    if "exporter" in made:
        rows.append(("made", f"opset {made['opset']}, by {made['exporter']}"))
    if "grids" in made:
        rows.append(("grids of kernels", _grids(made["grids"])))
    if "refined" in made:
        rows.append(("refined", _refined(made["refined"])))
    if "sparse" in made:
        rows.append(("sparse form", _sparse(made["sparse"])))
    agreed = report.evaluation.agreement if report.evaluation else None
    if agreed and report.output:
        for output, part in (agreed.get("outputs") or {"": agreed}).items():
            words = f"outputs differ by {part['max_difference']:.3g} at most"
            if part["top1"] is not None:
                words = f"{percent(part['top1'])} of rows alike, {words}"
            rows.append(("beside the original" + (f", {output}" if output else ""), words))
    header = report.output.header if report.output else None
    if header:
        arena, words = header["arena"], "arena not measured"
        if arena["bytes"]:
            words = f"arena {count(arena['bytes'])} bytes by {arena['engine']}"
        rows.append(("C array", f"{str(header['path']).rpartition('/')[2]}, {words}"))
    cells = [(printable(name, 60), printable(value, 300)) for name, value in rows]
    title = "ONNX" if "opset" in made else "LiteRT"
    return Table(title, ("", "value"), cells, left=("value",))


def _layer_errors(found: LayerErrors, *, full: bool) -> Table:
    """Each layer of a .tflite beside the original's: the worst first, or all in their order."""
    listed: Sequence[LayerError] = found.layers
    if not full:
        worst = sorted(listed, key=lambda row: float("inf") if row.sqnr_db is None else row.sqnr_db)
        listed = worst[:_WORST]
    rows = [
        (
            printable(row.layer, 48),
            printable(row.class_name, 24),
            f"{row.mse:.3g}",
            "exact" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
        )
        for row in listed
    ]
    beside = f"the network after {found.reference}" if found.reference else "the original network"
    note = f"outputs beside those of {beside}, on {count(found.samples)} calibration samples"
    if len(rows) < len(found.layers):
        note += f"; the worst {len(rows)} of {len(found.layers)}"
    if found.unmatched:
        note += f"; {len(found.unmatched)} more layers are merged with others, or not in the file"
    columns = ("layer", "class", "mean squared error", "dB")
    return Table("Layers of the .tflite", columns, rows, left=("class",), note=note)


def _interface(entry: Mapping[str, Any]) -> str:
    shape = "×".join("any" if n < 0 else str(n) for n in entry["shape"]) or "scalar"
    words = f"{entry['name']}: {entry['dtype']} {shape}"
    if entry["scale"] is None:
        return words
    return f"{words}, {entry['scale']:.6g} × (code {-entry['zero_point']:+d})"


def _grids(grids: Mapping[str, Any]) -> str:
    total = sum(len(part) for part in grids.values())
    words = [f"{len(grids['exact']) + len(grids['folded'])} of {total} kept to the bit"]
    words += [f"{len(grids['folded'])} of them times a BatchNorm"] if grids["folded"] else []
    words += [f"{len(grids['floats'])} as floats"] if grids["floats"] else []
    words += [f"{len(grids['lost'])} lost (see the warnings)"] if grids["lost"] else []
    return ", ".join(words)


def _refined(found: Mapping[str, Any]) -> str:
    if found["why"]:
        return f"no: {found['why']}"
    if not found["biases"]:
        return f"no: nothing brought its outputs nearer on {count(found['samples'])} samples"
    errors = f"{found['mse_before']:.3g} → {found['mse_after']:.3g}"
    done = f"{count(found['ranges'])} ranges, {count(found['biases'])} biases"
    return f"{done}; mean squared error of the outputs {errors}"


def _sparse(found: Mapping[str, Any]) -> str:
    sparse = f"{size(found['bytes'])} and {found['ms']:.3g} ms a row"
    return f"{sparse}; dense: {size(found['dense_bytes'])} and {found['dense_ms']:.3g} ms"


def _layers(report: Report, *, full: bool) -> Table:
    rows, alone = [], Counter[str]()
    for layer in report.layers:
        for tensor in layer.tensors:
            touched = tensor.changes or tensor.new or layer.replaced
            if not (touched or full or not report.steps):
                alone[tensor.left_alone[0].reason if tensor.left_alone else "-"] += 1
                continue
            rows.append(_tensor_cells(layer, tensor))
        if full and not layer.tensors and layer.left_alone:
            reason = layer.left_alone[0].reason
            rows.append((printable(layer.name), layer.class_name, *["–"] * 6, reason))
    columns = ("tensor", "class", "shape", "zeros", "error", "dB", "bits", "bytes", "encoding")
    notes = [f"{many} × {printable(why)}" for why, many in alone.most_common(4)]
    note = "dB: signal to noise; bits: a weight, in a plain fixed-length writing"
    note += "; left alone: " + "; ".join(notes) if notes else ""
    drop = ("dB", "class", "error", "bits", "shape")
    table = Table("Layers", columns, rows, left=("class", "encoding"), note=note, drop=drop)
    return table if report.steps else _without_empty(table)


def _without_empty(table: Table) -> Table:
    """A table without the columns that say nothing in any row: nothing was done, or written."""
    kept = [
        index
        for index in range(len(table.columns))
        if not table.rows or any(row[index] != "–" for row in table.rows)
    ]
    columns = tuple(table.columns[index] for index in kept)
    rows = [tuple(row[index] for index in kept) for row in table.rows]
    note = table.note if "dB" in columns else table.note.partition("; ")[2]
    return replace(table, columns=columns, rows=rows, note=note)


def _tensor_cells(layer: LayerRow, tensor: TensorRow) -> tuple[str, ...]:
    after = tensor.after
    name = printable(tensor.name, 48)
    shape = "×".join(str(n) for n in tensor.shape) or "scalar"
    if after is None:
        return (name, layer.class_name, shape, *["–"] * 5, "replaced")
    errors = [change.error for change in tensor.changes]
    ratios = [change.sqnr_db for change in tensor.changes]
    return (
        name,
        printable(layer.class_name, 24),
        shape,
        percent(1 - after.nonzeros / after.size) if after.size else "–",
        " ".join(f"{error:.3f}" for error in errors) or ("new" if tensor.new else "–"),
        " ".join("–" if ratio is None else f"{ratio:.1f}" for ratio in ratios) or "–",
        number(after.bits / after.size) if after.size else "–",
        or_dash(tensor.stored_bytes, size),
        tensor.encoding,
    )


def _classes(report: Report) -> Iterator[Table]:
    """Of each output that decides: its classes or labels."""
    for output, (before, after) in metrics_of(report).items():
        title = f"Classes of {printable(output, 32)}" if output else "Classes"
        yield _classes_of(title, before.get("per_class") or [], after.get("per_class") or [])


def _classes_of(
    title: str, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> Table:
    old = {str(row["class"]): row for row in before}
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = []
    for row in after[:50]:
        was = old.get(str(row["class"]), {})
        rows.append(
            (
                printable(str(row["class"]), 32),
                count(row["support"]),
                or_dash(was.get("recall"), lambda v: f"{v:.4f}"),
                f"{row['recall']:.4f}",
                or_dash(was.get("f1"), lambda v: f"{v:.4f}"),
                f"{row['f1']:.4f}",
            )
        )
    columns = ("class", "rows", "recall before", "after", "F1 before", "after")
    if not before:
        columns = ("class", "rows", "recall", "F1")
        rows = [(row[0], row[1], row[3], row[5]) for row in rows]
    more = f"{len(after) - 50} more classes are in the JSON report" if len(after) > 50 else ""
    return Table(title, columns, rows, note=more)


def _gates(report: Report) -> Table:
    rows = [
        (
            gate["name"] + (f", {printable(gate['output'], 32)}" if gate.get("output") else ""),
            f"{gate['limit']:g}",
            _value(gate),
            "not checked" if unchecked(gate) else "passed" if gate["held"] else "FAILED",
        )
        for gate in report.gates
    ]
    return Table("Gates", ("gate", "limit", "value", ""), rows)


def _value(gate: Mapping[str, Any]) -> str:
    if why := unchecked(gate):
        return why
    if gate["value"] is None:
        return "not measured"
    if not gate.get("interval"):
        return f"{gate['value']:.6g}"
    low, high = gate["interval"]
    return f"{gate['value']:.4g} ({low:.4g} to {high:.4g})"


def _search(step: StepRow) -> Table:
    """What the search for one step's budget tried on whole models, and what it chose."""
    found = step.facts["budget"]
    trials = found["trials"][1:]
    chosen = [trial for trial in trials if trial["held"] and {**trial, **found["reached"]} == trial]
    whole = [trial for trial in trials if len(trial["settings"]) != 1 or trial in chosen[-1:]]
    what, base = headline(found["base"])
    rows = [("nothing", base, size(found["base"]["bits"] / 8), "")]
    for trial in whole:
        verdict = "within budget" if trial["held"] else "exceeded"
        if trial in chosen[-1:]:
            verdict = "chosen"
        shown = ", ".join(f"{name} {number(value)}" for name, value in trial["settings"].items())
        cells = (headline(trial)[1], size(trial["bits"] / 8), verdict)
        rows.append((printable(shown, 100), *cells))
    alone = len(found["trials"]) - 1 - len(whole)
    limits = ", ".join(f"{name} {limit:g}" for name, limit in found["limits"].items())
    note = f"{limits}, on {count(found['rows'])} rows; and {alone} trials of single layers"
    text = ""
    if found["chosen"]:
        text = yaml.safe_dump([found["chosen"]], sort_keys=False, allow_unicode=True)
    title = f"Search of step {step.step}, {step.title}"
    return Table(title, ("settings", what, "plain bytes", "verdict"), rows, note=note, text=text)


def _fractions(step: StepRow) -> Table:
    """What the search for one number for the whole network tried, and what it found."""
    found = step.facts["budget"]
    what, base = headline(found["before"])
    rows: list[tuple[str, ...]] = [("1", base, "")]
    for trial in sorted(found["tried"], key=lambda trial: -trial["macs"]):
        verdict = "within budget" if trial["held"] else "exceeded"
        verdict = "chosen" if trial["macs"] == found["found"] else verdict
        rows.append((number(trial["macs"]), headline(trial)[1], verdict))
    limits = ", ".join(f"{name} {limit:g}" for name, limit in found["limits"].items())
    title = f"Search of step {step.step}, {step.title}"
    note = f"{limits}, on the rows set aside"
    return Table(title, ("macs", what, "verdict"), rows, note=note)


def _latencies(step: StepRow) -> Table:
    """The networks that were measured for a latency."""
    found = step.facts["latency"]
    rows = [
        (
            f"{one['macs']:.4f}",
            f"{one['before_ms']:.3g} ms",
            f"{one['after_ms']:.3g} ms",
            f"{one['ratio']:.3f}",
            "chosen" if one["macs"] == found["macs"] else "",
        )
        for one in found["tried"]
    ]
    title = f"Latency of step {step.step}, {step.title}"
    columns = ("macs", "original", "result", "ratio", "")
    return Table(title, columns, rows, note=f"one sample in {found['engine']}, taking turns")


def _rounds(step: StepRow) -> Table:
    """What each round of cutting and training on came to."""
    facts = step.facts
    what, base = headline(facts.get("before", {}))
    rows: list[tuple[str, ...]] = [("before", "", base, "")]
    for turn, one in enumerate(facts["rounds"], 1):
        verdict = {True: "within budget", False: "exceeded", None: ""}[one.get("held")]
        left = count(one["channels"] if "channels" in one else sum(one["nonzeros"].values()))
        rows.append((str(turn), left, headline(one)[1], verdict))
    limits = ", ".join(f"{name} {limit:g}" for name, limit in facts.get("limits", {}).items())
    if not facts.get("before"):  # nothing was judged
        rows = [row[:2] for row in rows[1:]]
    note = f"ended: {facts['ended']}" + (f"; {limits}, on the rows set aside" if limits else "")
    title = f"Rounds of step {step.step}, {step.title}"
    what_left = "channels left" if "channels" in facts["rounds"][0] else "weights left"
    columns = ("round", what_left, what, "verdict")[: len(rows[0])]
    return Table(title, columns, rows, note=note)


HEADLINES = {"accuracy": "accuracy", "rmse": "RMSE"}


def headline(measured: Mapping[str, Any]) -> tuple[str, str]:
    """The number of each output that a trial is judged by at a glance: names and values."""
    parts = measured.get("outputs")
    if parts:
        found = {output: headline(part) for output, part in parts.items()}
        names = (f"{printable(output, 32)} {name}" for output, (name, _) in found.items())
        return ", ".join(names), ", ".join(value for _, value in found.values())
    for key, name in HEADLINES.items():
        if is_number(measured.get(key)):
            return name, f"{measured[key]:.4f}"
    return "value", "–"
