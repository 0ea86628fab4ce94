"""What `run` and the one-step commands share: their options, and how a job ends."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer

import modelcut
from modelcut.cli import flags
from modelcut.data import DataOptions
from modelcut.engines.keras.cluster import Distribute
from modelcut.errors import ExitCode, ResourceError, UsageError, WorkerDone
from modelcut.metrics.limits import Gates
from modelcut.recipe.export import ExportOptions
from modelcut.recipe.recipe import Head, Recipe

if TYPE_CHECKING:
    from modelcut.report.schema import Report

TRUST = (
    flags.option(
        "trust", "Allow code in the file to run (Lambda layers, custom classes).", kind=bool
    ),
    flags.option(
        "custom_objects",
        "Python file or module that defines custom layers and functions.",
        metavar="MODULE",
    ),
    flags.option(
        "max_memory",
        "Most memory that the job may take, such as 8GB; it is stopped beyond (default: derived "
        "from the model).",
        metavar="SIZE",
    ),
)

SHOW = (
    flags.option("summary", "File that the report is appended to as Markdown.", metavar="FILE"),
    flags.option("json", "Print the report as JSON on stdout.", kind=bool),
    flags.option("quiet", "Print errors only.", "--quiet", "-q", kind=bool),
)

TASK = (
    flags.option(
        "task",
        "Task of the outputs: auto (inferred from the model and the labels), "
        "binary, multiclass, multilabel or regression; or {output: task}.",
    ),
    flags.option(
        "from_logits",
        "Whether the outputs of a classifier are logits (true) or probabilities; by default the "
        "file's last activation and loss decide.",
        metavar="true|false|YAML",
    ),
)

MEASURE = (
    *flags.of_models([DataOptions]),
    *TASK,
    *flags.of_models([Gates]),
)

OUTPUT = flags.option(
    "output",
    "File or SavedModel folder to write; its suffix selects the format.",
    "--output",
    "-o",
    metavar="FILE",
)
FORCE = flags.option("force", "Overwrite an existing file that modelcut did not write.", kind=bool)
COMPRESSION = flags.option(
    "compression",
    "Compression of the written .h5 or .keras (default: fast).",
    metavar="none|fast|best",
)
CODER = flags.option(
    "coder",
    "Entropy coder of a packed file .mcut (default: best, the smaller one for each tensor).",
    metavar="huffman|range|best",
)
KEEP_OPTIMIZER = flags.option(
    "keep_optimizer", "Keep the optimizer's state in the written file.", kind=bool
)
REPORT = flags.option(
    "report",
    "Write the report beside the output, as NAME.report.json and NAME.report.md.",
    "--report/--no-report",
    kind=bool,
)

SHA256 = flags.option(
    "sha256", "Report the SHA-256 of input and output beside their BLAKE3.", kind=bool
)

JOB = (
    OUTPUT,
    flags.option("in_place", "Overwrite the input file with the result.", kind=bool),
    FORCE,
    COMPRESSION,
    CODER,
    KEEP_OPTIMIZER,
    REPORT,
    SHA256,
    flags.option(
        "dry_run", "Apply the steps and report the sizes; write and evaluate nothing.", kind=bool
    ),
    flags.option("print_recipe", "Print the equivalent recipe as YAML and exit.", kind=bool),
    flags.option(
        "test", "CSV to evaluate the original and the compressed model on.", metavar="CSV"
    ),
    flags.option(
        "train", "CSV of training data, for steps that train or run the network.", metavar="CSV"
    ),
    flags.option(
        "validate",
        "CSV of validation data, for steps that search; by default a tenth of --train is set "
        "aside.",
        metavar="CSV",
    ),
    flags.option(
        "calibrate",
        "CSV of calibration data, for steps that look at outputs (by default --train) and for an "
        "int8 or int16x8 .tflite; labels are not needed.",
        metavar="CSV",
    ),
    *flags.of_models([ExportOptions]),
    flags.option("seed", "Seed of all random numbers (default: 0).", metavar="INT"),
    flags.option(
        "distribute",
        "Devices to train on: auto uses the machines of TF_CONFIG, otherwise all GPUs.",
        metavar="auto|none|mirrored|multiworker",
    ),
    flags.option("checkpoint", "Folder for checkpoints of long trainings.", metavar="FOLDER"),
    flags.option(
        "checkpoint_every", "Seconds between two checkpoints (default: 60).", metavar="SECONDS"
    ),
    flags.option("resume", "Resume from the checkpoint if there is one.", kind=bool),
)


def head_from(values: Mapping[str, Any], base: Head | None = None) -> Head:
    """A recipe's head with the flags that were given on top of it."""
    fields = base.model_dump(exclude_unset=True) if base else {}
    data = flags.fields_given(DataOptions, values)
    gates = flags.fields_given(Gates, values)
    if data:
        fields["data"] = flags.build(DataOptions, {**fields.get("data", {}), **data})
    if gates:
        fields["gates"] = flags.build(Gates, {**fields.get("gates", {}), **gates})
    export = flags.fields_given(ExportOptions, values)
    if export:
        fields["export"] = flags.build(ExportOptions, {**fields.get("export", {}), **export})
    for name in ("seed", "task", "from_logits"):
        if values.get(name) is not None:
            fields[name] = _plain(name, values[name])
    head: Head = flags.build(Head, fields)
    return head


def _plain(name: str, value: Any) -> Any:
    """The value of a flag that is a number, or may be a mapping by output."""
    if name == "task" and not value.lstrip().startswith("{"):
        return value
    from modelcut.recipe.yaml_text import loads

    return loads(value, f"--{name.replace('_', '-')}").data


def path_of(value: str | None) -> Path | None:
    """A path from a flag, or None."""
    return Path(value) if value else None


_READ = ("model", "recipe", "test", "train", "validate", "calibrate", "against", "custom_objects")
_DATA_SUFFIXES = (".csv", ".csv.gz", ".json", ".yaml", ".yml", ".py")


def check_summary(values: Mapping[str, Any], output: Path | None = None) -> None:
    """Holds the page that a report is appended to against all that is read and written.

    Raises:
        UsageError: it is one of those, or no file of text.
        ResourceError: it cannot be written to.
    """
    place = path_of(values.get("summary"))
    if place is None:
        return
    from modelcut.formats import registry
    from modelcut.job import provenance
    from modelcut.job.outputs import check_appended

    written = []
    if output is not None:
        pages = provenance.report_paths(output) if values.get("report") is not False else {}
        header = [output.with_suffix(".h")] if values.get("c_array") else []
        written = [output, *pages.values(), *header]
    if values.get("checkpoint"):
        written.append(Path(values["checkpoint"]))
    read = [path for name in _READ if (path := path_of(values.get(name))) is not None]
    check_appended(place, read, written, (*registry.suffixes(), *_DATA_SUFFIXES))


def execute(recipe: Recipe, values: Mapping[str, Any]) -> None:
    """Runs a recipe as the flags say, shows the report, and ends with the exit code of the gates.

    Raises:
        UsageError: flags that do not go together.
        typer.Exit: with the code, where it is not 0.
    """
    if values.get("print_recipe"):
        typer.echo(recipe.to_yaml(), nl=False)
        return
    from modelcut.formats.base import Coder, Compression

    every = _seconds(values)
    distribute: Distribute = choice(values, "distribute", Distribute) or "auto"
    say = progress(values)
    output = path_of(values.get("output")) or (
        path_of(values["model"]) if values.get("in_place") else None
    )
    check_summary(values, None if values.get("dry_run") else output)
    read: dict[str, Any] = {
        name: path_of(values.get(name)) for name in ("test", "train", "validate", "calibrate")
    }
    trust: dict[str, Any] = {
        "trust": bool(values.get("trust")),
        "custom_objects": values.get("custom_objects") or "",
        "max_memory": values.get("max_memory"),
    }
    if values.get("dry_run"):
        if distribute in ("mirrored", "multiworker"):
            raise UsageError(f"--distribute {distribute}: a dry run is one process", "leave it out")
        if values.get("checkpoint"):
            raise UsageError("--checkpoint: a dry run keeps nothing", "leave it out")
    elif output is None:
        raise UsageError("no output named", "add -o FILE, or --in-place")
    if output is not None and output.suffix.lower() != ".tflite":
        for name in ("type", "io", "samples", "c_array", "sparse"):
            if values.get(name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} is for a .tflite", f"not for {output.name}"
                )
    written: dict[str, Any] = {
        "compression": choice(values, "compression", Compression),
        "coder": choice(values, "coder", Coder),
        "keep_optimizer": bool(values.get("keep_optimizer")),
        "force": bool(values.get("force")),
        "in_place": bool(values.get("in_place")),
        "report": output is not None and values.get("report") is not False,
    }
    if output is None:
        for name in ("calibrate", *written):
            if read.get(name) or written.get(name):
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag}: this option needs an output file", "add -o FILE")
    try:
        report = modelcut.run(
            recipe,
            values["model"],
            output,
            dry_run=bool(values.get("dry_run")),
            sha256=bool(values.get("sha256")),
            say=say,
            distribute=distribute,
            checkpoint=path_of(values.get("checkpoint")),
            resume=bool(values.get("resume")),
            checkpoint_every=every,
            **written,
            **read,
            **trust,
        )
    except WorkerDone:
        say("")
        if values.get("quiet"):
            return
        raise
    finish(report, values)


def _seconds(values: Mapping[str, Any]) -> float:
    """How often a state is kept.

    Raises:
        UsageError: it is no number, or nothing is kept.
    """
    for name in ("checkpoint_every", "resume"):
        if values.get(name) and not values.get("checkpoint"):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag}: no checkpoint folder is given", "add --checkpoint FOLDER")
    text = values.get("checkpoint_every")
    try:
        seconds = 60.0 if text is None else float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < math.inf:
        raise UsageError(f"--checkpoint-every: {text!r} is not a number of seconds")
    return seconds


def choice(values: Mapping[str, Any], name: str, among: Any) -> Any:
    """A flag with a few values, or None.

    Raises:
        UsageError: another value.
    """
    value, known = values.get(name), get_args(among)
    if value is not None and value not in known:
        listed = f"{', '.join(known[:-1])} or {known[-1]}"
        raise UsageError(f"--{name.replace('_', '-')}: {value!r} is not {listed}")
    return value


def progress(values: Mapping[str, Any]) -> Any:
    """Shows the current activity on a terminal's stderr, overwritten in place; else nothing."""
    if values.get("quiet") or values.get("json") or not sys.stderr.isatty():
        return lambda _: None

    def say(line: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{line} …" if line else "\r\x1b[2K")
        sys.stderr.flush()

    return say


def _discard(stream: Any) -> None:
    """Lets what a stream still holds go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def finish(report: Report, values: Mapping[str, Any]) -> None:
    """Shows a report as the flags say, and ends with the code of its gates."""
    from modelcut.report import render, terminal

    progress(values)("")
    channel = "stdout"
    try:
        if values.get("summary"):
            channel = str(values["summary"])
            with Path(channel).open("a", encoding="utf-8") as file:
                file.write(render(report, "md") + "\n")
            channel = "stdout"
        if values.get("json"):
            typer.echo(render(report, "json"), nl=False)
        elif not values.get("quiet"):
            terminal.show(report)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard(sys.stdout)
        written = report.output.path if report.output else ""
        raise ResourceError(
            f"{channel}: the report cannot be written: {error.strerror}",
            f"written all the same: {written}" if written else "",
        ) from None
    if not report.passed:
        raise typer.Exit(ExitCode.GATE)
