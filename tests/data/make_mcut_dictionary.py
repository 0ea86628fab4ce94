"""Makes `modelcut/formats/mcut_2.dict`: phrases that the heads of packed files have in common.

    python tests/data/make_mcut_dictionary.py

Version 2 of the format has these before those of version 1 (`mcut_1.dict`: whole heads of packed
LeNets, residual and text networks of both Keras libraries, made when that version was). Run once
for a version; a dictionary that has been released is never changed, or the files that were packed
with it cannot be read.
"""

from __future__ import annotations

from pathlib import Path

import msgpack
import numpy as np

from modelcut import __version__
from modelcut.formats import registry
from modelcut.formats.mcut import container, parameters
from modelcut.job.provenance import versions
from modelcut.model.encoding import Dense, Encoding, Sparse
from modelcut.model.encodings.affine import Affine
from modelcut.model.encodings.binary import Binary
from modelcut.model.encodings.codebook import Codebook
from modelcut.recipe import recipe
from modelcut.recipe.yaml_text import loads

TARGET = Path(registry.__file__).parent / "mcut" / "mcut_2.dict"

RECIPES = """\
data: {label: label, scale: 1/255}
steps:
  - finetune:
      epochs: 40
      batch_size: 256
      optimizer: adamw
      learning_rate: 1.e-3
      weight_decay: 0.05
      validation: 0
      augment: {shift: 1, image: [28, 28]}
---
data: {label: label, scale: 1/255}
steps:
  - finetune:
      epochs: 50
      batch_size: 256
      learning_rate: 1.e-3
      mask: dynamic
      prune: {sparsity: 0.95, scope: global, end: 0.5, overrides: {digit: 0.6}}
      distill: {weight: 0.5, temperature: 2}
  - quantize: huffman
    values: 8
    entropy_weight: 0.02
  - quantize: huffman
    include: ["role:bias"]
    values: 16
    entropy_weight: 0.02
  - quantize: linear
    include: ["role:bias"]
  - finetune:
      epochs: 8
      batch_size: 256
      learning_rate: 3.e-4
      mask: dynamic
      distill: {weight: 0.5, temperature: 2}
---
steps:
  - prune: magnitude
    sparsity: 0.9
    scope: layer
    overrides: {"class:Conv2D": {sparsity: 0.5}}
  - quantize: huffman
    bits: 4
    entropy_weight: 0.01
---
steps:
  - quantize: linear
    bits: 4
    range: mse
    group: 64
---
steps:
  - quantize: ternary
  - quantize: float16
    include: ["role:bias"]
---
steps:
  - quantize: binary
    bases: 2
---
steps:
  - prune: l1
    sparsity: 0.3
---
steps:
  - factorize: svd
    energy: 0.9
"""


def provenances():
    for text in RECIPES.split("---\n"):
        made = recipe.parse(loads(text, "phrases")).to_dict()
        entry = {
            "modelcut": __version__,
            "input_sha256": b"",
            "recipe": made,
            "versions": {name: versions()[name] for name in ("numpy", "h5py", "isal")},
        }
        yield {"history": [entry]}


def records():
    one = np.ones((), "float32")
    kinds: list[Encoding] = [
        Binary(np.ones((1,), "float32")),
        Affine(4, one, group=64),
        Affine(8, one, np.zeros((), "int32")),
        Affine(8, one),
        Dense("bfloat16"),
        Dense("float16"),
    ]
    for encoding in kinds:
        yield [parameters.apart(encoding)[0], None]
    yield [None, parameters.apart(kinds[3])[0]] * 2
    for encoding in (Dense(), Dense("float16"), kinds[3], Codebook(np.ones(1, "float32"))):
        yield [parameters.apart(Sparse(encoding))[0], None] * 2


def main():
    # What is usual stands last.
    phrases = [*list(provenances())[::-1], *records()]
    TARGET.write_bytes(b"".join(map(msgpack.packb, phrases)))
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")
    container._dictionary.cache_clear()


if __name__ == "__main__":
    main()
