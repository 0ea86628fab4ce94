"""Takes out layers that give what they are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modelcut.errors import ModelcutError, RecipeError
from modelcut.graph import chains
from modelcut.graph.architecture import Architecture, Refusal
from modelcut.graph.keras import identities
from modelcut.graph.keras.calls import Entry
from modelcut.graph.keras.classes import Shape
from modelcut.graph.node import Node, Path
from modelcut.model import edit
from modelcut.model.model import Layer, Model
from modelcut.steps.base import Context, Need, Outcome, Step
from modelcut.steps.select import matches, matches_any, optional, suggest

_OTHER = "its layer is no identity"


class Identity(Step):
    """Remove layers that are identities in inference: Dropout, Identity, linear Activation, …"""

    of_layers: ClassVar[bool] = True
    absent: ClassVar[dict[str, str]] = {"budget": "it needs none, for the outputs stay the same"}

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"graph"}

    def apply(self, model: Model, context: Context) -> Outcome:
        """See `Step`; no tensor is read."""
        architecture = self.architecture_of(model, context, "no layer can be taken out")
        where = f"step {context.index + 1}, {self.title}"
        for pattern in (*self.include, *self.exclude):
            if not optional(pattern) and not matches_any(pattern, model):
                raise RecipeError(
                    f"{where}: {pattern!r} matches no layer of {model.origin.path.name}",
                    suggest(pattern, model),
                )
        skipped = {tensor.name: _OTHER for tensor in model.tensors}
        removed: dict[str, str] = {}
        network = _Network.of(architecture)
        for layer in model.layers:
            found = network.identity(architecture, layer)
            if found is None:
                continue
            reason = self._left(layer)
            if reason:
                skipped[layer.name] = reason
                continue
            why, against = found
            try:
                if against:
                    raise Refusal(against)
                architecture = chains.removed(architecture, layer.path)
                removed[layer.name] = why
            except Refusal as refusal:
                skipped[layer.name] = str(refusal)
        kept = [layer for layer in model.layers if layer.name not in removed]
        warnings: tuple[str, ...] = ()
        if not removed:
            line = f"{where}: no layer is taken out"
            reasons = [f"{n}: {why}" for n, why in skipped.items() if why != _OTHER][:3]
            line += f": {'; '.join(reasons)}" if reasons else ": none is an identity"
            if any(not optional(pattern) for pattern in self.include):
                raise RecipeError(
                    f"{line}; but layers were named: {', '.join(map(repr, self.include))}",
                    "name other layers (`modelcut inspect` lists them)",
                )
            warnings = (line,)
            return Outcome(model, {"removed": {}}, skipped, warnings)
        result = edit.in_architecture(model, kept, architecture)
        return Outcome(result, {"removed": removed}, skipped, warnings)

    def _left(self, layer: Layer) -> str:
        for pattern in self.exclude:
            if matches(pattern, layer):
                return f"excluded by {pattern!r}"
        if self.include and not any(matches(pattern, layer) for pattern in self.include):
            return "not included"
        return ""


@dataclass(frozen=True)
class _Network:
    """What is told of the network before anything is taken out, which changes no shape."""

    nodes: Mapping[Path, Node]
    given: Mapping[Path, Shape | None]
    made: Mapping[Path, Shape | None]
    masks: bool

    @classmethod
    def of(cls, architecture: Architecture) -> _Network:
        try:
            given, made = architecture.input_shapes(), architecture.shapes()
        except ModelcutError:
            given, made = {}, {}
        nodes = {node.path: node for node in architecture.nodes}
        return cls(nodes, given, made, _masks(architecture))

    def identity(self, architecture: Architecture, layer: Layer) -> tuple[str, str] | None:
        """Why a layer is an identity, and why it is kept all the same ("": it is not)."""
        node = layer.node
        if node is None or layer.tensors:
            return None
        feeding = [(*layer.path[:-1], name) for name in chains.sources(architecture, layer.path)]
        before = self.nodes.get(feeding[0]) if len(feeding) == 1 else None
        why = identities.why(node, self.given.get(layer.path), self.made.get(layer.path), before)
        if not why:
            return None
        if _in_training(node.entry):
            return why, "it is called as in training"
        if not _same_dtype(node, feeding, self.nodes):
            return why, "it may change the type of its input"
        if self.masks and identities.drops_masks(node):
            return why, "it takes masks off"
        return why, ""


def _in_training(entry: Entry) -> bool:
    """Whether any call says training=True: such dropout is not an identity."""

    def said(item: Any) -> Iterator[bool]:
        if isinstance(item, dict):
            yield item.get("training") is True
            for value in item.values():
                yield from said(value)
        elif isinstance(item, list):
            for value in item:
                yield from said(value)

    return any(said(entry.get("inbound_nodes")))


def _same_dtype(node: Node, feeding: list[Path], nodes: Mapping[Path, Node]) -> bool:
    """Whether what it is given has the type that it gives: it casts to its own."""
    own = chains.policy_name(node.config.get("dtype"))
    policies = {
        chains.policy_name(one.config.get("dtype"))
        for one in nodes.values()
        if one.class_name != "InputLayer"
    }
    inputs = [nodes[path] for path in feeding if path in nodes]
    told = [one for one in inputs if one.class_name == "InputLayer"]
    names = {chains.policy_name(one.config.get("dtype")) for one in told}
    return len(policies - {""}) <= 1 and names <= {own, ""} if own else not names - {"float32", ""}


def _masks(architecture: Architecture) -> bool:
    return any(
        node.class_name == "Masking" or node.config.get("mask_zero")
        for outer in architecture.nodes
        for node in (outer, *(inner for _, inner in outer.wrapped))
    )
