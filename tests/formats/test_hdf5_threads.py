"""HDF5 is used by one thread at a time: libhdf5 crashes otherwise."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from pathlib import Path
from threading import Thread
import h5py, numpy as np
from modelcut.formats.keras import hdf5_values

folder = Path(sys.argv[1])
values = np.zeros((4096, 2048), np.float32)
values[::7, ::3] = 1.5
busy = True

def ask(found):  # as the threads do that read a streamed tensor
    while busy:
        bool(found)

with h5py.File(folder / "other.h5", "w") as other, h5py.File(folder / "a.h5", "w") as file:
    found = other.create_dataset("x", data=np.zeros(10))
    threads = [Thread(target=ask, args=(found,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(3):
        hdf5_values.write(file, f"d{number}", values, "fast", {})
        again = hdf5_values.source(file[f"d{number}"], "a.h5").read()
        assert np.array_equal(again, values)
    busy = False
    for thread in threads:
        thread.join()
print("read back")
"""


def test_chunks_go_through_while_other_threads_ask(tmp_path):
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (said.returncode, said.stdout) == (0, "read back\n"), said.stderr
