"""Steps, one file a method: `steps/<family>/<method>.py` holds one subclass of `Step`.

To add a method, add a file: its name is the method's name, its class's fields are the YAML keys
and the flags, its docstring's first line is its description. To add a family, add a folder, with
its summary and its default method in `__init__.py`. Nothing else needs to know of either. Names
are listed without importing a method. A method that is renamed keeps its former name in `ALIASES`
of its family, a field in `aliases` of its class.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from modelcut.errors import RecipeError

if TYPE_CHECKING:
    from modelcut.steps.base import Step


@lru_cache(maxsize=1)
def families() -> tuple[str, ...]:
    """Names of the families: factorize, finetune, fold, prune, quantize, simplify."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return tuple(sorted(module.name for module in found if module.ispkg))


def default(family: str) -> str:
    """The method where none is named, as in `- prune: {…}` and `modelcut prune`."""
    return str(import_module(f"modelcut.steps.{family}").DEFAULT)


def summary(family: str) -> str:
    """What a family does, in a line."""
    return str(import_module(f"modelcut.steps.{family}").SUMMARY)


@lru_cache(maxsize=8)
def methods(family: str) -> tuple[str, ...]:
    """Names of a family's methods."""
    folder = Path(__file__).parent / family
    names = (module.name for module in pkgutil.iter_modules([str(folder)]))
    return tuple(sorted(name for name in names if not name.startswith("_")))


def aliases(family: str) -> Mapping[str, str]:
    """Former names of a family's methods, each with the name of today."""
    found: Mapping[str, str] = getattr(import_module(f"modelcut.steps.{family}"), "ALIASES", {})
    return found


def find(family: str, method: str) -> type[Step]:
    """The class of a method.

    Args:
        family: one of `families()`.
        method: one of `methods(family)`, or a former name of one.

    Raises:
        RecipeError: there is none of this name; the nearest known one is suggested.
    """
    method = aliases(family).get(method, method)
    if method not in methods(family):
        near = difflib.get_close_matches(method, methods(family), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(methods(family))}"
        raise RecipeError(f"unknown method {method!r} of {family}", hint)
    from modelcut.steps.base import Step

    module = import_module(f"modelcut.steps.{family}.{method}")
    found: list[type[Step]] = [
        item
        for item in vars(module).values()
        # The module first: in Python 3.10 `list[int]` passes for a class, but not in issubclass.
        if inspect.isclass(item) and item.__module__ == module.__name__ and issubclass(item, Step)
    ]
    assert len(found) == 1, f"{module.__name__} must hold exactly one step"
    return found[0]
