"""`modelcut prune`, `finetune` and so on: a recipe of one step, its flags from the step itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer

from modelcut import steps
from modelcut.cli import complete, flags, options, panels
from modelcut.recipe.recipe import Recipe

_MODEL = "Model to read: .h5, .hdf5, .keras, .mcut or a SavedModel folder."
_SHARED = ("budget", "include", "exclude", "overrides")
_LAYERS = {"include": complete.layers, "exclude": complete.layers}


def register(app: typer.Typer, name: str, method: str = "", *, told: bool = False) -> None:
    """Adds the command of one family of steps.

    Args:
        app: what it is added to.
        name: the family.
        method: the method that is meant; "": the one that `--method` names.
        told: only help is asked for, which shows the fields of `method` or, without one, of none.
    """
    default = steps.default(name)
    methods = sorted(steps.methods(name), key=lambda each: (each != default, each))
    classes = {each: steps.find(name, each) for each in ([method] if method and told else methods)}
    own = [classes[method]] if method else []
    others = [] if told else [cls for each, cls in classes.items() if each != method]
    known = {field for cls in own for field in cls.model_fields}
    shown = list(classes.values()) if told and not method else own
    runs, trains, resumes = _uses(shown or list(classes.values()))
    parameters = [
        flags.argument("model", _MODEL, panel=options.MODEL, complete=complete.method_or_file),
        flags.option(
            "method",
            f"Method of the step (default: {default}).",
            metavar="|".join(methods),
            panel="Method",
            hidden=bool(method) or told,
        ),
        *flags.of_models(own, "Method", only=lambda field, _: field not in _SHARED),
        *flags.of_models(own, "Method", only=lambda field, _: field in _SHARED, complete=_LAYERS),
        *flags.of_models(
            others,
            "Method",
            only=lambda field, _: field not in known,
            hidden=bool(method),
            complete=_LAYERS,
        ),
        *options.job(runs=runs, trains=trains, resumes=resumes),
        *options.MEASURE,
        *options.TRUST,
        *options.SHOW,
    ]

    def body(**values: Any) -> None:
        cls = steps.find(name, method or values.get("method") or default)
        step = flags.build(cls, _fields(cls, values, methods, name))
        options.execute(Recipe((step,), options.head_from(values), f"modelcut {name}"), values)

    body.__doc__ = _first(own[0].__doc__) if own else steps.summary(name)
    call = flags.command(parameters, body)
    if method:
        call.method = method  # type: ignore[attr-defined]
    elif told:
        call.methods = [_listed(each, default, cls) for each, cls in classes.items()]  # type: ignore[attr-defined]
    example = f"modelcut {name} {method or default} model.h5{_example(shown, method or default)}"
    app.command(name, cls=panels.Command, epilog=example)(call)


def _listed(method: str, default: str, cls: Any) -> tuple[str, str]:
    """A row of the panel of methods."""
    return method, _first(cls.__doc__) + (" [default]" if method == default else "")


def _first(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def _uses(classes: Iterable[Any]) -> tuple[bool, bool, bool]:
    """Whether steps of these classes may run the network, train it, and resume a training."""
    classes = list(classes)
    trains = any(cls.resumable or "finetune" in cls.model_fields for cls in classes)
    runs = trains or any("budget" in cls.model_fields or _needs(cls) & _DATA for cls in classes)
    return runs, trains, any(cls.resumable for cls in classes)


_DATA = frozenset({"train", "validation", "calibration"})


def _needs(cls: Any) -> frozenset[str]:
    """What a step of this class needs with its defaults."""
    strength = getattr(cls, "strength", None)
    found: frozenset[str] = cls.model_construct(**({strength.name: 1} if strength else {})).needs
    return found


def _example(classes: Iterable[Any], method: str) -> str:
    """Options with which the method runs."""
    words, suffix = "", ""
    for cls in classes:
        if cls.method != method:
            continue
        suffix = cls.suffix
        strength = getattr(cls, "strength", None)
        if strength and strength.needed:
            middle = strength.ladder[len(strength.ladder) // 2]
            words += f" --{strength.name.replace('_', '-')} {middle:g}"
        needs = _needs(cls)
        if "train" in needs:
            words += " --train train.csv"
        elif "calibration" in needs:
            words += " --calibrate train.csv"
    return f"{words} -o small{suffix}"


def _fields(cls: Any, values: dict[str, Any], methods: Iterable[str], name: str) -> dict[str, Any]:
    """The step's own fields, and those of other methods too, for pydantic to refuse."""
    fields = flags.fields_given(cls, values)
    for method in methods:
        fields.update(
            {
                key: value
                for key, value in flags.fields_given(steps.find(name, method), values).items()
                if key not in fields
            }
        )
    return fields
