"""Steps, one file a method: `steps/<family>/<method>.py` holds one subclass of `Step`.

To add a method, add a file: its name is the method's name, its class's fields are the YAML keys
and the flags, its docstring's first line is its description. Nothing else needs to know of it.
Names are listed without importing anything.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from modelcut.errors import RecipeError
from modelcut.step import Step

DEFAULT_METHOD = {
    "prune": "magnitude",
    "quantize": "linear",
    "factorize": "svd",
    "finetune": "straight_through",
}
"""What `- prune: {…}` and `modelcut prune` mean where no method is named."""


@lru_cache(maxsize=1)
def families() -> tuple[str, ...]:
    """Names of the families: prune, quantize, factorize, finetune."""
    return tuple(DEFAULT_METHOD)


@lru_cache(maxsize=8)
def methods(family: str) -> tuple[str, ...]:
    """Names of a family's methods."""
    folder = Path(__file__).parent / family
    names = (module.name for module in pkgutil.iter_modules([str(folder)]))
    return tuple(sorted(name for name in names if not name.startswith("_")))


def find(family: str, method: str) -> type[Step]:
    """The class of a method.

    Raises:
        RecipeError: there is none of this name; the nearest known one is suggested.
    """
    if method not in methods(family):
        near = difflib.get_close_matches(method, methods(family), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(methods(family))}"
        raise RecipeError(f"unknown method {method!r} of {family}", hint)
    module = import_module(f"modelcut.steps.{family}.{method}")
    found = [
        item
        for item in vars(module).values()
        if inspect.isclass(item) and issubclass(item, Step) and item.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} must hold exactly one step"
    cls: type[Step] = found[0]
    cls.family, cls.method = family, method
    return cls
