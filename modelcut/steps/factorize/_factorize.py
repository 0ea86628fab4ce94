"""What all methods have in common: which layers, which ranks, and the edit of the network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from modelcut.errors import RecipeError
from modelcut.graph import chains
from modelcut.graph.architecture import Architecture, Refusal
from modelcut.model import cost, edit
from modelcut.model.measure import change, difference
from modelcut.model.model import Layer, Model, Tensor
from modelcut.model.rewrite import Rewrite
from modelcut.steps.base import CODED, NOT_FINITE, TARGET_KINDS, Context, Need, Outcome
from modelcut.steps.correction import Corrected
from modelcut.steps.factorize import _whiten
from modelcut.steps.factorize._choose import Option, by_energy, by_ratio, saving, within
from modelcut.steps.factorize._parts import Decomposition, Factors, Part, Ranks
from modelcut.steps.factorize._target import Target, other_tensors, target_of
from modelcut.steps.factorize._whiten import Statistics
from modelcut.steps.strength import Budgeted, Strength

DEFAULT_ENERGY = 0.95
_KEPT_BYTES = 1 << 26
"""Decompositions of larger kernels are not kept for another trial of the step."""
_LITTLE = 0.01
"""With a budget of MACs, layers that do less of the work than this are left alone."""


class Factorization(Corrected, Budgeted):
    """Replaces layers by chains of smaller ones."""

    aims: ClassVar[frozenset[str]] = TARGET_KINDS | {"embedding"}
    strength: ClassVar[Strength] = Strength(
        "energy",
        (0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5),
        instead=("rank", "ratio", "macs", "params"),
        needed=False,
    )
    global_fields: ClassVar[frozenset[str]] = frozenset({"macs", "params", "whiten", "rows"})
    refuses: ClassVar[dict[str, str]] = {
        **CODED,
        "sparse": "the factors of a sparse matrix are not sparse",
    }

    rank: Annotated[int, Field(ge=1)] | Literal["vbmf"] | None = Field(
        default=None,
        description="Rank of the factors: the width between the layers; or vbmf, which tells "
        "signal from noise by variational Bayes.",
    )
    energy: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Fraction of the sum of squared singular values to keep, such as 0.95, the "
        "default where no other way is given: 1 minus the relative squared error.",
    )
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Maximum fraction of the layer's weights to keep, such as 0.25."
    )
    macs: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Maximum fraction of the network's multiply-accumulates (MACs) to keep, dealt "
        "out by the error of each layer per saved MAC.",
    )
    params: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Maximum fraction of the network's weights to keep, dealt out in the same way.",
    )
    whiten: bool = Field(
        default=False,
        description="Minimise the error of the layers' outputs on training samples, instead of "
        "that of their kernels, fit the factors to them, and correct the biases; no labels needed.",
    )
    rows: Annotated[int, Field(ge=1)] = Field(
        default=1024, description="With whiten: maximum number of training samples to use."
    )

    @property
    def needs(self) -> frozenset[Need]:
        more: frozenset[Need] = frozenset({"graph", "train"} if self.whiten else {"graph"})
        return super().needs | more

    @model_validator(mode="after")
    def _rows_need_whiten(self) -> Self:
        if "rows" in self.model_fields_set and not (self.whiten or self.correct):
            raise ValueError(
                "rows: only whiten and correct look at samples; add one, or leave rows out"
            )
        return self

    @abstractmethod
    def refusal(self, target: Target) -> str:
        """Why the method does not apply to a layer; "" where it does."""

    @abstractmethod
    def decomposed(
        self, target: Target, matrix: np.ndarray, statistics: Statistics | None
    ) -> Decomposition:
        """The kernel as this method factorizes it.

        Args:
            target: a layer that the method applies to.
            matrix: its kernel, (depth, outputs), float32 or float64.
            statistics: of what goes into it, if whitened.
        """

    def options(
        self, target: Target, matrix: np.ndarray, statistics: Statistics | None, memo: Any = None
    ) -> list[Option] | str:
        """The ways to factorize a layer by these settings, or why there are none."""
        found = self._remembered(target, matrix, statistics, memo)
        if self.rank == "vbmf":
            ranks = found.vbmf()
            if isinstance(ranks, str):
                return ranks
            every = [ranks]
        else:
            every = found.candidates() if self.rank is None else [found.at(self.rank)]
        return [self._option(target, found, ranks) for ranks in every]

    def _remembered(
        self, target: Target, matrix: np.ndarray, statistics: Statistics | None, memo: Any
    ) -> Decomposition:
        key = ("factorize", self.method, target.layer.name, self.rank)
        if memo is not None and key in memo:
            kept: Decomposition = memo[key]
            return kept
        found = self.decomposed(target, matrix, statistics)
        if memo is not None and matrix.nbytes <= _KEPT_BYTES:
            memo[key] = found
        return found

    def _option(self, target: Target, found: Decomposition, ranks: Ranks) -> Option:
        parts = found.parts(ranks)
        params, macs = target.cost(parts)
        return Option(self.method, found, ranks, parts, params, macs, found.loss(ranks))

    def apply(self, model: Model, context: Context) -> Outcome:
        """See `Step`; the factors are computed here, once, and kept: they are the smaller part."""
        architecture = self.architecture_of(model, context, "a layer cannot be split")
        chosen, skipped = self.select(model, context)
        targets = self._targets(model, architecture, {t.name for t in chosen}, skipped, context)
        survey, facts = self._surveyed(model, targets, context)
        picks = self._picked(model, targets, survey, skipped, context)
        plan = _Plan(architecture, [])
        for pick in picks:
            reason = plan.add(pick)
            if reason:
                skipped.update(_because(pick.target, reason))
        errors: dict[str, float] = {}
        if self.whiten and plan.entries:
            errors = self._fit_in_order(model, plan, context)
        return self._outcome(model, plan, skipped, facts, errors, context)

    def _targets(
        self, model: Model, architecture: Architecture, names: set[str],
        skipped: dict[str, str], context: Context,
    ) -> list[Target]:  # fmt: skip
        """The layers that can be factorized by their settings; why others cannot is noted."""
        shapes, work = architecture.input_shapes(), cost.macs(model)
        unknown = next((name for name, count in work.items() if count is None), None)
        if self.macs is not None and unknown is not None:
            raise RecipeError(
                f"step {context.index + 1}, {self.title}: the multiply-accumulates of {unknown} "
                "cannot be told from the file",
                "give params, energy or ratio instead of macs",
            )
        total = sum(count or 0 for count in work.values())
        found = []
        for layer in model.layers:
            mine = [tensor for tensor in layer.tensors if tensor.name in names]
            if not mine:
                continue
            macs = work.get(layer.name)
            target = target_of(layer, mine, shapes.get(layer.path), macs, architecture)
            if isinstance(target, str):
                skipped.update({tensor.name: target for tensor in mine})
                skipped.update({n: why for n, why in other_tensors(layer).items() if n in names})
                continue
            skipped.update({n: why for n, why in other_tensors(layer).items() if n in names})
            settings = self.settings(layer, target.kernels[0])
            reason = settings.refusal(target)
            if not reason and settings.macs is not None and (macs or 0) < _LITTLE * total:
                reason = f"does less than {_LITTLE:.0%} of the network's multiply-accumulates"
                reason = "multiplies nothing" if target.kind == "embedding" else reason
            if reason:
                skipped.update(_because(target, reason))
            else:
                found.append(target)
        return found

    def _surveyed(
        self, model: Model, targets: list[Target], context: Context
    ) -> tuple[dict[str, Statistics], dict[str, Any]]:
        facts: dict[str, Any] = {"layers": {}}
        if not self.whiten or not targets:
            return {}, facts
        key = ("factorize", "statistics")
        if key not in context.memo:
            runtime = context.required_runtime(self.title)
            running = runtime.open(model)
            matrices = {target.layer.name: _whiten.wide(target.matrix()) for target in targets}
            context.memo[key] = _whiten.survey(
                targets, matrices, running, self.rows, context, self.title
            )
        found, seen = context.memo[key]
        if not all(target.layer.name in found for target in targets):
            del context.memo[key]
            return self._surveyed(model, targets, context)
        return found, {**facts, "rows": seen}

    def _picked(
        self, model: Model, targets: list[Target], survey: Mapping[str, Statistics],
        skipped: dict[str, str], context: Context,
    ) -> list[_Pick]:  # fmt: skip
        """The option of each layer."""
        picks: list[_Pick] = []
        pool: list[tuple[Target, list[Option]]] = []
        for target in targets:
            context.say(f"{self.title}: {target.layer.name}")
            matrix = _whiten.wide(target.matrix())
            if not np.isfinite(matrix).all():
                skipped.update(_because(target, NOT_FINITE))
                continue
            settings = self.settings(target.layer, target.kernels[0])
            found = settings.options(target, matrix, survey.get(target.layer.name), context.memo)
            if isinstance(found, str):
                skipped.update(_because(target, found))
                continue
            smaller = saving(found, target.values, target.macs)
            if not smaller:
                skipped.update(_because(target, settings._larger(target, found)))
                continue
            if settings.macs is not None or settings.params is not None:
                pool.append((target, smaller))
                continue
            option = settings._chosen(target, smaller)
            if option is None:
                skipped.update(_because(target, settings._too_much(smaller)))
            else:
                picks.append(_Pick.of(target, option))
        picks += self._by_budget(model, pool, picks, skipped, context)
        order = {layer.path: number for number, layer in enumerate(model.layers)}
        return sorted(picks, key=lambda pick: order[pick.target.layer.path])

    def _larger(self, target: Target, found: Sequence[Option]) -> str:
        if len(found) == 1:
            ranks = "×".join(map(str, found[0].ranks))
            most = saving(
                [self._option(target, found[0].found, r) for r in found[0].found.candidates()],
                target.values, target.macs,
            )  # fmt: skip
            highest = f" (at most {'×'.join(map(str, most[-1].ranks))})" if most else ""
            return f"rank {ranks} would not be smaller{highest}"
        shape = "×".join(map(str, (*target.size, target.inputs, target.outputs)))
        return f"{shape} cannot become smaller"

    def _chosen(self, target: Target, options: list[Option]) -> Option | None:
        if self.rank is not None:
            return min(options, key=lambda option: (option.size, option.loss))
        if self.ratio is not None:
            return by_ratio(options, self.ratio, target.values)
        return by_energy(options, self._energy)

    @property
    def _energy(self) -> float:
        return DEFAULT_ENERGY if self.energy is None else self.energy

    def _too_much(self, options: list[Option]) -> str:
        best = min(options, key=lambda option: option.loss)
        ranks = "×".join(map(str, best.ranks))
        return (
            f"nothing smaller keeps an energy of {self._energy:g} "
            f"({best.method} of rank {ranks} keeps {1 - best.loss:.4g})"
        )

    def _by_budget(
        self, model: Model, pool: list[tuple[Target, list[Option]]],
        others: list[_Pick], skipped: dict[str, str], context: Context,
    ) -> list[_Pick]:  # fmt: skip
        """The options of the layers that share a budget."""
        if self.macs is None and self.params is None:
            return []
        where = f"step {context.index + 1}, {self.title}"
        if self.macs is not None:
            whole, key = sum(count or 0 for count in cost.macs(model).values()), self.macs
        else:
            assert self.params is not None
            whole, key = sum(tensor.size for tensor in model.tensors), self.params
        own = {t.layer.name: self._cost_of(t) for t, _ in pool}
        ladders = {
            t.layer.name: [(self._cost(option), option.loss) for option in options]
            for t, options in pool
        }
        rest = whole - sum(own.values())
        for pick in others:
            rest -= self._cost_of(pick.target) - self._cost(pick)
        limits = within(ladders, own, key * whole - rest)
        reached = rest + sum(limits.get(name, cost_) for name, cost_ in own.items())
        if reached > key * whole * (1 + 1e-9):
            name = "macs" if self.macs is not None else "params"
            raise RecipeError(
                f"{where}: {name} {key:g} cannot be reached: with the lowest ranks everywhere "
                f"{reached / max(1, whole):.3g} is left",
                f"give a higher value of {name}"
                + ("" if self.method == "auto" else ", or method auto, for more layers"),
            )
        picks = []
        for target, options in pool:
            limit = limits.get(target.layer.name)
            if limit is None:
                skipped.update(_because(target, "its error is not worth what it would save"))
                continue
            fitting = [option for option in options if self._cost(option) <= limit]
            option = min(fitting, key=lambda each: (each.loss, each.size))
            picks.append(_Pick.of(target, option))
        return picks

    def _cost(self, option: Option | _Pick) -> int:
        return (option.macs or 0) if self.macs is not None else option.params

    def _cost_of(self, target: Target) -> int:
        return (target.macs or 0) if self.macs is not None else target.values

    def _fit_in_order(self, model: Model, plan: _Plan, context: Context) -> dict[str, float]:
        runtime = context.required_runtime(self.title)
        runnings = runtime.open(model), runtime.open(model)
        chosen = [(entry.pick.target, entry.pick.factors) for entry in plan.entries]
        fitted = _whiten.in_order(chosen, runnings, self.rows, context, self.title)
        errors = {}
        for entry in plan.entries:
            name = entry.pick.target.layer.name
            factors, error = fitted[name]
            entry.pick = replace(entry.pick, factors=factors)
            errors[name] = error
        return errors

    def _outcome(
        self, model: Model, plan: _Plan, skipped: dict[str, str], facts: dict[str, Any],
        errors: Mapping[str, float], context: Context,
    ) -> Outcome:  # fmt: skip
        made: dict[tuple[str, ...], tuple[Layer, ...]] = {}
        for entry in plan.entries:
            pick = entry.pick
            target, name = pick.target, pick.target.layer.name
            factors = pick.factors.as_type(target.kernels[0].dtype)
            bias = target.bias
            if bias is not None and factors.bias is not None:
                bias = _shifted(bias, factors.bias, context.index)
            made[target.layer.path] = target.layers(
                plan.architecture, pick.parts, entry.names, factors, bias
            )
            facts["layers"][name] = _facts(pick, factors, errors.get(name))
        layers = [new for old in model.layers for new in made.get(old.path, (old,))]
        after = edit.in_architecture(model, layers, plan.architecture)
        work = [cost.macs(each) for each in (model, after)]
        if all(count is not None for each in work for count in each.values()):
            before, now = (sum(count or 0 for count in each.values()) for each in work)
            facts["macs"] = {"before": before, "after": now}
        return self.finished(model, Outcome(after, facts, skipped), context)


@dataclass(frozen=True)
class _Pick:
    """What a layer becomes; without the decomposition, which holds its kernel."""

    target: Target
    method: str
    ranks: Ranks
    full: int | list[int]
    parts: tuple[Part, ...]
    params: int
    macs: int | None
    loss: float
    factors: Factors

    @classmethod
    def of(cls, target: Target, option: Option) -> _Pick:
        """The option with its factors."""
        found, ranks = option.found, option.ranks
        return cls(
            target, option.method, ranks, found.full, option.parts, option.params, option.macs,
            option.loss, found.factors(ranks),
        )  # fmt: skip


@dataclass
class _Entry:
    pick: _Pick
    names: list[str]


@dataclass
class _Plan:
    """The architecture with the chains so far."""

    architecture: Architecture
    entries: list[_Entry]

    def add(self, pick: _Pick) -> str:
        """Puts a chain in; or tells why that is not possible."""
        path = pick.target.layer.path
        names = chains.free_names(self.architecture, path, len(pick.parts) - 1)
        names.append(path[-1])
        try:
            links = pick.target.links(pick.parts, names)
            self.architecture = chains.replaced(self.architecture, path, links)
        except Refusal as reason:
            return f"cannot be split: {reason}"
        self.entries.append(_Entry(pick, names))
        return ""


def _because(target: Target, reason: str) -> dict[str, str]:
    return {kernel.name: reason for kernel in target.kernels}


def _shifted(bias: Tensor, by: np.ndarray, step: int) -> Tensor:
    def plan(values: np.ndarray, encoding: Any) -> Rewrite:
        def block(part: np.ndarray, rows: slice) -> np.ndarray:
            moved: np.ndarray = (part + by[rows]).astype(part.dtype)
            return moved

        del values
        return Rewrite(encoding, block)

    return bias.then(step, plan, bias.kinds)


def _facts(pick: _Pick, factors: Factors, output_error: float | None) -> dict[str, Any]:
    """What was decided of one layer; the error is measured, with the factors as they are stored."""
    matrix = pick.target.matrix()
    parts = [difference(matrix[rows], found) for rows, found in factors.blocks()]
    ranks, target = list(pick.ranks), pick.target
    fact: dict[str, Any] = {
        "method": pick.method,
        "rank": ranks[0] if len(ranks) == 1 else ranks,
        "of": pick.full,
        "energy": 1 - pick.loss,
        **change(parts).to_dict(),
        "weights": {"before": target.values, "after": pick.params},
    }
    if target.macs is not None and pick.macs is not None:
        fact["macs"] = {"before": target.macs, "after": pick.macs}
    if output_error is not None and np.isfinite(output_error):
        fact["output_error"] = output_error**0.5
    return {**fact, **(factors.note or {})}
