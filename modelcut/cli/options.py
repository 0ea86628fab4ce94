"""What `run` and the one-step commands share: their options, and how a job ends."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import typer

import modelcut
from modelcut.cli import complete, flags
from modelcut.cli.flags import Parameter
from modelcut.data import DataOptions
from modelcut.engines.keras.cluster import Distribute
from modelcut.errors import ExitCode, ResourceError, UsageError, WorkerDone
from modelcut.metrics.limits import Gates
from modelcut.recipe.export import ExportOptions
from modelcut.recipe.recipe import Head, Recipe

if TYPE_CHECKING:
    from modelcut.job.request import Job
    from modelcut.report.schema import Report
    from modelcut.steps.base import Step

MODEL, DATA, OUT, GATES = "Model", "Data", "Output", "Gates"
TRAINING, LITERT, SHOWN = "Training", "LiteRT", "Report"
RECIPE, SPEED = "Recipe", "Speed and memory"

_CI = "CI and Make"

KEEP_ON_FAILURE = flags.option(
    "keep_on_failure",
    "If a gate fails, write the output at its place all the same, not as NAME.failed.SUFFIX.",
    kind=bool,
    panel=_CI,
)
IF_CHANGED = flags.option(
    "if_changed",
    "Do nothing if the report beside the output tells that it was made of the same files, recipe, "
    "options and versions.",
    kind=bool,
    panel=_CI,
)
DEPFILE = flags.option(
    "depfile",
    "Write what the output depends on to this file, as a rule for Make or Ninja.",
    metavar="FILE",
    panel=_CI,
)

TRUST = (
    flags.option(
        "trust",
        "Allow code in the file to run (Lambda layers, custom classes).",
        kind=bool,
        panel=MODEL,
    ),
    flags.option(
        "custom_objects",
        "Python file or module that defines custom layers and functions.",
        metavar="MODULE",
        panel=MODEL,
    ),
    flags.option(
        "max_memory",
        "Most memory that the job may take, such as 8GB; it is stopped beyond (default: derived "
        "from the model).",
        metavar="SIZE",
        panel=SPEED,
    ),
)

SHOW = (
    flags.option(
        "summary", "File that the report is appended to as Markdown.", metavar="FILE", panel=SHOWN
    ),
    flags.option(
        "junit",
        "Write the gates to this file as JUnit XML, a test case each.",
        metavar="FILE",
        panel=_CI,
    ),
    flags.option(
        "format",
        "What is printed on stdout: tables, the report as JSON, or tables and annotations of "
        "GitHub Actions (default: table).",
        metavar="table|json|github",
        panel=SHOWN,
    ),
    flags.option("json", "Short for --format json.", kind=bool, panel=SHOWN),
    flags.option("quiet", "Print errors only.", "--quiet", "-q", kind=bool, panel=SHOWN),
)

TASK = (
    flags.option(
        "task",
        "Task of the outputs: auto (inferred from the model and the labels), "
        "binary, multiclass, multilabel or regression; or {output: task}.",
        panel=DATA,
        complete=complete.among("auto", "binary", "multiclass", "multilabel", "regression"),
    ),
    flags.option(
        "from_logits",
        "Whether the outputs of a classifier are logits (true) or probabilities; by default the "
        "file's last activation and loss decide.",
        metavar="true|false|YAML",
        panel=DATA,
    ),
)

DATA_OPTIONS = (*flags.of_models([DataOptions], DATA), *TASK)


_EMBEDDING = "role:embedding?"


def gates(*without: str) -> list[Parameter]:
    """The gates, without those whose number stands in a part of the report that is not made."""

    def judged(name: str, info: Any) -> bool:
        path = str((info.json_schema_extra or {}).get("path", ""))
        return name != "if_data" and not (without and path.startswith(without))

    return flags.of_models([Gates], GATES, only=judged)


MEASURE = (*DATA_OPTIONS, *gates())

OUTPUT = flags.option(
    "output",
    "File or SavedModel folder to write; its suffix selects the format.",
    "--output",
    "-o",
    metavar="FILE",
    panel=OUT,
)
IN_PLACE = flags.option(
    "in_place", "Overwrite the input file with the result.", kind=bool, panel=OUT
)
FORCE = flags.option(
    "force", "Overwrite an existing file that modelcut did not write.", kind=bool, panel=OUT
)
COMPRESSION = flags.option(
    "compression",
    "Compression of the written .h5 or .keras (default: fast).",
    metavar="none|fast|best",
    panel=OUT,
)
CODER = flags.option(
    "coder",
    "Entropy coder of a packed file .mcut (default: best, the smaller one for each tensor).",
    metavar="huffman|range|best",
    panel=OUT,
)
KEEP_OPTIMIZER = flags.option(
    "keep_optimizer", "Keep the optimizer's state in the written file.", kind=bool, panel=OUT
)
KERAS_INT = flags.option(
    "keras_int",
    "Store Dense, EinsumDense and Embedding of a .keras file as Keras' own int8 or int4 layers: "
    "appends quantize: keras_int to the steps.",
    metavar="8|4",
    panel=OUT,
)
REPORT = flags.option(
    "report",
    "Write the report beside the output, as NAME.report.html, .md and .json.",
    "--report/--no-report",
    kind=bool,
    panel=SHOWN,
)
SHA256 = flags.option(
    "sha256",
    "Report the SHA-256 of input and output beside their BLAKE3.",
    kind=bool,
    panel=SHOWN,
)
FULL_REPORT = flags.option(
    "full_report",
    "Measure by coding all of it what the report otherwise estimates from pieces of large tensors: "
    "their size after deflate.",
    kind=bool,
    panel=SHOWN,
)
PROFILE = flags.option(
    "profile", "Tell on stderr where the time went, by phase.", kind=bool, panel=SHOWN
)
DRY_RUN = flags.option(
    "dry_run",
    "Apply the steps and report the sizes; write and evaluate nothing.",
    kind=bool,
    panel=OUT,
)
PRINT_RECIPE = flags.option(
    "print_recipe", "Print the equivalent recipe as YAML and exit.", kind=bool, panel=OUT
)
TEST = flags.option(
    "test",
    "CSV to evaluate the original and the compressed model on.",
    metavar="CSV",
    panel=DATA,
)
CALIBRATE = flags.option(
    "calibrate",
    "CSV of calibration data, for steps that look at outputs (otherwise the training data) and "
    "for an int8 or int16x8 .tflite; labels are not needed.",
    metavar="CSV",
    panel=DATA,
)
EXPORT = tuple(flags.of_models([ExportOptions], LITERT))
SEED = flags.option("seed", "Seed of all random numbers (default: 0).", metavar="INT", panel=DATA)


def job(*, trains: bool = True, runs: bool = True, resumes: bool = True) -> tuple[Parameter, ...]:
    """What a command has that applies steps and writes a file.

    Options without effect are parsed all the same, for a message of their own, and not shown.

    Args:
        trains: a step may train.
        runs: a step may run the network, on training or validation data.
        resumes: a step's training can be kept in a checkpoint.
    """
    return (
        OUTPUT,
        IN_PLACE,
        FORCE,
        COMPRESSION,
        CODER,
        KEEP_OPTIMIZER,
        KERAS_INT,
        REPORT,
        SHA256,
        FULL_REPORT,
        PROFILE,
        KEEP_ON_FAILURE,
        IF_CHANGED,
        DEPFILE,
        DRY_RUN,
        PRINT_RECIPE,
        TEST,
        flags.option(
            "train",
            "CSV of training data, for steps that train or run the network.",
            metavar="CSV",
            panel=DATA,
            hidden=not runs,
        ),
        flags.option(
            "validate",
            "CSV of validation data, for steps that search; by default a tenth of --train is set "
            "aside.",
            metavar="CSV",
            panel=DATA,
            hidden=not runs,
        ),
        CALIBRATE,
        *EXPORT,
        SEED,
        flags.option(
            "distribute",
            "Devices to train on: auto uses the machines of TF_CONFIG, otherwise all GPUs.",
            metavar="auto|none|mirrored|multiworker",
            panel=TRAINING,
            hidden=not trains,
        ),
        flags.option(
            "checkpoint",
            "Folder for checkpoints of long trainings.",
            metavar="FOLDER",
            panel=TRAINING,
            hidden=not resumes,
        ),
        flags.option(
            "checkpoint_every",
            "Seconds between two checkpoints (default: 60).",
            metavar="SECONDS",
            panel=TRAINING,
            hidden=not resumes,
        ),
        flags.option(
            "resume",
            "Resume from the checkpoint if there is one.",
            kind=bool,
            panel=TRAINING,
            hidden=not resumes,
        ),
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
    from modelcut.data.stdin import path_from

    return path_from(value) if value else None


def check_summary(values: Mapping[str, Any], output: Path | None = None) -> None:
    """Holds the files that are written besides the output against all that is read and written.

    Raises:
        UsageError: one is among those, or of another kind.
        ResourceError: it cannot be written to.
    """
    from modelcut.cli import pages

    if values.get("format") not in (None, "table", "json", "github"):
        raise UsageError(f"--format: {values['format']!r} is not table, json or github")
    pages.check(values, output)


def execute(recipe: Recipe, values: Mapping[str, Any], others: Sequence[Recipe] = ()) -> None:
    """Runs a recipe as the flags say, shows the report, and ends with the exit code of the gates.

    Args:
        recipe: the recipe.
        values: the flags.
        others: further recipes; the best one is written.

    Raises:
        UsageError: flags that do not go together.
        typer.Exit: with the code, where it is not 0.
    """
    _check_several(values, others)
    recipe, *others = (_with_integers(each, values) for each in (recipe, *others))
    if values.get("print_recipe"):
        typer.echo(recipe.to_yaml(), nl=False)
        return
    from modelcut.formats.base import Coder, Compression
    from modelcut.job.request import Job, Trust

    every = _seconds(values)
    distribute: Distribute = choice(values, "distribute", Distribute) or "auto"
    say = progress(values)
    if values.get("output") and values.get("in_place"):
        raise UsageError("--in-place and -o are two places", "leave one of them out")
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
        for name in (
            "type",
            "io",
            "samples",
            "c_array",
            "sparse",
            "refine",
            "layer_errors",
        ):
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
        "keep_on_failure": bool(values.get("keep_on_failure")),
    }
    if output is None:
        for name in ("calibrate", *written):
            if read.get(name) or written.get(name):
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag}: this option needs an output file", "add -o FILE")
    dry = bool(values.get("dry_run"))
    sha256 = bool(values.get("sha256"))
    job: Job | None = None
    if not dry and output is not None:
        made = {**written, **read, "trust": Trust(**_trust(values)), "sha256": sha256}
        made["full_report"] = bool(values.get("full_report"))
        job = Job(Path(values["model"]), recipe, output, distribute=distribute, **made)
    _check_ci(values, job, others)
    if job and values.get("if_changed") and _is_done(job, values):
        return
    try:
        report = (
            _best(job, others, say)
            if job and others
            else modelcut.run(
                recipe,
                values["model"],
                output,
                dry_run=dry,
                sha256=sha256,
                full_report=bool(values.get("full_report")),
                say=say,
                distribute=distribute,
                checkpoint=path_of(values.get("checkpoint")),
                resume=bool(values.get("resume")),
                checkpoint_every=every,
                **written,
                **read,
                **trust,
            )
        )
    except WorkerDone:
        say("")
        if values.get("quiet"):
            return
        raise
    _write_depfile(job, values, others)
    finish(report, values)


def _with_integers(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with the step that `--keras-int` stands for.

    Raises:
        UsageError: the option has no such value.
        RecipeError: the step cannot follow the others.
    """
    bits = choice(values, "keras_int", Literal["8", "4"])
    if bits is None:
        return recipe
    from modelcut import steps

    step = steps.find("quantize", "keras_int").model_validate({"bits": int(bits)})
    longer = replace(recipe, steps=(*map(_without_embeddings, recipe.steps), step))
    longer.check()
    return longer


def _without_embeddings(step: Step) -> Step:
    """A step before `keras_int`, which rounds an embedding row by row: once is enough."""
    if (step.family, step.method) != ("quantize", "linear") or step.include:
        return step
    return step.model_copy(update={"exclude": type(step.exclude)([*step.exclude, _EMBEDDING])})


def _check_several(values: Mapping[str, Any], others: Sequence[Recipe]) -> None:
    """Refuses what is for one recipe only.

    Raises:
        UsageError: with the option.
    """
    for name in ("print_recipe", "dry_run", "checkpoint", "if_changed"):
        if others and values.get(name):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is for a single recipe", "name one with --recipe")
    if others and values.get("distribute") in ("mirrored", "multiworker"):
        raise UsageError("--distribute is for a single recipe", "name one with --recipe")


def _best(job: Job, others: Sequence[Recipe], say: Any) -> Report:
    """The report of the best of several recipes."""
    from modelcut.job import several

    job = replace(job, distribute="none")
    return several.run([job, *(replace(job, recipe=other) for other in others)], say)


def _trust(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "all": bool(values.get("trust")),
        "custom_objects": values.get("custom_objects") or "",
    }


def _check_ci(values: Mapping[str, Any], job: Job | None, others: Sequence[Recipe]) -> None:
    """Refuses options for tools that build things where there is nothing to build.

    Raises:
        UsageError: with what to add or to leave out.
    """
    for name in ("if_changed", "depfile", "keep_on_failure"):
        if values.get(name) and job is None:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag}: a dry run writes no output", "leave it out")
    if values.get("depfile") and job:
        from modelcut.job import unchanged

        unchanged.depfile(job, others)
    if values.get("if_changed") and job and not job.report:
        raise UsageError("--if-changed compares with the report", "leave out --no-report")


def _is_done(job: Job, values: Mapping[str, Any]) -> bool:
    """Whether the output is there, made of the same; shows the report if that is asked for."""
    from modelcut.cli import pages
    from modelcut.job import provenance, unchanged

    earlier = unchanged.done_before(job)
    if earlier is None:
        return False
    _write_depfile(job, values)
    kept = provenance.report_paths(job.output)
    if values.get("summary"):
        with Path(values["summary"]).open("a", encoding="utf-8") as file:
            file.write(kept["md"].read_text(encoding="utf-8") + "\n")
    if values.get("junit"):
        from modelcut.report import junit

        pages.write("junit", junit.of_data(earlier), values, job.output)
    if _form(values) == "json":
        typer.echo(kept["json"].read_text(encoding="utf-8"), nl=False)
    elif not values.get("quiet"):
        typer.echo(f"{job.output}: up to date")
    return True


def _write_depfile(
    job: Job | None, values: Mapping[str, Any], others: Sequence[Recipe] = ()
) -> None:
    if job is not None and values.get("depfile"):
        from modelcut.cli import pages
        from modelcut.job import unchanged

        pages.write("depfile", unchanged.depfile(job, others), values, job.output)


def _form(values: Mapping[str, Any]) -> str:
    """What is printed on stdout."""
    return "json" if values.get("json") else values.get("format") or "table"


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
    """Takes lines about what is being done; see `progress.Display`."""
    if values.get("quiet"):
        return lambda _: None
    from modelcut.cli import progress as shown

    return shown.show()


def _discard(stream: Any) -> None:
    """Lets what a stream still holds go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def finish(report: Report, values: Mapping[str, Any]) -> None:
    """Shows a report as the flags say, and ends with the code of its gates."""
    from modelcut.cli import pages
    from modelcut.report import render, terminal

    progress(values)("")
    channel = "stdout"
    try:
        if values.get("summary"):
            channel = str(values["summary"])
            with Path(channel).open("a", encoding="utf-8") as file:
                file.write(render(report, "md") + "\n")
            channel = "stdout"
        if values.get("junit"):
            channel = str(values["junit"])
            output = Path(values["output"]) if values.get("output") else None
            pages.write("junit", render(report, "junit"), values, output)
            channel = "stdout"
        if _form(values) == "json":
            typer.echo(render(report, "json"), nl=False)
        elif _form(values) == "github":
            # Names in the tables are no commands: https://docs.github.com/actions/reference
            token = os.urandom(16).hex()
            if not values.get("quiet"):
                typer.echo(f"::stop-commands::{token}")
                terminal.show(report)
                typer.echo(f"::{token}::")
            typer.echo(render(report, "github"), nl=False)
        elif not values.get("quiet"):
            terminal.show(report)
            if report.output and report.passed:
                typer.echo(_written(report))
        sys.stdout.flush()
        if values.get("profile"):
            sys.stderr.write(render(report, "seconds"))
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
        _tell_failed(report)
        raise typer.Exit(ExitCode.GATE)


def _written(report: Report) -> str:
    """Where the output is, and the page beside it."""
    from modelcut.job import provenance
    from modelcut.safety import printable

    assert report.output is not None
    places = [report.output.path]
    if report.fingerprint is not None:  # else no report was written beside it
        places.append(str(provenance.report_paths(Path(report.output.path))["html"]))
    return f"written: {', '.join(printable(place, 300) for place in places)}"


def _tell_failed(report: Report) -> None:
    """Names the gates that failed, and where the output is, on stderr."""
    from modelcut.report.gates import told
    from modelcut.safety import printable

    failed = [told(gate) for gate in report.gates if not gate["held"]]
    what = "gate failed" if len(failed) == 1 else "gates failed"
    where = f" (written to {report.output.path})" if report.output else ""
    typer.echo(f"modelcut: {what}: {printable('; '.join(failed) + where, 2000)}", err=True)
