"""Codes whole numbers with nncodec, for `packed.py`; run by a Python that has it.

    NNCODEC_PYTHON tests/benchmarks/nncodec_codes.py FILE.npy …

Each file holds the codes of one tensor, 0 for what was pruned. Its settings are nncodec's own
(DeepCABAC, parameters of the contexts searched for each tensor). Prints a line of JSON: bytes of
all bit streams, values, and CPU seconds there and back; a code that does not come back is an error.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from nncodec.nn import decode, encode


def main() -> None:
    total = {"bytes": 0, "values": 0, "encode": 0.0, "decode": 0.0}
    for name in sys.argv[1:]:
        codes = np.load(name).astype(np.int32)
        start = time.process_time()
        stream = encode({"codes": codes}, {"verbose": False, "results": str(Path(name).parent)})
        middle = time.process_time()
        back = decode(stream)["codes"]
        total["encode"] += middle - start
        total["decode"] += time.process_time() - middle
        if not np.array_equal(back, codes):
            raise SystemExit(f"{name}: other codes come back")
        total["bytes"] += len(stream)
        total["values"] += codes.size
        print(name, len(stream), codes.size, file=sys.stderr, flush=True)
    print(json.dumps(total))


if __name__ == "__main__":
    main()
