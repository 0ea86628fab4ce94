"""The stage that writes the model beside the place of the output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from modelcut.errors import UsageError
from modelcut.formats import base
from modelcut.job import convert, provenance
from modelcut.job.check import Checked
from modelcut.job.fold import Folded
from modelcut.job.outputs import Outputs
from modelcut.job.request import Say
from modelcut.model.measure import Meter
from modelcut.model.model import Tensor
from modelcut.report.build import Identity, identity

History = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class Places:
    """The files that a job writes, by their hidden names until they are published.

    Attributes:
        model: the file or folder.
        reports: form ("json", "md", "html") -> file; empty where none is wanted.
        header: the C array of a `.tflite`, or None.
    """

    model: Path
    reports: Mapping[str, Path]
    header: Path | None


@dataclass(frozen=True)
class Draft:
    """A model that is written and not published yet.

    Attributes:
        path: path of the written draft.
        written: what the writer says of it.
        meters: the meter of each tensor that the writer pulled.
    """

    path: Path
    written: base.Written
    meters: dict[Identity, Meter]


def reserve(checked: Checked, outputs: Outputs) -> Places:
    """Checks that everything may be written where it belongs.

    Raises:
        UsageError: a place is taken, is an input, or has no folder.
        ResourceError: its folder cannot be written to.
    """
    wanted = places_of(checked)
    for failed, folder in failures_of(checked):
        outputs.check(failed, folder=folder)
    model = outputs.add(wanted.model, folder=checked.writer.folder)
    reports = {form: outputs.add(path) for form, path in wanted.reports.items()}
    return Places(model, reports, outputs.add(wanted.header) if wanted.header else None)


def places_of(checked: Checked) -> Places:
    """What a job writes, by its final names."""
    job = checked.job
    return Places(job.output, provenance.report_paths(job.output) if job.report else {}, job.header)


def failures_of(checked: Checked) -> list[tuple[Path, bool]]:
    """Where the output goes if a gate fails, and the C array; each with whether it is a folder."""
    job = checked.job
    if not job.judged:
        return []
    place = provenance.failed_place(job.output)
    headers = [(place.with_suffix(".h"), False)] if job.header else []
    return [(place, checked.writer.folder), *headers]


def write(
    checked: Checked,
    folded: Folded,
    place: Path,
    history: History,
    say: Say = lambda _: None,
) -> Draft:
    """Writes the last model; every tensor is pulled, edited, measured and coded once.

    Args:
        checked: the job.
        folded: the models.
        place: path to write to.
        history: how the model was made, for the file.
        say: takes a line about progress.

    Raises:
        UsageError: the format cannot hold the model after its steps.
        ModelcutError: an edit failed.
    """
    job, writer = checked.job, checked.writer
    reason = writer.refusal(folded.models[-1])
    if reason:
        raise UsageError(f"{job.output}: {reason}")
    keep = job.keep_optimizer
    meters: dict[Identity, Meter] = {}
    new_meter = partial(Meter, deflate=True, full=job.full_report)
    total = sum(1 for _ in folded.models[-1].tensors)

    def metered(tensor: Tensor) -> Meter:
        meter = meters.setdefault(identity(tensor), new_meter())
        say(f"writing, {len(meters)} of {total} tensors")
        return meter

    written = writer.write(
        folded.models[-1],
        place,
        base.WriteOptions(
            compression=job.compression or "fast",
            coder=job.coder or "best",
            keep_optimizer=writer.holds_all_of(checked.model) if keep is None else keep,
            provenance=history,
            convert=convert.conversion(job, history, say),
            checksums={},
            meter=metered,
        ),
    )
    return Draft(place, written, meters)
