"""Writes the tables of the README that are made from the program itself.

    python tests/data/make_docs.py [--measure [NAME …]]

`tests/test_docs.py` holds that they are current; what is measured (the demo, the benchmark) is
measured again with --measure only. That of LeNet is made of what the benchmark kept.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from modelcut import steps
from modelcut.cli import flags
from modelcut.data import DataOptions
from modelcut.metrics.limits import Gates
from modelcut.steps.base import Step, TensorStep
from modelcut.steps.strength import Budgeted

README = Path(__file__).parents[2] / "README.md"


def table(rows: list[tuple[str, ...]], columns: tuple[str, ...]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _field(name: str, info: Any) -> tuple[str, str, str]:
    kind = flags._metavar(info.annotation).lower().replace("|", ", ")
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    kind += "; required" if info.is_required() else ""
    if default not in (None, [], {}):
        shown = str(default).lower() if isinstance(default, bool) else default
        kind += f"; {shown} unless given"
    return f"`{name}`", kind, info.description


def step_tables() -> str:
    parts = []
    common = [_field(name, Step.model_fields[name]) for name in ("include", "exclude")]
    common.append(_field("overrides", TensorStep.model_fields["overrides"]))
    name, kind, text = _field("budget", Budgeted.model_fields["budget"])
    searched = [
        method
        for family in steps.families()
        for method in steps.methods(family)
        if issubclass(steps.find(family, method), Budgeted)
    ]
    common.append((name, kind, f"{text} Of {', '.join(searched)}."))
    parts.append("All steps have:\n\n" + table(common, ("field", "value", "meaning")))
    for family in steps.families():
        for method in steps.methods(family):
            cls = steps.find(family, method)
            own = [
                _field(name, info)
                for name, info in cls.model_fields.items()
                if name not in {*TensorStep.model_fields, "budget"}
            ]
            text = (cls.__doc__ or "").split("\n\n")[0]
            parts.append(f"**{family}: {method}.** {' '.join(text.split())}")
            if own:
                parts.append(table(own, ("field", "value", "meaning")))
    return "\n\n".join(parts)


def gate_table() -> str:
    rows = [(f"`{name}`", info.description or "") for name, info in Gates.model_fields.items()]
    return table(rows, ("gate", "meaning"))


def data_table() -> str:
    rows = [_field(name, info) for name, info in DataOptions.model_fields.items()]
    return table(rows, ("field", "value", "meaning"))


def filled(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    return pattern.sub(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", text)


def main() -> None:
    text = README.read_text(encoding="utf-8")
    tables = dict(TABLES)
    if "--measure" in sys.argv:
        asked = sys.argv[sys.argv.index("--measure") + 1 :] or list(MEASURED)
        tables |= {name: MEASURED[name] for name in asked}
    for name, content in tables.items():
        text = filled(text, name, content())
    README.write_text(text, encoding="utf-8")


def demo() -> str:
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, "-m", "modelcut", "demo", folder, "-q"]
        subprocess.run(call, check=True)
        report = (Path(folder) / "small.report.md").read_text(encoding="utf-8")
    return report.partition("## Summary\n\n")[2].partition("\n\n")[0]


def bench() -> str:
    call = [sys.executable, str(README.parent / "tests" / "benchmarks" / "bench.py"), *SECTIONS]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    return done.stdout.replace("\n### ", "\n**").replace("\n\n|", "**\n\n|").strip()


def methods() -> str:
    call = [sys.executable, str(README.parent / "tests" / "benchmarks" / "methods.py")]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


def lenet() -> str:
    call = [sys.executable, str(README.parent / "tests/benchmarks/lenet.py"), "--table"]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


SECTIONS = ("prune", "quantize", "eval")


def criteria() -> str:
    call = [sys.executable, str(README.parent / "tests" / "benchmarks" / "criteria.py")]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


def litert() -> str:
    call = [sys.executable, str(README.parent / "tests" / "benchmarks" / "litert.py")]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


def packed() -> str:
    call = [sys.executable, str(README.parent / "tests" / "benchmarks" / "packed.py")]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


MEASURED = {
    "criteria": criteria,
    "demo": demo,
    "methods": methods,
    "bench": bench,
    "litert": litert,
    "packed": packed,
}


def matrix_table() -> str:
    sys.path.insert(0, str(Path(__file__).parent))
    import matrix

    return table(matrix.rows(), ("", *matrix.OUTPUTS))


TABLES = {
    "steps": step_tables,
    "gates": gate_table,
    "data": data_table,
    "matrix": matrix_table,
    "lenet": lenet,
}

if __name__ == "__main__":
    main()
