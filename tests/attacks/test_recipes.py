"""Recipes that want to run code, never end, or say what cannot be."""

from __future__ import annotations

import pytest
from toys import MODELS

MODEL = MODELS / "keras3_sequential.h5"
STEP = "steps:\n  - prune: magnitude\n    sparsity: 0.5\n"

REFUSED = {
    "apply": ("!!python/object/apply:os.system ['touch ran.marker']", ""),
    "new": ("steps: !!python/object/new:os.system ['touch ran.marker']", ""),
    "name": ("steps: !!python/name:os.system", ""),
    "alias of itself": ("steps: &a [*a]", ""),
    "deep": ("steps: " + "[" * 20_000 + "]" * 20_000, ""),
    "large": (STEP + "#" * (2 << 20), "1 MiB"),
    "many keys": ("{" + ",".join(f"k{i}: 1" for i in range(90_000)) + "}", ""),
    "merge keys": (
        "a: &a {x: 1}\n"
        + "".join(f"b{i}: &b{i} {{<<: [*{'a' if i == 0 else f'b{i - 1}'}]}}\n" for i in range(20)),
        "",
    ),
    "misspelt key": ("steps:\n  - prune: magnitude\n    sparsty: 0.5\n", "did you mean 'sparsity'"),
    "misspelt step": ("steps:\n  - prunne: magnitude\n", "did you mean 'prune'"),
    "misspelt method": ("steps:\n  - prune: magnitud\n", "did you mean 'magnitude'"),
    "nan": ("steps:\n  - prune: magnitude\n    sparsity: .nan\n", "sparsity"),
    "inf": ("steps:\n  - prune: magnitude\n    sparsity: .inf\n", "sparsity"),
    "above one": ("steps:\n  - prune: magnitude\n    sparsity: 1.5\n", ":3:"),
    "list": ("steps:\n  - prune: magnitude\n    sparsity: [0.5]\n", "sparsity"),
    "null": ("steps:\n  - prune: magnitude\n    sparsity: ~\n", ""),
    "huge": (f"steps:\n  - prune: magnitude\n    sparsity: {'9' * 20}\n", ""),
    "beyond Python": (f"steps:\n  - prune: magnitude\n    sparsity: {'9' * 5000}\n", ""),
    "no bits": ("steps:\n  - quantize: linear\n    bits: 0\n", "bits"),
    "33 bits": ("steps:\n  - quantize: linear\n    bits: 33\n", "bits"),
    "no such layer": (STEP + "    include: [nowhere]\n", "matches no layer"),
    "empty": ("", "empty"),
    "only a comment": ("# nothing\n", "empty"),
    "a text": ("just words", "mapping"),
    "two documents": (STEP + "---\n" + STEP, ""),
    "tabs": ("steps:\n\t- prune: magnitude\n", ":2:"),
    "unclosed": ("steps: [{prune: magnitude\n", ":2:"),
    "a NUL": (STEP + "a\0b: 1\n", ""),
    "bytes": (b"\x80\x81\xfe\xff" * 50, "UTF-8"),
    "output in the recipe": (STEP + "output: ../../up.h5\n", "output"),
    "twice": ("steps:\n  - prune: magnitude\n    sparsity: 0.5\n    sparsity: 0.6\n", ""),
    "two after one another": (
        "steps:\n  - quantize: linear\n  - quantize: linear\n",
        "cannot follow",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case, tmp_path, modelcut, in_one_line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, words = REFUSED[case]
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = modelcut("run", MODEL, "--recipe", path, "-o", tmp_path / "o.h5")
    in_one_line(said, 2, words=words)
    # What does not fit the model is said of the model, all else of the recipe's file.
    blamed = MODEL if case == "no such layer" else path
    assert blamed.name in said.err
    assert not (tmp_path / "o.h5").exists()


@pytest.mark.parametrize(
    "text",
    [
        "﻿steps:\r\n  - prune: magnitude\r\n    sparsity: 0.5\r\n",
        "steps:\n  - prune: magnitude\n    sparsity: 5e-1\n",
        "steps:\n  - prune: {sparsity: 0.5}\n",
    ],
)
def test_accepted(text, tmp_path, modelcut):
    (tmp_path / "r.yaml").write_text(text, newline="")
    said = modelcut(
        "run", MODEL, "--recipe", tmp_path / "r.yaml", "-o", tmp_path / "o.h5", "--json"
    )
    assert said.code == 0, said
    assert '"sparsity": 0.5' in said.out


def test_a_setting_that_removes_nothing_is_warned_of(tmp_path, modelcut):
    said = modelcut("prune", MODEL, "--sparsity", "0", "-o", tmp_path / "o.h5")
    assert said.code == 0
    assert "removes nothing" in said.out


@pytest.mark.parametrize("name", ["/dev/zero", "https://example.org/r.yaml", "gone.yaml"])
def test_what_is_no_file(name, tmp_path, modelcut, in_one_line):
    in_one_line(modelcut("run", MODEL, "--recipe", name, "-o", tmp_path / "o.h5"), 2)
