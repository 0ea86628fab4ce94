"""Which output of a network is measured against which labels, and for what task: by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from modelcut.data import DataOptions, InputSpec
from modelcut.data.table import Table
from modelcut.engines import OutputSpec
from modelcut.errors import InputError, UsageError
from modelcut.metrics import task as tasks
from modelcut.metrics.labels import check_classes
from modelcut.metrics.scores import Target
from modelcut.safety import printable

_NUMBERED = re.compile(r"(?:output|Identity|StatefulPartitionedCall|PartitionedCall)[_:]?(\d*)")


class Described(Protocol):
    """What is asked of a network: one that was loaded, or what its architecture says of it.

    Attributes:
        inputs, outputs: the specification of each.
        loss: the loss that it was compiled with, as in the file's configuration; None for none.
    """

    @property
    def inputs(self) -> tuple[InputSpec, ...]: ...

    @property
    def outputs(self) -> tuple[OutputSpec, ...]: ...

    @property
    def loss(self) -> Any: ...


@dataclass(frozen=True)
class Wanted:
    """What the user says of the outputs; a mapping says it by name.

    Attributes:
        task: auto, or one of `task.KINDS`.
        from_logits: whether outputs are logits; None: inferred from the file.
    """

    task: str | Mapping[str, str] = "auto"
    from_logits: bool | Mapping[str, bool] | None = None


@dataclass(frozen=True)
class Targets:
    """The outputs of a network, in its order.

    Attributes:
        outputs: the outputs, each with its task and labels.
        notes: what was assumed about them, for the report.
    """

    outputs: tuple[Target, ...]
    notes: tuple[str, ...] = ()


def plan(network: Described, table: Table, options: DataOptions, wanted: Wanted) -> Targets:
    """Decides the task of each output, and deals the label columns out to them.

    Args:
        network: the network whose outputs are measured.
        table: the CSV that holds the labels.
        options: which columns are labels, and the names of the classes.
        wanted: task and logits of the outputs, as set by the user.

    Raises:
        UsageError: an output gets no labels or more than one a sample, or a name is no output's.
    """
    if table.reconstructs:
        return _mirrored(network, table, wanted)
    outputs = network.outputs
    dealt, notes = _dealt(outputs, table, options) if table.labels else ({}, [])
    kinds = _by_output(outputs, wanted.task, "--task")
    scales = _by_output(outputs, wanted.from_logits, "--from-logits")
    classes = _by_output(outputs, options.classes, "--classes")
    losses = tasks.losses(network.loss, [known(spec) for spec in outputs])
    every, labels = table.names, table.labels
    # One list for several outputs is for those that decide by what the file says.
    for_all = len(outputs) > 1 and isinstance(options.classes, list)
    made = []
    for spec, loss in zip(outputs, losses, strict=True):
        places = dealt.get(spec.name, ())
        units = _units(spec, measured=bool(places))
        names = classes.get(spec.name)
        kind = kinds.get(spec.name, "auto")
        if kind == "auto" and not places and (why := _no_decision(spec, network)):
            decided = tasks.Task("", units, loss=loss, assumed=why)
        else:
            decided = tasks.decide(
                units,
                spec.activation,
                loss,
                len(places),
                kind=None if kind == "auto" else kind,
                from_logits=scales.get(spec.name),
                named=names is not None and not for_all,
            )
        if for_all and not decided.decides:
            names = None
        if names is not None and places:
            check_classes(names, decided.kind, units, spec.name)
        columns = tuple(every[labels[place]] for place in places)
        made.append(Target(spec.name, decided, places, columns, tuple(names) if names else None))
        if table.labels and not places:
            notes.append(f"the output {_shown(spec)} has no label and is not measured")
        notes += _note(spec, decided, several=len(outputs) > 1)
    if scales and not any(t.task.decides for t in made if t.name in scales):
        raise UsageError(
            "--from-logits: applies to classifier outputs, and the model has none", "leave it out"
        )
    return Targets(tuple(made), tuple(notes))


def _mirrored(network: Described, table: Table, wanted: Wanted) -> Targets:
    """Each output is measured against the input that it should reconstruct, in order.

    Raises:
        UsageError: an output is not like its input.
    """
    if wanted.task not in ("auto", "regression"):
        raise UsageError(f"label: input is a regression, not {wanted.task}", "leave --task out")
    if len(network.inputs) != len(network.outputs):
        raise UsageError(
            f"label: input: the model has {len(network.inputs)} inputs and "
            f"{len(network.outputs)} outputs",
            "an autoencoder has one output for each input",
        )
    losses = tasks.losses(network.loss, [known(spec) for spec in network.outputs])
    made, start, every = [], 0, table.names
    for given, spec, loss in zip(network.inputs, network.outputs, losses, strict=True):
        columns = table.features[given.name]
        units, sizes = len(columns), [n for n in spec.shape if n is not None]
        whole = len(sizes) == len(spec.shape)
        fits = units == prod(sizes) if whole else units % prod(sizes) == 0
        if given.dtype == "string" or not fits:
            raise UsageError(
                f"label: input: the output {spec.name!r} of shape {spec.shape} cannot be compared "
                f"with the input {given.name!r} of shape {given.shape} ({given.dtype})",
                "--label names the label columns",
            )
        decided = tasks.decide(units, spec.activation, loss, units, kind="regression")
        names = tuple(every[column] for column in columns)
        made.append(Target(spec.name, decided, tuple(range(start, start + units)), names))
        start += units
    return Targets(tuple(made))


def paired(outputs: Sequence[OutputSpec], others: Sequence[OutputSpec]) -> list[int]:
    """For each output of a network, which of another network's it is: by name, else by number.

    Raises:
        InputError: the other network lacks it.
    """
    for mine, theirs in (("name", "name"), ("alias", "name"), ("name", "alias")):
        index = {getattr(spec, theirs): number for number, spec in enumerate(others)}
        names = [getattr(spec, mine) for spec in outputs]
        if len(set(names)) == len(names) and "" not in names and all(n in index for n in names):
            return [index[name] for name in names]
    if len(outputs) != len(others):
        raise InputError(
            f"the two models have {len(outputs)} and {len(others)} outputs",
            "of a SavedModel, --signature NAME:OUTPUT takes one",
        )
    numbers = [_number_of(spec.name) for spec in others]
    if sorted(numbers) == list(range(len(others))):
        return [numbers.index(number) for number in range(len(others))]
    return list(range(len(others)))


def known(spec: OutputSpec) -> tuple[str, ...]:
    """The names by which an output is known, its own first."""
    return (spec.name, spec.alias) if spec.alias else (spec.name,)


def _number_of(name: str) -> int:
    """The number in a name that a converter made, such as output_3; -1 for another name."""
    match = _NUMBERED.fullmatch(name)
    return -1 if match is None else int(match[1] or 0)


def _units(spec: OutputSpec, *, measured: bool) -> int:
    """How many numbers the output gives a sample.

    Raises:
        UsageError: it is to be measured, and gives more than one decision.
    """
    shape = [n for n in spec.shape if n != 1]
    if measured and (len(shape) > 1 or None in shape):
        raise UsageError(
            f"the output {spec.name!r} of shape {spec.shape} has more than one label per sample",
            "modelcut evaluates one decision per sample",
        )
    return next((n for n in shape if n is not None), 1)


def _dealt(
    outputs: Sequence[OutputSpec], table: Table, options: DataOptions
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The label columns of each output, and what to tell of it."""
    count = len(table.labels)
    if isinstance(options.label, dict):
        found, start = {}, 0
        widths = [len(part) if isinstance(part, list) else 1 for part in options.label.values()]
        for name, width in zip(options.label, widths, strict=True):
            found[_find(outputs, name, "--label").name] = tuple(range(start, start + width))
            start += width
        return found, []
    if len(outputs) == 1:
        return {outputs[0].name: tuple(range(count))}, []
    every = table.names
    columns = [every[number] for number in table.labels]
    found = {}
    for spec in outputs:
        mine = [i for i, column in enumerate(columns) if column in known(spec)]
        mine = mine or [i for i, column in enumerate(columns) if _belongs(column, spec)]
        if mine:
            found[spec.name] = tuple(mine)
    used = [place for places in found.values() for place in places]
    if len(found) == len(outputs) and sorted(used) == list(range(count)):
        return found, []
    if not found and not any(spec.keyed for spec in outputs):
        dealt = _in_order(outputs, count)
        if dealt:
            words = ", ".join(
                f"{'+'.join(columns[i] for i in places)} to {name}"
                for name, places in dealt.items()
            )
            line = "label columns are not named like outputs and were dealt out in order: "
            return dealt, [line + printable(words, 200)]
    example = ", ".join(f"{spec.name}: column" for spec in outputs[:4])
    raise UsageError(
        f"{table.path}: label columns {printable(', '.join(columns), 100)}: it cannot be told "
        f"which of the outputs they are of ({printable(', '.join(s.name for s in outputs), 90)})",
        f"name the output: --label '{{{printable(example, 120)}}}'; of a SavedModel, "
        "--signature NAME:OUTPUT takes one",
    )


def _belongs(column: str, spec: OutputSpec) -> bool:
    """Whether a column is one of several of an output: out_0, out.0, out[0]."""
    return column.startswith(tuple(f"{name}{mark}" for name in known(spec) for mark in "_.["))


def _in_order(outputs: Sequence[OutputSpec], count: int) -> dict[str, tuple[int, ...]]:
    """Columns dealt out by position, where that is plain: one each, or one for each unit."""
    units = [_units(spec, measured=True) for spec in outputs]
    widths = [1] * len(units) if count == len(units) else units
    if sum(widths) != count:
        return {}
    starts = [sum(widths[:number]) for number in range(len(widths))]
    return {
        spec.name: tuple(range(start, start + width))
        for spec, start, width in zip(outputs, starts, widths, strict=True)
    }


def _find(outputs: Sequence[OutputSpec], name: str, flag: str) -> OutputSpec:
    """An output by one of its names.

    Raises:
        UsageError: there is none.
    """
    for names in (lambda spec: (spec.name,), known):
        for spec in outputs:
            if name in names(spec):
                return spec
    raise UsageError(
        f"{flag}: the model has no output {printable(name, 60)!r}",
        f"its outputs: {printable(', '.join(spec.name for spec in outputs), 200)}",
    )


def _by_output(outputs: Sequence[OutputSpec], said: Any, flag: str) -> dict[str, Any]:
    """What was said of each output, by its name."""
    if isinstance(said, Mapping):
        return {_find(outputs, name, flag).name: value for name, value in said.items()}
    return {} if said is None else {spec.name: said for spec in outputs}


def _no_decision(spec: OutputSpec, network: Described) -> str:
    """Why an output without labels decides nothing, whatever it ends in; "" where it may."""
    shape = tuple(n for n in spec.shape if n != 1)
    if len(shape) > 1 or None in shape:
        return f"not taken for decisions: it gives {'×'.join(map(str, shape))} numbers a sample"
    first = network.inputs[0]
    like = tuple(n for n in first.shape if n != 1)
    if len(network.inputs) == 1 and shape == like and shape and spec.activation != "softmax":
        return "taken for a reconstruction: it has the shape of the input"
    return ""


def _note(spec: OutputSpec, decided: tasks.Task, *, several: bool) -> Iterable[str]:
    if not decided.assumed:
        return
    flags = "--task and --from-logits say" if "logits" in decided.assumed else "--task says"
    which = f"the output {_shown(spec)}" if several else "the output"
    yield f"{which}: {decided.assumed} ({flags} what it is)"


def _shown(spec: OutputSpec) -> str:
    return repr(printable(spec.name, 60))
