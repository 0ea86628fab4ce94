"""Streams a CSV through a buffer of some bytes and says what came, and how much memory it took.

usage: streaming_child.py CSV rows bytes [nodisk]
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np

from modelcut.data import DataOptions, InputSpec, _spill
from modelcut.data.csv import Csv
from modelcut.data.rows import Rows
from modelcut.data.store import RowStore

path, rows, memory = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
small = path.with_name("small.csv")
with path.open() as whole, small.open("w") as part:
    part.writelines(line for line, _ in zip(whole, range(rows), strict=False))


def store(path):
    columns = path.open().readline().count(",")
    spec = InputSpec("x", (columns,))
    table = Csv.open(path, DataOptions(label="label"), (spec,))
    decode = lambda batch: Rows((batch.inputs["x"],), (batch.labels[:, 0].astype(np.int64),))  # noqa: E731
    return RowStore(table, decode, memory=memory)


if len(sys.argv) > 4:
    _spill._SHARE = 1 << 60


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


for _ in store(small).batches(500, shuffle=0):
    pass
before = peak()
large = store(path)
orders, sizes, wrong = [], set(), 0
for epoch in (0, 1):
    seen = []
    for part in large.batches(500, part="train", share=0.2, shuffle=epoch):
        seen.append(part.labels[0])
        sizes.add(len(part))
        # The first columns spell the number of the row, the label says it.
        digits = part.inputs[0][:, :6] @ (10.0 ** np.arange(5, -1, -1)).astype("float32")
        wrong += int((digits != part.labels[0]).sum())
    orders.append(np.concatenate(seen))
aside = [part.labels[0] for part in large.batches(500, part="validation", share=0.2)]
np.save(path.with_suffix(".npy"), np.stack(orders))
np.save(path.with_name("aside.npy"), np.concatenate(aside))
answer = {
    "grown": peak() - before,
    "in_memory": large.in_memory,
    "in_file": large.in_file,
    "wrong": wrong,
}
print(json.dumps({**answer, "sizes": sorted(sizes)}))
