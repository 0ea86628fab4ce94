"""`modelcut prune`, `finetune` and so on: a recipe of one step, its flags from the step itself."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from modelcut import steps
from modelcut.cli import complete, flags, options, panels
from modelcut.recipe.recipe import Recipe

_MODEL = "Model to read: .h5, .hdf5, .keras, .mcut or a SavedModel folder."
_SHARED = ("budget", "include", "exclude", "overrides")
_LAYERS = {"include": complete.layers, "exclude": complete.layers}


def register(
    app: typer.Typer,
    name: str,
    method: str = "",
    *,
    told: bool = False,
    words: Sequence[str] | None = None,
) -> None:
    """Adds the command of one family of steps.

    Args:
        app: what it is added to.
        name: the family.
        method: the method that is meant; "": the one that `--method` names.
        told: only help is asked for, which shows the fields of `method` or, without one, of none.
        words: that the command is called with; where they and the environment name no option but
            those of one method, no other method is imported. None: all are.
    """
    default = steps.default(name)
    methods = sorted(steps.methods(name), key=lambda each: (each != default, each))
    called = _called(words, method, default)
    if not told and words is not None and called in methods:
        few = _parameters(name, method, [called], methods, default, told=False)
        if _known(words, few):
            _add(app, name, method, few, {called: steps.find(name, called)}, default, told=False)
            return
    wanted = [method] if method and told else methods
    parameters = _parameters(name, method, wanted, methods, default, told=told)
    classes = {each: steps.find(name, each) for each in wanted}
    _add(app, name, method, parameters, classes, default, told=told)


def _called(words: Sequence[str] | None, method: str, default: str) -> str:
    """The method that is meant."""
    found = os.environ.get("MODELCUT_METHOD", default)
    words = [*(words or ()), ""]
    for word, following in itertools.pairwise(words):
        if word == "--method":
            found = following
        elif word.startswith("--method="):
            found = word.partition("=")[2]
    return method or found


_NO_OPTIONS = {"MODELCUT_TRACEBACK", "MODELCUT_CHARTS"}


def _known(words: Sequence[str], parameters: Iterable[Any]) -> bool:
    """Whether a command with these parameters knows all options that are given."""
    declared = [parameter.annotation.__metadata__[0] for parameter in parameters]
    # Typer keeps the first name of an annotation where a default may stand.
    names = [name for each in declared for name in (each.default, *(each.param_decls or ()))]
    flags_of = {flag for name in names if isinstance(name, str) for flag in name.split("/")}
    variables = {each.envvar for each in declared if each.envvar} | _NO_OPTIONS
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    set_ = {name for name in os.environ if name.startswith("MODELCUT_")}
    return given <= flags_of and set_ <= variables


def _parameters(
    name: str,
    method: str,
    wanted: Sequence[str],
    methods: Sequence[str],
    default: str,
    *,
    told: bool,
) -> list[Any]:
    """Arguments and options of a command.

    Args:
        name: the family.
        method: the method that is meant; "": the one that `--method` names.
        wanted: methods whose fields are options.
        methods: all methods.
        default: the default one.
        told: only help is asked for.
    """
    classes = {each: steps.find(name, each) for each in wanted}
    own = [classes[method]] if method else []
    others = [] if told else [cls for each, cls in classes.items() if each != method]
    known = {field for cls in own for field in cls.model_fields}
    shown = _shown(classes, method, told=told)
    runs, trains, resumes = _uses(shown or list(classes.values()))
    return [
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


def _shown(classes: dict[str, Any], method: str, *, told: bool) -> list[Any]:
    """The methods that help and its example are about."""
    return [classes[method]] if method else list(classes.values()) if told else []


def _add(
    app: typer.Typer,
    name: str,
    method: str,
    parameters: list[Any],
    classes: dict[str, Any],
    default: str,
    *,
    told: bool,
) -> None:
    """Adds the command with these parameters; see `register`."""

    def body(**values: Any) -> None:
        cls = steps.find(name, method or values.get("method") or default)
        step = flags.build(cls, _fields(cls, values, classes.values()))
        options.execute(Recipe((step,), options.head_from(values), f"modelcut {name}"), values)

    body.__doc__ = _first(classes[method].__doc__) if method else steps.summary(name)
    call = flags.command(parameters, body)
    if method:
        call.method = method  # type: ignore[attr-defined]
    elif told:
        call.methods = [_listed(each, default, cls) for each, cls in classes.items()]  # type: ignore[attr-defined]
    shown = _shown(classes, method, told=told)
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


def _fields(cls: Any, values: dict[str, Any], others: Iterable[Any]) -> dict[str, Any]:
    """The step's own fields, and those of other methods too, for pydantic to refuse."""
    fields = flags.fields_given(cls, values)
    for other in others:
        fields.update(
            {
                key: value
                for key, value in flags.fields_given(other, values).items()
                if key not in fields
            }
        )
    return fields
