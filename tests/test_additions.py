"""How many files an addition takes: one of each kind is made in a copy of the package, and works.

A pruning method, an encoding, a report form: one file. A family of steps: one folder. A gate: one
field.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toys import MODELS, contents

import modelcut as package

TESTS = Path(__file__).parent

METHOD = '''
"""Removes the first inputs of every layer."""

import numpy as np
from pydantic import Field

from modelcut.arrays import floats
from modelcut.model.encoding import Sparse
from modelcut.model.rewrite import Rewrite
from modelcut.steps.base import TensorStep


class First(TensorStep):
    """Remove the weights of the first inputs."""

    removed: int = Field(1, ge=0, description="How many inputs are removed.")

    @property
    def leaves(self):
        return ("sparse",)

    def edit(self, tensor, survey, context):
        def block(part, rows):
            number = np.arange(rows.start or 0, (rows.start or 0) + len(part))
            return floats.masked(part, (part != 0) & (number >= self.removed)[:, None])

        return lambda values, encoding: Rewrite(Sparse(encoding.unmasked), block)

    def kinds_after(self, tensor):
        return ("sparse", *(kind for kind in tensor.kinds if kind != "sparse"))
'''

ENCODING = '''
"""Multiples of an eighth."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from modelcut.arrays.blocks import ALL
from modelcut.model.encoding import Encoding


@dataclass(frozen=True)
class Eighths(Encoding):
    """n / 8 with n from -8 to 7."""

    kind: ClassVar[str] = "eighths"

    @property
    def symbols(self):
        return 16

    def project(self, values, rows=ALL, like=None):
        return self.decode(self.codes(values, rows), values.dtype, rows)

    def codes(self, values, rows=ALL):
        return (np.clip(np.rint(8 * values), -8, 7) + 8).astype(np.uint8)

    def decode(self, codes, dtype, rows=ALL):
        return ((codes.astype(np.int64) - 8) / 8).astype(dtype)

    def record(self):
        return {"kind": self.kind}
'''

FAMILY = '''
"""Steps that round."""

SUMMARY = "Round weights."
DEFAULT = "eighths"
'''

STEP = '''
"""Rounds to multiples of an eighth."""

from modelcut.model.encoding import Sparse
from modelcut.model.encodings.eighths import Eighths
from modelcut.model.rewrite import Rewrite
from modelcut.steps.base import TensorStep


class RoundToEighths(TensorStep):
    """Round to multiples of an eighth."""

    @property
    def leaves(self):
        return ("eighths",)

    def edit(self, tensor, survey, context):
        def plan(values, encoding):
            masked = encoding.unmasked is not encoding
            return Rewrite(Sparse(Eighths()) if masked else Eighths())

        return plan

    def kinds_after(self, tensor):
        return (*(kind for kind in tensor.kinds if kind == "sparse"), "eighths")
'''

FORM = '''
"""The report as one line."""


def render(report):
    sizes = report.sizes
    return f"{sizes.before.totals.bytes} -> {sizes.after.totals.nonzeros}"
'''

GATE = """
    min_parameters: Positive | None = _gate("sizes.after.totals.parameters", "Least parameters.")
"""

ADDED = {
    "steps/prune/first.py": METHOD,
    "model/encodings/eighths.py": ENCODING,
    "steps/round/__init__.py": FAMILY,
    "steps/round/eighths.py": STEP,
    "report/line.py": FORM,
}

WALK = """
import json
import sys
from pathlib import Path

import numpy as np
from toy_runtime import toy_runtime

from modelcut import report, steps
from modelcut.cli import main
from modelcut.formats import registry
from modelcut.job.inspect import look
from modelcut.steps.base import Context

MODEL = sys.argv[1]


def call(*arguments):
    try:
        main.main([*arguments])
    except SystemExit as ended:
        return int(ended.code or 0)


found = {"codes": [
    call("prune", MODEL, "--method", "first", "--removed", "2", "-o", "a.h5", "-q"),
    call("prune", MODEL, "--method", "first", "-o", "g.h5", "-q", "--min-parameters", "10"),
    call("prune", MODEL, "--method", "first", "-o", "h.h5", "-q", "--min-parameters", "1e9"),
    call("round", "a.h5", "-o", "b.mcut", "-q"),
    call("unpack", "b.mcut", "-o", "c.h5", "-q"),
]}
for name in ("a.h5", "b.mcut", "c.h5"):
    model = registry.open_model(Path(name))
    tensor = next(tensor for tensor in model.tensors if tensor.kind == "kernel")
    values, encoding = tensor.pull()
    found[name] = {"label": encoding.label, "values": values.tolist()}
trained = steps.find("finetune", "straight_through")(steps=20, batch_size=8, learning_rate=1)
outcome = trained.apply(model, Context(runtime=toy_runtime(model)))
tensor = next(tensor for tensor in outcome.model.tensors if tensor.kind == "kernel")
values, encoding = tensor.pull()
found["trained"] = {"label": encoding.label, "values": values.tolist()}
made = json.loads(Path("b.report.json").read_text())
found["counted"] = next(
    tensor["after"] for layer in made["layers"] for tensor in layer["tensors"] if tensor["changes"]
)
with look(Path("c.h5")) as (_, whole):
    found["line"] = report.render(whole, "line")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """What the additions did, and the files that are new or other than in the package."""
    folder = tmp_path_factory.mktemp("additions")
    source, copy = Path(package.__file__).parent, folder / "modelcut"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = contents(copy)
    for name, text in ADDED.items():
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(text.lstrip())
    limits = copy / "metrics" / "limits.py"
    head, gate, tail = limits.read_text().partition("\n    max_bytes:")
    limits.write_text(head + GATE + gate.lstrip("\n") + tail)
    after = contents(copy)
    changed = {name for name, data in after.items() if before.get(name, 0) != data}
    (folder / "walk.py").write_text(WALK)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(TESTS)])}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def call(*arguments):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = call("walk.py", MODELS / "keras3_sequential.h5")
    assert done.returncode == 0, done.stderr
    about = {
        name: call("-m", "modelcut", *arguments).stdout
        for name, arguments in {
            "help": ["--help"],
            "prune": ["prune", "first", "--help"],
            "round": ["round", "--help"],
            "schema": ["recipe", "schema"],
        }.items()
    }
    return json.loads(done.stdout), about, changed


def test_nothing_else_was_touched(walked):
    assert walked[2] == {*ADDED, "steps/round", "metrics/limits.py"}


def test_a_method_is_one_file(walked):
    found, about, _ = walked
    rows = found["a.h5"]["values"]
    assert rows[0] == rows[1] == [0.0] * len(rows[0])
    assert all(value != 0 for row in rows[2:] for value in row)
    assert found["a.h5"]["label"] == "sparse"
    assert "--removed" in about["prune"]
    assert "How many inputs are removed" in " ".join(about["prune"].split())
    assert "prune: first" in about["schema"]


def test_an_encoding_is_one_file(walked):
    """It is packed, unpacked, counted, and kept by a training."""
    found, _, _ = walked
    packed, again, trained = (found[name] for name in ("b.mcut", "c.h5", "trained"))
    assert packed == again
    assert packed["label"] == trained["label"] == "sparse, eighths"
    assert trained["values"] != packed["values"]
    counted = found["counted"]
    assert counted["bits"] == counted["size"] + 4 * counted["nonzeros"]  # a mask, and 16 codes
    for each in (packed, trained):
        assert all(8 * value == round(8 * value) for row in each["values"] for value in row)
        assert each["values"][:2] == found["a.h5"]["values"][:2]


def test_a_family_is_one_folder(walked):
    _, about, _ = walked
    assert "Round weights." in about["help"]
    assert "eighths" in about["round"]
    assert "[default]" in about["round"]
    assert "round: eighths" in about["schema"]


def test_a_form_of_the_report_is_one_file(walked):
    found, _, _ = walked
    before, _, nonzeros = found["line"].partition(" -> ")
    assert int(before) == 4 * (8 * 12 + 12 + 12 * 3 + 3)
    assert 0 < int(nonzeros) < int(before) / 4


def test_a_gate_is_one_field(walked):
    found, about, _ = walked
    assert found["codes"] == [0, 0, 1, 0, 0]
    assert "--min-parameters" in about["prune"]
