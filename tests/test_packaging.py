"""What is installed: the files of the wheel, its dependencies, and the systems that it runs on."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from toys import MODELS

import modelcut

PACKAGE = Path(modelcut.__file__).parent
ROOT = Path(__file__).parents[1]

BEFORE = """
import ctypes, os, signal, subprocess, sys, tempfile, zoneinfo
import h5py, numpy, pydantic.main, typer.rich_utils
"""
"""What asks for the platform as it is imported, and is to be told the true one."""

WINDOWS = f"""{BEFORE}
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in "fork pread preadv posix_fallocate setpgid sysconf waitstatus_to_exitcode".split():
    delattr(os, name)
for name in "SIGALRM SIGKILL SIGSTOP SIGTSTP SIGCONT SIGXCPU setitimer ITIMER_REAL".split():
    delattr(signal, name)
sys.platform = "win32"
"""
MACOS = f"""{BEFORE}
for name in "preadv posix_fallocate sched_getaffinity sched_setaffinity".split():
    delattr(os, name)
sys.platform = "darwin"
"""


def _python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "call",
    [
        "sys.argv = ['modelcut', 'inspect', sys.argv[1]]; main.main()",
        "main.main(['prune', '--help'])",
        "modelcut.inspect(sys.argv[1])",
        "modelcut.prune(sys.argv[1], 'never.h5', sparsity=0.5)",
    ],
)
def test_windows_is_refused_in_a_line(call):
    done = _python(
        f"{WINDOWS}\nimport modelcut\nfrom modelcut.cli import main\n"
        f"try:\n    {call}\nexcept modelcut.errors.UsageError as error:\n"
        "    print('modelcut:', error, file=sys.stderr)\n    sys.exit(error.exit_code)\n",
        MODELS / "keras3_cnn.h5",
    )
    told = "modelcut: modelcut runs on Linux and macOS; on Windows use WSL\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


def test_what_macos_lacks_changes_nothing(tmp_path):
    """A tensor large enough to be read on all cores, and rows that do not fit into memory."""
    call = """
import sys
from modelcut.data import _spill
from modelcut.data.rows import Rows
import numpy as np
import modelcut

folder, name = sys.argv[1:]
modelcut.prune(f"{folder}/in.h5", f"{folder}/{name}.h5", sparsity=0.5)
rows = Rows((np.arange(400_000, dtype="f4").reshape(-1, 4),), (np.arange(100_000),))
spill = _spill.Spill()
assert spill.add(rows) and spill.add(rows)
for found in spill:
    assert np.array_equal(found.inputs[0], rows.inputs[0])
    assert np.array_equal(found.labels[0], rows.labels[0])
"""
    with h5py.File(tmp_path / "in.h5", "w") as file:
        group = file.create_group("dense")
        group.attrs["weight_names"] = [b"dense/kernel:0"]
        values = np.random.default_rng(0).normal(size=(2048, 1024)).astype("float32")
        group["dense/kernel:0"] = values
        file.attrs["layer_names"] = [b"dense"]
        file.attrs["keras_version"], file.attrs["backend"] = b"2.15.0", b"tensorflow"
    here = _python(call, tmp_path, "here")
    there = _python(MACOS + call, tmp_path, "there")
    assert here.returncode == there.returncode == 0, here.stderr + there.stderr
    assert (tmp_path / "here.h5").read_bytes() == (tmp_path / "there.h5").read_bytes()


def _imported():
    """Names of packages that the source imports, also by name as the engines do."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "imported":
                yield from (each.value for each in node.args if isinstance(each, ast.Constant))


def test_what_is_imported_is_declared():
    packages = {name.partition(".")[0] for name in _imported()}
    others = packages - set(sys.stdlib_module_names) - {"modelcut"}
    names = {
        "yaml": "pyyaml",
        "PIL": "pillow",
        "pydantic_core": "pydantic",
    }  # pydantic pins its core
    wanted = {names.get(name, name.lower().replace("_", "-")) for name in others}
    head = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\ntest = [")[0]
    declared = re.findall(r'"([\w-]+)>=[^"]+"', head)
    assert {"keras", "tensorflow", "h5py", "typer"} <= wanted
    assert wanted == {name.lower().replace("_", "-") for name in declared} - {"hatchling"}


def test_the_wheel_holds_the_package_and_the_recipes():
    wheel = pytest.importorskip("hatchling.builders.wheel")
    builder = wheel.WheelBuilder(str(ROOT))
    found = {Path(each.distribution_path) for each in builder.recurse_included_files()}
    source = [
        path for path in (ROOT / "modelcut").rglob("*") if path.is_file() and path.suffix != ".pyc"
    ]
    recipes = [path for path in (ROOT / "recipes").rglob("*") if path.is_file()]
    assert found == {path.relative_to(ROOT) for path in source} | {
        Path("modelcut", path.relative_to(ROOT)) for path in recipes
    }
    for name in ("py.typed", "demo/digits.h5", "docs/steps.md", "formats/mcut/mcut_2.dict"):
        assert Path("modelcut", name) in found
    assert Path("modelcut/recipes/demo.yaml") in found
