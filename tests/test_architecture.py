"""The rules of the house: what is imported when, and that nothing but cli and report prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from toys import MODELS

import modelcut
from modelcut import steps

PACKAGE = Path(modelcut.__file__).parent
ENGINES = {"tensorflow", "keras", "tf_keras", "ai_edge_litert"}


def modules_after(*arguments):
    """Names of the packages that a command imports, and of what is one and three below them."""
    code = (
        "import sys, io, contextlib\n"
        "from modelcut.cli.main import main\n"
        "try:\n"
        "    with contextlib.redirect_stdout(io.StringIO()): main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "parts = [name.split('.') for name in sys.modules]\n"
        "print(*sorted({'.'.join(each[:n]) for each in parts for n in (1, 2, 4)}))\n"
    )
    call = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_help_needs_next_to_nothing():
    heavy = {"numpy", "h5py", "pydantic", "yaml", "pyarrow", "rich"}
    assert not modules_after("--help") & (heavy | ENGINES)


@pytest.mark.parametrize("name", ["prune", "quantize", "factorize", "finetune", "run", "eval"])
def test_help_of_a_command_reads_no_files(name):
    assert not modules_after(name, "--help") & (
        {"numpy.linalg", "h5py", "pyarrow", "yaml"} | ENGINES
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("prune", "--sparsity", "0.5"),
        ("quantize", "--bits", "4"),
        ("factorize", "--energy", "0.9"),
    ],
)
def test_editing_weights_starts_no_engine(arguments, tmp_path):
    model = MODELS / "keras3_sequential.h5"
    found = modules_after(*arguments, "-o", tmp_path / "o.h5", model)
    assert "h5py" in found
    assert not found & (ENGINES | {"pyarrow"})


def test_a_step_needs_no_other_method_but_where_its_options_are_given(tmp_path):
    model, out = MODELS / "keras3_sequential.h5", tmp_path / "o.h5"
    found = modules_after("prune", model, "--sparsity", "0.5", "-o", out)
    assert "modelcut.steps.prune.magnitude" in found
    assert "modelcut.steps.prune.wanda" not in found
    found = modules_after("prune", model, "--method", "random", "--sparsity=0.5", "-o", out, "-q")
    assert {name for name in found if name.startswith("modelcut.steps.prune.")} & {
        f"modelcut.steps.prune.{method}" for method in steps.methods("prune")
    } == {"modelcut.steps.prune.random"}


def test_who_cleans_up_after_a_job_needs_no_numpy():
    """It may have run out of memory: NumPy's libraries would then end this process, too."""
    call = "import sys, modelcut.cli.process, modelcut.job.outputs; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_no_file_imports_one_that_imports_it():
    """Imports for type checking count too: who reads one file of a circle must read them all."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    imports = {name: set() for name in names}
    for name, path in names.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in names:
                found = {f"{node.module}.{alias.name}" for alias in node.names}
                imports[name] |= {one if one in names else node.module for one in found}
    # `modelcut` itself only hands on what is in `job`.
    imports["modelcut"] = set()
    while leaves := {name for name, needed in imports.items() if not needed & imports.keys()}:
        for name in leaves:
            del imports[name]
    assert not imports, sorted(imports)


def test_only_cli_commands_and_report_print():
    rooms = {"cli", "report"}
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in rooms:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            assert not (called and node.func.id == "print"), path


def test_steps_open_no_files():
    for path in (PACKAGE / "steps").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            assert not (called and node.func.id == "open"), path
