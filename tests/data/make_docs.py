"""Writes the tables of README.md and modelcut/docs/*.md that are made from the program itself.

    python tests/data/make_docs.py [--measure [NAME …]]

A table stands between `<!-- NAME -->` and `<!-- /NAME -->` on whichever page has these marks.
`tests/test_docs.py` checks that they are current; what is measured (the demo, the benchmarks) is
measured again with --measure only. That of LeNet is made from what its benchmark kept. The fields
of a new step, and the options of a new command, get a section of their own at the end of the page.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel

from modelcut import steps
from modelcut.cli import flags, panels
from modelcut.cli.main import COMMANDS, build
from modelcut.data import DataOptions
from modelcut.metrics.limits import Gates
from modelcut.recipe import recipe
from modelcut.recipe.export import ExportOptions
from modelcut.report import schema
from modelcut.steps.base import Step, TensorStep
from modelcut.steps.strength import Budgeted

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "modelcut" / "docs"

FIELD = ("field", "value", "meaning")
_SHARED = 3
"""An option that so many commands have stands in a table of its own."""


def pages() -> list[Path]:
    """README.md and all topics of `modelcut docs`."""
    return [README, *sorted(DOCS.glob("*.md"))]


def table(rows: list[tuple[str, ...]], columns: tuple[str, ...]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _field(name: str, info: Any) -> tuple[str, str, str]:
    kind = flags._metavar(info.annotation).lower().replace("|", ", ")
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    kind += "; required" if info.is_required() else ""
    if default not in (None, [], {}) and not isinstance(default, BaseModel):
        shown = str(default).lower() if isinstance(default, bool) else default
        kind += f"; default {shown}"
    return f"`{name}`", kind, info.description or ""


def _fields(cls: Any) -> str:
    return table([_field(name, info) for name, info in cls.model_fields.items()], FIELD)


def methods_of_steps() -> list[tuple[str, str]]:
    """All (family, method)."""
    return [(family, method) for family in steps.families() for method in steps.methods(family)]


def common_fields() -> str:
    common = [_field(name, Step.model_fields[name]) for name in ("include", "exclude")]
    common.append(_field("overrides", TensorStep.model_fields["overrides"]))
    name, kind, text = _field("budget", Budgeted.model_fields["budget"])
    searched = [m for f, m in methods_of_steps() if issubclass(steps.find(f, m), Budgeted)]
    common.append((name, kind, f"{text} Of {', '.join(searched)}."))
    return table(common, FIELD)


def step_table(family: str, method: str) -> str:
    """What a step says of itself, and its own fields; nested ones below."""
    cls = steps.find(family, method)
    own = {
        name: info
        for name, info in cls.model_fields.items()
        if name not in {*TensorStep.model_fields, "budget"}
    }
    text = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    parts = [text]
    if own:
        parts.append(table([_field(name, info) for name, info in own.items()], FIELD))
    for name, info in own.items():
        for member in flags._members(info.annotation):
            if hasattr(member, "model_fields"):
                rows = [_field(f"{name}.{n}", i) for n, i in member.model_fields.items()]
                parts.append(table(rows, FIELD))
    return "\n\n".join(parts)


def key_of(info: Any) -> str:
    """Where in the report's JSON a gate finds its value; totals stand among their owner's keys."""
    return str((info.json_schema_extra or {}).get("path", "")).replace(".totals", "")


def gate_table() -> str:
    rows = [
        (f"`{name}`", info.description or "", f"`{key_of(info)}`")
        for name, info in Gates.model_fields.items()
        if name != "if_data"
    ]
    return table(rows, ("gate", "meaning", "number of the report"))


def report_keys() -> list[tuple[str, str]]:
    """Every key of the report and what it is, from the docstrings of the report's schema."""
    return list(_keys_of(schema.Report, "", {}))


def _keys_of(cls: type, prefix: str, seen: dict[type, str]) -> Iterator[tuple[str, str]]:
    """The keys below `prefix`; of a class that was shown before only where that was."""
    texts, kinds = _attributes(cls), typing.get_type_hints(cls)
    for each in fields(cls):
        if each.metadata.get("flat"):
            continue  # its entries stand among the keys of its owner: the page tells
        parts = _parts(kinds[each.name])
        path = prefix + each.metadata.get("key", each.name)
        path += "[]" if tuple in parts else ""
        text = texts[each.name]
        if each.metadata.get("present"):
            text += " (if any)"
        below = next((part for part in parts if is_dataclass(part)), None)
        if below is schema.Totals:  # its keys stand among those of its owner
            for key, meaning in _keys_of(below, prefix, {}):
                same = f"{seen[below]}.{key.removeprefix(prefix)}" if below in seen else ""
                yield key, f"as `{same}`" if same else meaning
            seen.setdefault(below, prefix.removesuffix("."))
        elif below in seen:
            yield f"{path}.*", f"{text}; as `{seen[below]}`"
        elif below is not None:
            yield path, text
            yield from _keys_of(below, f"{path}.", seen)
            seen[below] = path
        else:
            yield path + (".*" if Mapping in parts else ""), text


def _parts(kind: Any) -> list[Any]:
    """The types that an annotation is made of, such as tuple and Stage of tuple[Stage, ...]."""
    inner = [part for each in typing.get_args(kind) for part in _parts(each)]
    return [typing.get_origin(kind) or kind, *inner]


def _attributes(cls: type) -> dict[str, str]:
    """The section `Attributes:` of a docstring, by name."""
    section = inspect.getdoc(cls).partition("Attributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", section, re.M)
    return {name: _in_json(" ".join(text.split())) for name, text in found}


def _in_json(text: str) -> str:
    return re.sub(r"\bNone\b", "null", text).rstrip(".")


def report_table() -> str:
    return table([(f"`{path}`", text) for path, text in report_keys()], ("key", "meaning"))


def shipped_table() -> str:
    rows = []
    for name, path in recipe.shipped().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        rows.append((f"`{name}`", first))
    return table(rows, ("recipe", "what it does"))


def commands() -> dict[str, Any]:
    """Every command by name, those below a group too, as its parser knows it."""
    found: dict[str, Any] = {}
    for name in COMMANDS:
        command = typer.main.get_command(build(name)).commands[name]  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        if below is None:
            found[name] = command
        else:
            found |= {f"{name} {sub}": each for sub, each in below.items()}
    return found


def _elsewhere() -> dict[str, str]:
    """Options that another page documents, with that page."""
    found = dict.fromkeys(DataOptions.model_fields, "data")
    found |= dict.fromkeys(Gates.model_fields, "gates")
    found |= dict.fromkeys(ExportOptions.model_fields, "litert")
    return found


def options_of(command: Any) -> dict[str, tuple[str, str]]:
    """The options of a command by name: each as it is written, and its help."""
    found = {}
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            if parameter.hidden:
                continue
            names = " / ".join([*parameter.opts, *parameter.secondary_opts])
            value = f" {parameter.metavar}" if parameter.metavar else ""
            found[parameter.name] = f"`{names}{value}`", panels.row_of(parameter)[1]
    return found


def _own_options(name: str, command: Any) -> tuple[list[tuple[str, str]], list[str]]:
    """Options that this page documents, and the pages that document the others."""
    known = _elsewhere()
    if name in steps.families():
        for method in steps.methods(name):
            known |= dict.fromkeys(steps.find(name, method).model_fields, "steps")
    options = options_of(command)
    own = [row for option, row in options.items() if option not in known]
    return own, list(dict.fromkeys(known[option] for option in options if option in known))


def _shared() -> dict[tuple[str, str], list[str]]:
    """Options that several commands share, with these commands."""
    owners: dict[tuple[str, str], list[str]] = {}
    for name, command in commands().items():
        for row in _own_options(name, command)[0]:
            owners.setdefault(row, []).append(name)
    return {row: names for row, names in owners.items() if len(names) >= _SHARED}


def shared_options() -> str:
    rows = [(*row, ", ".join(names)) for row, names in _shared().items()]
    return table(rows, ("option", "meaning", "commands"))


def command_table(name: str) -> str:
    """How a command is called, what it does, and its own options."""
    command = commands()[name]
    shared = _shared()
    arguments = [panels.row_of(p) for p in command.params if p.param_type_name == "argument"]
    required = {p.metavar or p.name.upper() for p in command.params if p.required}
    usage = [n if n in required else f"[{n}]" for n, _ in arguments]
    parts = [f"`{' '.join(['modelcut', name, *usage, '[OPTIONS]'])}`"]
    parts.append("\n\n".join(" ".join(p.split()) for p in (command.help or "").split("\n\n")))
    own, topics = _own_options(name, command)
    rows = [(f"`{n}`", text) for n, text in arguments]
    rows += [row for row in own if row not in shared]
    if rows:
        parts.append(table(rows, ("argument or option", "meaning")))
    further = ["the shared options above"] if any(row in shared for row in own) else []
    further += [f"`modelcut docs {topic}`" for topic in topics]
    if further:
        parts.append(f"Further options: {', '.join(further)}.")
    return "\n\n".join(parts)


def command_list() -> str:
    return table([(f"`modelcut {n}`", text) for n, text in COMMANDS.items()], ("command", ""))


def filled(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.S)
    return pattern.sub(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", text)


def names_on(text: str) -> list[str]:
    """The marks of a page."""
    return re.findall(r"<!-- /(.+?) -->", text)


def main() -> None:
    made = dict(tables())
    if "--measure" in sys.argv:
        asked = sys.argv[sys.argv.index("--measure") + 1 :] or list(MEASURED)
        made |= {name: MEASURED[name] for name in asked}
    _add_sections()
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for name in names_on(text):
            if name in made:
                text = filled(text, name, made[name]())
        page.write_text(text, encoding="utf-8")


def _add_sections() -> None:
    """Sections for steps and commands that have none yet."""
    for page, kind, titles in (
        ("steps", "step", [f"{family}: {method}" for family, method in methods_of_steps()]),
        ("commands", "command", list(commands())),
    ):
        path = DOCS / f"{page}.md"
        text = path.read_text(encoding="utf-8")
        for title in titles:
            mark = f"{kind} {title}"
            if mark not in names_on(text):
                text += f"\n### {title}\n\n<!-- {mark} -->\n<!-- /{mark} -->\n"
        path.write_text(text, encoding="utf-8")


def demo() -> str:
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, "-m", "modelcut", "demo", folder, "-q"]
        subprocess.run(call, check=True)
        report = (Path(folder) / "small.report.md").read_text(encoding="utf-8")
    return report.partition("## Summary\n\n")[2].partition("\n\n")[0]


GOALS = (
    "quantize digits.h5 --method cluster --bits 4 -o small.mcut",
    "export digits.h5 --type int8 --calibrate digits_train.csv -o small.tflite",
    "factorize digits.h5 --energy 0.9 -o faster.h5",
    "quantize digits.h5 --bits 8 -o small.h5",
    "prune digits.h5 --sparsity 0.5 -o pruned.h5",
)
"""One command for each goal of the README, and one that it warns of."""


def goals() -> str:
    """What the commands make of the demo's network."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("digits.h5", "digits_test.csv", "digits_train.csv"):
            shutil.copy(ROOT / "modelcut" / "demo" / name, folder)
        for goal in GOALS:
            more = "--test digits_test.csv --scale 1/16 --no-report --json"
            call = [sys.executable, "-m", "modelcut", *goal.split(), *more.split()]
            done = subprocess.run(call, check=True, capture_output=True, text=True, cwd=folder)
            report = json.loads(done.stdout)
            for which, what in (("before", "`digits.h5`"), ("after", f"`modelcut {goal}`")):
                size, measured = report["sizes"][which], report["evaluation"][which]
                accuracy = f"{measured['metrics']['accuracy']:.4f}"
                row = what, f"{size['file_bytes']:,}", f"{size['macs']:,}", accuracy
                rows += [row] if row not in rows else []
    return table(rows, ("", "bytes", "multiply-accumulates", "accuracy"))


def bench() -> str:
    call = [sys.executable, str(ROOT / "tests" / "benchmarks" / "bench.py"), *SECTIONS]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    return done.stdout.replace("\n### ", "\n**").replace("\n\n|", "**\n\n|").strip()


def _printed(name: str, *arguments: str) -> str:
    call = [sys.executable, str(ROOT / "tests" / "benchmarks" / f"{name}.py"), *arguments]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


SECTIONS = ("prune", "quantize", "eval")

MEASURED: dict[str, Callable[[], str]] = {
    "demo": demo,
    "goals": goals,
    "bench": bench,
    **{name: partial(_printed, name) for name in ("criteria", "methods", "litert", "packed")},
}


def matrix_table() -> str:
    sys.path.insert(0, str(Path(__file__).parent))
    import matrix

    return table(matrix.rows(), ("", *matrix.OUTPUTS))


def tables() -> dict[str, Callable[[], str]]:
    """Everything that is made, by its mark."""
    made: dict[str, Callable[[], str]] = {
        "all steps": common_fields,
        "gates": gate_table,
        "report": report_table,
        "data": partial(_fields, DataOptions),
        "export": partial(_fields, ExportOptions),
        "head": partial(_fields, recipe.Head),
        "recipes": shipped_table,
        "commands": command_list,
        "shared options": shared_options,
        "matrix": matrix_table,
        "lenet": partial(_printed, "lenet", "--table"),
    }
    for family, method in methods_of_steps():
        made[f"step {family}: {method}"] = partial(step_table, family, method)
    for name in commands():
        made[f"command {name}"] = partial(command_table, name)
    return made


if __name__ == "__main__":
    main()
