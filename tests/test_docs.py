"""What README and docs say is so: tables are current, recipes parse, commands and examples run."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from toys import MODELS

import modelcut as package
from modelcut import steps
from modelcut.cli.docs import topics
from modelcut.cli.main import COMMANDS
from modelcut.errors import ExitCode
from modelcut.formats import registry
from modelcut.recipe.space import Space
from modelcut.recipe.yaml_text import loads

sys.path.insert(0, str(Path(__file__).parent / "data"))
import make_docs

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in make_docs.pages()}
MADE = make_docs.tables()


def fenced(text, language=""):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def example(page, start):
    """The Python example that begins like this."""
    (found,) = [code for code in fenced(PAGES[page], "python") if code.startswith(start)]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_current(page):
    for name in set(make_docs.names_on(PAGES[page])) & set(MADE):
        made = make_docs.filled(PAGES[page], name, MADE[name]())
        assert made == PAGES[page], f"{name}: run python tests/data/make_docs.py"


def test_every_command_and_step_is_documented():
    named = [name for text in PAGES.values() for name in make_docs.names_on(text)]
    assert set(MADE) | set(make_docs.MEASURED) == set(named), "run python tests/data/make_docs.py"
    assert len(named) == len(set(named))


def test_every_step_has_its_formula():
    for family, method in make_docs.methods_of_steps():
        section = PAGES["steps"].partition(f"\n### {family}: {method}\n")[2].partition("\n##")[0]
        assert re.search(r"\*(Formula|Method)\.\*", section), f"{family}: {method}"


def test_every_option_is_on_a_page():
    for name, command in make_docs.commands().items():
        for option, (written, text) in make_docs.options_of(command).items():
            assert text, f"{name}: {written}"
            field, flag = f"| `{option}` |", f"| {written} |".replace("|", "\\|")[1:-2]
            fields = any(field in page for page in PAGES.values())
            assert fields or flag in PAGES["commands"], f"{name}: {written}"


def test_the_readme_is_short():
    assert len(PAGES["README"].split()) <= 1200


def test_recipes_on_the_pages_are_valid():
    found = [
        (page, block)
        for page, text in PAGES.items()
        for block in fenced(text, "yaml")
        if "steps:" in block
    ]
    assert {"README", "recipes", "fine-tuning", "budgets", "steps"} <= {page for page, _ in found}
    for page, block in found:
        space = Space.of(loads(block, page))
        space.check()
        assert space.at({}).steps or page == "search"
        assert bool(space.parameters) == (page == "search")


def shell_lines():
    """Every command line of modelcut within code, with its page; a backslash joins lines."""
    for page, text in PAGES.items():
        code = "\n".join(fenced(text, "[a-z]*") + re.findall(r"`([^`\n]+)`", text))
        for line in code.replace("\\\n", " ").splitlines():
            match = re.search(r"\bmodelcut ([a-z]+)\b.*", line)
            if match and "=" not in line.partition("modelcut")[0].rpartition(" ")[2]:
                yield page, match[1], match[0]


def test_commands_and_their_flags_exist():
    known = make_docs.commands()
    called = set()
    for page, name, line in shell_lines():
        if name not in COMMANDS:
            continue
        called.add(name)
        flags = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line.partition(" | ")[0])
        own = [command for full, command in known.items() if full.split()[0] == name]
        has = {
            option
            for command in own
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for flag in flags:
            assert flag in has | {"--help"}, f"{page}: {line}"
    assert called == set(COMMANDS)


def test_exit_codes_are_documented(modelcut):
    about = modelcut("--help").out
    section = PAGES["commands"].partition("## Exit codes")[2].partition("\n## ")[0]
    for code in ExitCode:
        for text in (section, about, PAGES["README"]):
            assert re.search(rf"\b{code.value}\b", text), code


def test_the_two_lines_are_those_that_ci_runs():
    run = (make_docs.ROOT / ".ci" / "run").read_text()
    for line in ("pip install '.[test]'", "pytest -n 2"):
        assert f"\n{line}\n" in PAGES["README"]
    assert "\npytest -n 2\n" in run
    assert re.search(r"^pip install .*'\.\[test\]'$", run, re.M)


def test_topics_that_are_named_exist():
    for page, text in PAGES.items():
        for topic in re.findall(r"`modelcut docs ([a-z-]+)`", text):
            assert topic in topics(), f"{page}: {topic}"
        for link in re.findall(r"\]\((modelcut/[^)]+)\)", text):
            assert (make_docs.ROOT / link).exists(), link
    assert all(f"(modelcut/docs/{topic}.md)" in PAGES["README"] for topic in topics())


# `modelcut docs`


def test_docs_lists_the_topics(modelcut):
    said = modelcut("docs")
    assert said.code == 0
    lines = dict(line.split(None, 1) for line in said.out.splitlines())
    assert set(lines) == set(topics())
    assert all(len(text) < 120 and text.endswith(".") for text in lines.values())


@pytest.mark.parametrize("topic", sorted(set(PAGES) - {"README"}))
def test_docs_prints_a_topic_as_it_is_when_piped(modelcut, topic):
    said = modelcut("docs", topic)
    assert said.code == 0
    assert said.out.startswith("# ")
    assert "<!--" not in said.out
    kept = [line for line in PAGES[topic].splitlines() if line and not line.startswith("<!--")]
    assert kept == [line for line in said.out.splitlines() if line]


def test_docs_is_rendered_on_a_terminal(modelcut, monkeypatch):
    monkeypatch.setattr("modelcut.cli.docs._on_terminal", lambda: True)
    said = modelcut("docs", "gates")
    assert "max_accuracy_drop" in said.out
    assert "| `max_accuracy_drop`" not in said.out


def test_an_unknown_topic_names_the_nearest(modelcut):
    said = modelcut("docs", "step")
    assert said.code == ExitCode.USAGE
    assert said.out == ""
    assert "'step'" in said.err
    assert "steps" in said.err
    assert "budgets" in modelcut("docs", "zzz").err


# The report


def paths_of(value, path=""):
    """Every key of a report, in the way the page writes it."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from paths_of(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for item in value or [None]:
            yield from paths_of(item, f"{path}[]")
    else:
        yield path


def covers(documented, path):
    head = documented.removesuffix(".*")
    empty = path.endswith("[]") and documented.startswith(path)
    return path == documented or empty or (head != documented and path.startswith(head))


def test_every_key_of_the_report_is_documented(tmp_path, modelcut):
    assert modelcut("demo", tmp_path, "-q").code == 0
    report = json.loads((tmp_path / "small.report.json").read_text())
    rows = re.findall(r"^\| `([a-z][\w.\[\]*]*)` \| (.*) \|$", PAGES["report"], re.M)
    documented = [path for path, _ in rows]
    assert set(documented) >= {path for path, _ in make_docs.report_keys()}
    # "x.*" says nothing where the page has the keys of x one by one.
    documented = [
        path
        for path in documented
        if not any(path != o and o.startswith(path.removesuffix("*")) for o in documented)
        or not path.endswith(".*")
    ]
    found = set(paths_of(report))
    for path in found:
        assert any(covers(each, path) for each in documented), path
    several = {"evaluation.before.outputs[].guessed", "gates[].output"}  # not in this report
    optional = {path for path, text in rows if "(if any)" in text} | several
    above = ("sizes.optimizer.", *(f"{path}." for path in optional))
    optional |= {path for path in documented if path.startswith(above)}
    for each in set(documented) - optional:
        head = each.removesuffix(".*").removesuffix("[]")
        assert any(path.startswith(head) for path in found), each


def test_every_part_of_the_report_says_what_it_is():
    for path, text in make_docs.report_keys():
        assert len(text) > 3, path


# Examples


def test_the_example_of_a_step_is_one_file(tmp_path):
    """The file of the page, dropped into a copy of the package, is a method like the others."""
    code = example("developing", '"""Removes the weights that are small beside')
    copy = tmp_path / "modelcut"
    source = Path(package.__file__).parent
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "steps" / "prune" / "relative.py").write_text(code, encoding="utf-8")

    def run(*arguments):
        call = [sys.executable, "-m", "modelcut", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    model = MODELS / "keras3_sequential.h5"
    said = run("prune", model, "--method", "relative", "--sparsity", "0.5", "-o", "o.h5", "--json")
    report = json.loads(said)
    (changed,) = [
        tensor["after"]
        for layer in report["layers"]
        for tensor in layer["tensors"]
        if tensor["changes"] and tensor["before"]["size"] > 64
    ][:1]
    assert changed["nonzeros"] == changed["size"] - round(changed["size"] / 2)
    assert "relative" in run("prune", "--help")
    assert "prune: relative" in run("recipe", "schema")
    assert "relative" not in steps.methods("prune")


def test_the_example_of_a_report_form_is_one_file(tmp_path):
    """The file of the page, dropped into a copy of the package, is a form like the others."""
    copy = tmp_path / "modelcut"
    source = Path(package.__file__).parent
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = example("developing", '"""The report as CSV')
    (copy / "report" / "csv.py").write_text(code, encoding="utf-8")
    use = (
        "import sys, modelcut\nfrom modelcut.report import render\n"
        "print(render(modelcut.inspect(sys.argv[1]), 'csv'))"
    )
    call = [sys.executable, "-c", use, str(MODELS / "keras3_sequential.h5")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = list(csv.DictReader(io.StringIO(done.stdout)))
    names = {tensor.name: tensor for tensor in registry.open_model(Path(call[-1])).tensors}
    assert [row["tensor"] for row in table] == list(names)
    for row in table:
        assert int(row["size"]) == names[row["tensor"]].pull()[0].size


def test_the_examples_in_python_run(tmp_path, monkeypatch, capsys):
    """Those of the page one after the other, as in one session, and that of the README."""
    for path in (Path(package.__file__).parent / "demo").iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    space = {}
    for page in ("python", "README"):
        for code in fenced(PAGES[page], "python"):
            exec(compile(code, f"{page}.md", "exec", dont_inherit=True), space)
    said = capsys.readouterr().out
    assert "max_accuracy_drop 0.02" in said
    assert "did you mean 'bits'" in said
    assert not Path("never.h5").exists()
    assert space["model"].count_params() == 55_082
    assert json.loads(space["text"])["evaluation"]["agreement"]["top1"] > 0.9


def test_the_options_of_python_are_documented():
    section = PAGES["python"].partition("| option of `run` |")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert package._options() - {"lossless", "say"} <= named | {"header"}


def test_the_example_of_a_format_is_one_file_and_one_line(tmp_path):
    """The page's module and line, put into a copy of the package, are a format like the others."""
    copy = tmp_path / "modelcut"
    source = Path(package.__file__).parent
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = example("developing", '"""NumPy\'s `.npz`')
    (copy / "formats" / "npz.py").write_text(code, encoding="utf-8")
    place = copy / "formats" / "registry.py"
    text = place.read_text(encoding="utf-8")
    table = "_FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {\n"
    assert table in text
    line = example("developing", '    "npz": ("npz"')
    place.write_text(text.replace(table, f"{table}{line.rstrip()}\n"), encoding="utf-8")

    def run(*arguments, code=0):
        call = [sys.executable, "-m", "modelcut", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    model = MODELS / "keras3_sequential.h5"
    run("prune", model, "--sparsity", "0.5", "-o", "a.npz")
    run("prune", model, "--sparsity", "0.5", "-o", "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as arrays, registry.open_model(model) as whole:
        assert set(arrays.files) == {tensor.name for tensor in whole.tensors}
        kernels = [arrays[t.name] for t in whole.tensors if t.kind == "kernel"]
    zeros = sum((kernel == 0).sum() for kernel in kernels) / sum(k.size for k in kernels)
    assert abs(zeros - 0.5) < 0.02
    assert json.loads(run("inspect", "a.npz", "--json"))["input"]["format"] == "npz"
    run("quantize", "a.npz", "--bits", "4", "-o", "c.npz")
    assert "no architecture" in run("quantize", "a.npz", "--bits", "4", "-o", "d.keras", code=2)
    assert "cannot be packed" in run("pack", "a.npz", "-o", "d.mcut", code=2)
    assert ".npz" in run("prune", model, "--sparsity", "0.5", "-o", "d.xyz", code=2)


def test_the_example_of_an_encoding_keeps_the_contract():
    space = {"__name__": "example"}
    exec(
        compile(
            example("developing", "from dataclasses"), "developing.md", "exec", dont_inherit=True
        ),
        space,
    )
    encoding = space["PowersOfTwo"](-6, 8)
    values = np.random.default_rng(0).normal(size=(40, 30)).astype("float32")
    values[0, 0] = 0
    once = encoding.project(values)
    assert np.array_equal(encoding.project(once), once)
    codes = encoding.codes(once)
    assert codes.max() < encoding.symbols
    assert encoding.decode(codes, once.dtype).tobytes() == once.tobytes()
    inside = (np.abs(values) > 2**-6) & (np.abs(values) < 2**1.5)
    assert np.all(np.abs(np.log2(once[inside] / values[inside])) <= 0.5 + 1e-6)
    assert set(np.log2(np.abs(once[once != 0]))) <= set(range(-6, 2))


def test_the_directory_of_a_packed_file_is_as_described():
    space = {}
    exec(compile(example("mcut", "import zlib"), "mcut.md", "exec", dont_inherit=True), space)
    data = (MODELS / "version2_blocks.mcut").read_bytes()
    found = space["directory"](data)
    assert found
    start, size, _ = found[-1]
    assert start + size == len(data)
    for start, size, checksum in found:
        assert zlib.crc32(data[start : start + size]) == checksum
