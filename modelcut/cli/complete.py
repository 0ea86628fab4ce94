"""What completes a word on the command line; looks at names and files only."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import typer

Words = Callable[..., list[str]]

_SPECIAL = re.compile(r"""[^\w\s./:@+,=%^-]|[^\S ]|^-""")
"""What a shell reads as more than text. Shells evaluate what they are offered, zsh as a command."""


def _plain(words: Iterable[str]) -> list[str]:
    """The words that stand for themselves in every shell: names are those of strangers."""
    return [word for word in words if not _SPECIAL.search(word)]


def among(*words: str) -> Words:
    """Completes one of these words."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def method_or_file(ctx: typer.Context, incomplete: str) -> list[str]:
    """Methods of the family, where none is named yet, and files."""
    from modelcut import steps

    family = ctx.info_name or ""
    found: list[str] = []
    if family in steps.families() and not ctx.params.get("model"):
        found = [name for name in steps.methods(family) if name.startswith(incomplete)]
    return found + files(incomplete)


def files(incomplete: str) -> list[str]:
    """Files and folders."""
    paths = glob.glob(glob.escape(incomplete) + "*")
    return _plain(sorted(path + "/" if os.path.isdir(path) else path for path in paths))


def recipes(incomplete: str) -> list[str]:
    """Names of the recipes that come with modelcut, and files."""
    from modelcut.recipe.recipe import shipped

    return [name for name in shipped() if name.startswith(incomplete)] + files(incomplete)


def layers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the layers of the file that the command names, if it can be read."""
    from pathlib import Path

    words = [ctx.params.get("model"), *ctx.args]
    for path in (str(word) for word in words if word):
        if os.path.exists(path):
            return _plain(name for name in _layers(Path(path)) if name.startswith(incomplete))
    return []


def _layers(path: Any) -> list[str]:
    from modelcut.errors import ModelcutError
    from modelcut.formats import registry

    try:
        with registry.open_model(path) as model:
            return ["/".join(layer.path) for layer in model.layers if layer.tensors]
    except (ModelcutError, OSError, ValueError):
        return []
