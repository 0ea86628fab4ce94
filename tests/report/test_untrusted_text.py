"""Names from files on every channel: nothing moves a cursor, hides text, or commands a CI."""

from __future__ import annotations

import json
import shutil
import unicodedata

import h5py
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import MODELS

from modelcut.report import render
from modelcut.safety import json_text, printable

NASTY = [
    "::set-output name=x::y",
    " ::error::fake",
    "##vso[task.complete]",
    "##[error]fake",
    "##teamcity[x]",
    "abc\u202egpj.exe",
    "a\x9b31mb",
    "\x1b]0;title\x07",
    "a\n::error::fake",
    "\u2028\u2029\u200b\ufeff\U000e0041",
]
COMMANDS = ("::", "##[", "##vso[", "##teamcity[")


def is_harmless(text):
    assert not [
        c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")
    ]
    for line in text.split("\n"):
        assert not line.lstrip().startswith(COMMANDS), line
        assert not any(command in line for command in COMMANDS[1:]), line


@pytest.mark.parametrize("text", NASTY)
def test_known_ones(text):
    is_harmless(printable(text))
    made = json_text(json.dumps({text: text}, ensure_ascii=False, indent=1))
    is_harmless(made)
    assert json.loads(made) == {text: text}


@given(st.text() | st.sampled_from(NASTY).flatmap(lambda n: st.text(max_size=5).map(n.__add__)))
def test_any(text):
    is_harmless(printable(text))
    made = json_text(json.dumps(text, ensure_ascii=False))
    is_harmless(made)
    assert json.loads(made) == text


@pytest.mark.parametrize("name", NASTY[:7])
def test_a_layer_of_that_name_in_every_form(name, tmp_path, modelcut):
    import modelcut as package

    path = tmp_path / "m.h5"
    shutil.copyfile(MODELS / "keras3_sequential.h5", path)
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        layer = next(e for e in config["config"]["layers"] if e["class_name"] == "Dense")
        old, layer["config"]["name"] = layer["config"]["name"], name
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = f"3.0{name}"
        root = file["model_weights"]
        names = [n if isinstance(n, str) else n.decode() for n in root.attrs["layer_names"]]
        root.attrs["layer_names"] = [name if n == old else n for n in names]
        root.move(old, name)
    report = package.inspect(path)
    for form in ("json", "md", "html"):
        is_harmless(render(report, form))
    for more in ((), ("--json",), ("--graph",)):
        said = modelcut("inspect", path, *more)
        assert said.code == 0, said
        is_harmless(said.out)
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.h5")
    assert said.code == 0, said
    is_harmless(said.out)
    said = modelcut("prune", path, "--sparsity", "0.5", "--include", f"{name}?", "--dry-run")
    is_harmless(said.out + said.err)
