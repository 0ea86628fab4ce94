"""The stage that evaluates the original and the written model."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelcut.formats import registry
from modelcut.job.check import check_runnable, own_objects
from modelcut.job.expected import expectations
from modelcut.job.request import Say, Trust
from modelcut.metrics.intervals import CONFIDENCE
from modelcut.model.encoding import Fixed
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe
from modelcut.report.schema import Evaluation

if TYPE_CHECKING:
    from modelcut import engines
    from modelcut.job import inference
    from modelcut.job.simulated import Simulation


def open_evaluator(
    recipe: Recipe,
    test: Path,
    path: Path,
    model: Model,
    trust: Trust,
    *,
    beside: bool,
    compared: bool,
    apart: bool = True,
    say: Say = lambda _: None,
) -> inference.Evaluator:
    """Opens a model's network on the test data, and refuses gates that nothing measures there.

    Args:
        recipe: recipe whose data options and gates apply.
        test: CSV of test data.
        path: path of the model file.
        model: the model as it was read.
        trust: which code of the file may run.
        beside: a SavedModel is measured as well: that may have the signature.
        compared: whether it will be compared with another model.
        apart: whether it may run in a process of its own; False: this one has an engine already.
        say: takes a line about progress.

    Raises:
        ModelcutError: it cannot be run, or the CSV or a gate does not fit it.
    """
    from modelcut.job import inference
    from modelcut.job.targets import Wanted

    head = recipe.head
    wanted = Wanted(head.task, head.from_logits)
    network = network_of(recipe, path, model, trust, beside=beside, apart=apart, say=say)
    expected = expectations(model)
    evaluator = inference.Evaluator.open(network, test, head.data, wanted, expected, apart=apart)
    evaluator.check(head.gates, compared=compared)
    return evaluator


def check_test(recipe: Recipe, test: Path, model: Model) -> None:
    """Holds the test data against a model as far as its architecture tells, without an engine.

    Raises:
        ModelcutError: the test data does not fit it.
    """
    from modelcut.job.data_check import check_data
    from modelcut.job.targets import Wanted

    head = recipe.head
    check_data(model, test, head.data, Wanted(head.task, head.from_logits))


def runs_apart(trust: Trust) -> bool:
    """Whether a network can run in a process of its own: the user's own objects are in this one."""
    from modelcut import engines

    return not (trust.custom_objects or (trust.all and engines.has_registered()))


def warm(model: Model, trust: Trust) -> None:
    """Has the engine of a model start while other work is done."""
    from modelcut import engines

    if runs_apart(trust):
        engines.warm(model.origin.dialect)


def network_of(
    recipe: Recipe,
    path: Path,
    model: Model,
    trust: Trust,
    *,
    beside: bool,
    apart: bool = True,
    say: Say = lambda _: None,
    rounding: engines.Rounding | None = None,
) -> engines.Network:
    """The network of a model's file.

    Args:
        recipe: names the signature.
        path: path of the model file.
        model: the model as it was read.
        trust: which code of the file may run.
        beside: a SavedModel is measured as well: that may have the signature.
        apart: whether it may run in a process of its own.
        say: takes a line about progress.
        rounding: how it computes in integers; None: it does not.

    Raises:
        ModelcutError: it cannot be run, or must not be.
    """
    from modelcut import engines
    from modelcut.job import limits, loss

    check_runnable(model, trust)  # whoever asked before: no engine starts without
    # A SavedModel may be measured beside a file of another format, which has no signatures.
    without = beside and not registry.of_model(model).signatures
    apart = apart and runs_apart(trust)
    say(f"starting {engines.name_of(model.origin.dialect)}")
    with (
        registry.plain_file(model) as (file, suffix),
        contextlib.nullcontext() if apart else limits.loading(model),
    ):
        network = engines.open_network(
            file,
            model.origin.dialect,
            suffix=suffix,
            loss=loss.loss_of(model),
            trust=trust.all,
            custom_objects=own_objects(trust),
            signature=None if without else recipe.head.data.signature,
            name=str(path),
            hint=_without_running(model),
            apart=apart,
            bounds=limits.bounds(model),
            rounding=rounding,
        )
    limits.bound(network, model, apart=apart)
    return network


def _without_running(model: Model) -> str:
    """What can be done with a model that its engine cannot load."""
    kept = any(isinstance(tensor.encoding, Fixed) for tensor in model.tensors)
    what = "pack it" if kept else "prune, quantize and factorize it"
    return f"modelcut can still {what}; leave out --test"


def evaluate(
    recipe: Recipe,
    evaluator: inference.Evaluator,
    other: tuple[Path, Model] | None,
    original: Model,
    trust: Trust,
    names: tuple[str, str] = ("the original", "the result"),
    say: Say = lambda _: None,
    simulation: Simulation | None = None,
) -> Evaluation:
    """Runs one or two networks over a CSV.

    Args:
        recipe: recipe whose data options apply.
        evaluator: evaluator of the original, or of the only model.
        other: the model that is compared with the original.
        original: the model of the evaluator.
        trust: which code of the file may run.
        names: what the two are called in warnings.
        say: takes a line about progress.
        simulation: a model that is run in integers as well; None: none is.

    Returns:
        The report's `evaluation`: the only model stands as `after`.
    """
    test, networks = str(evaluator.table.path), []
    if other is not None:
        beside = registry.of_model(original).signatures
        networks = [
            network_of(recipe, *other, trust, beside=beside, apart=evaluator.apart, say=say)
        ]
    named = names if other is not None else ("the model",)
    rounding = None
    if simulation is not None:
        from modelcut.job.simulated import in_integers

        rounding = simulation.rounding(recipe.head.data, evaluator.network.inputs)
        inside = in_integers(simulation.model)
        networks.append(
            network_of(
                recipe,
                inside.origin.path,
                inside,
                trust,
                beside=False,
                apart=evaluator.apart,
                say=say,
                rounding=rounding,
            )
        )
        named = (*named, f"{named[-1]} in integers")
    measured, pairs = evaluator.run(*networks, names=named, say=say)
    simulated = None
    if rounding is not None:
        simulated = _simulated(measured.pop(), pairs.pop(), networks[-1], rounding)
    if other is None:
        alone = measured[0].to_dict()
        return Evaluation(test, None, alone, confidence=CONFIDENCE, simulated=simulated)
    (before, after), (pair,) = measured, pairs
    return Evaluation(
        test,
        before.to_dict(),
        after.to_dict(),
        pair.change,
        pair.agreement,
        pair.latency,
        CONFIDENCE,
        simulated,
    )


def _simulated(
    measured: inference.Measurement,
    pair: inference.Pair,
    network: engines.Network,
    rounding: engines.Rounding,
) -> dict[str, Any]:
    """What a network in simulated integers did; its speed says nothing."""
    found = measured.to_dict()
    for name in ("rows_per_second", "latency", "host", "cleaning"):
        del found[name]
    return {
        **found,
        "activation_bits": rounding.bits,
        "samples": len(rounding.samples[0]),
        "inside": list(getattr(network, "inside", ())),
        "change": pair.change,
        "agreement": pair.agreement,
    }
