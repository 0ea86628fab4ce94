"""Saved reports: read again, shown again, and held against the published schema."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modelcut.errors import InputError
from modelcut.report import render
from modelcut.report.json_schema import json_schema
from modelcut.report.load import load, report_of
from modelcut.report.schema import Report


def broken_rules(value, schema, root, where="$"):
    """What of a JSON Schema a value breaks: of the keywords that ours uses."""
    if "$ref" in schema:
        yield from broken_rules(
            value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, where
        )
        return
    if "anyOf" in schema:
        tries = [list(broken_rules(value, each, root, where)) for each in schema["anyOf"]]
        yield from min(tries, key=len)
        return
    if "const" in schema and value != schema["const"]:
        yield f"{where}: not {schema['const']}"
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool,
             "number": (int, float), "null": type(None)}  # fmt: skip
    right = any(
        isinstance(value, types[k]) and (k == "boolean" or not isinstance(value, bool))
        for k in kinds
    )
    if kinds and not right:
        yield f"{where}: {value!r} is no {kinds}"
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{where}.{name}: missing"
        for name, part in schema.get("properties", {}).items():
            if name in value:
                yield from broken_rules(value[name], part, root, f"{where}.{name}")
        other = schema.get("additionalProperties")
        for name, part in value.items() if other else ():
            yield from broken_rules(part, other, root, f"{where}.{name}")
    if isinstance(value, list) and "items" in schema:
        for index, part in enumerate(value):
            yield from broken_rules(part, schema["items"], root, f"{where}[{index}]")


def test_the_schema_without_docstrings():
    call = [sys.executable, "-OO", "-m", "modelcut", "report", "schema"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["title"] == "modelcut-report/1"


def test_a_report_is_what_the_schema_says(made):
    schema = json_schema()
    data = json.loads(render(made, "json"))
    assert list(broken_rules(data, schema, schema)) == []
    assert schema["$id"] == "urn:modelcut-report:1"
    odd = copy.deepcopy(data)
    odd["layers"][0]["tensors"][0]["before"]["size"] = "big"
    del odd["sizes"]["before"]["parameters"]
    odd["schema"] = "modelcut-report/2"
    found = list(broken_rules(odd, schema, schema))
    assert len(found) == 3, found


def test_every_key_is_described_in_the_schema():
    def visit(part, path):
        for name, each in part.get("properties", {}).items():
            if path == "" or "Known" not in path:
                assert each.get("description"), (path, name)

    schema = json_schema()
    visit(schema, "")
    for name, each in schema["$defs"].items():
        visit(each, name)


def test_a_saved_report_is_the_same_in_every_form(made, tmp_path):
    path = tmp_path / "o.report.json"
    path.write_text(render(made, "json"))
    again = load(path)
    assert isinstance(again, Report)
    for form in ("json", "md", "html"):
        assert render(again, form) == render(made, form)


def test_what_json_cannot_hold_comes_back_as_no_number(made):
    row = made.layers[0].tensors[0]
    endless = replace(row, changes=(replace(row.changes[0], error=float("inf")),))
    layers = (replace(made.layers[0], tensors=(endless,)),)
    data = json.loads(render(replace(made, layers=layers), "json"))
    error = report_of(data, "x").layers[0].tensors[0].changes[0].error
    assert error != error
    render(report_of(data, "x"), "html")


def test_keys_of_a_later_version_are_passed_over(made):
    data = json.loads(render(made, "json"))
    data["new"] = {"a": 1}
    data["sizes"]["new"] = 3
    data["output"]["litert"] = {"inputs": []}
    found = report_of(data, "x")
    assert found.output.facts == {"litert": {"inputs": []}}
    assert found.sizes == made.sizes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("schema"), "names no schema"),
        (lambda d: d.update(schema="modelcut-report/9"), "modelcut-report/9"),
        (lambda d: d.pop("sizes"), "sizes: is missing"),
        (lambda d: d.update(layers="x"), "layers: 'x' is not what stands there"),
        (lambda d: d["layers"][0].update(tensors=[3]), "layers[0].tensors[0]: 3 is not"),
        (lambda d: d["input"].update(bytes=True), "input.bytes: True is not"),
        (lambda d: d["sizes"]["before"].pop("parameters"), "parameters: is missing"),
    ],
)
def test_what_is_no_report_is_refused_by_name(made, change, words):
    data = json.loads(render(made, "json"))
    change(data)
    with pytest.raises(InputError) as told:
        report_of(data, "r.json")
    assert str(told.value).startswith("r.json: ")
    assert words in str(told.value)


def test_the_command_shows_a_report_in_any_form(made, tmp_path, modelcut):
    path = tmp_path / "o.report.json"
    path.write_text(render(made, "json"))
    assert "FAILED" in modelcut("report", "show", path).out
    assert modelcut("report", "show", path, "--json").out == render(made, "json")
    assert modelcut("report", "show", path, "--md").out == render(made, "md")
    page = tmp_path / "p.html"
    for _ in range(2):  # what modelcut wrote it may write again
        assert modelcut("report", "show", path, "-o", page).code == 0
    assert page.read_text() == render(made, "html")
    assert json.loads(modelcut("report", "schema").out) == json_schema()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--json", "--md"], "which of these?"),
        (["-o", "x.pdf"], "the suffix names no form"),
        (["-o", "taken.html"], "modelcut did not write it"),
    ],
)
def test_the_command_refuses(made, tmp_path, modelcut, arguments, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("taken.html").write_text("mine")
    Path("o.report.json").write_text(render(made, "json"))
    said = modelcut("report", "show", "o.report.json", *arguments)
    assert said.code == 2
    assert words in said.err
    assert said.err.count("\n") == 1
    assert Path("taken.html").read_text() == "mine"


def test_a_report_that_was_edited_is_told_in_one_line(made, tmp_path, modelcut):
    data = json.loads(render(made, "json"))
    data["evaluation"]["after"]["metrics"]["per_class"] = [3]
    path = tmp_path / "o.report.json"
    path.write_text(json.dumps(data))
    for form in ([], ["--html"], ["--md"]):
        said = modelcut("report", "show", path, *form)
        assert said.code == 2
        assert "does not hang together" in said.err
    for text in ("[]", "{", "\x00\xff", "3", '{"schema": []}'):
        path.write_text(text)
        said = modelcut("report", "show", path)
        assert said.code == 2, text
        assert said.err.startswith(f"modelcut: {path}")
