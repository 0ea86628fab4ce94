"""Fuzzes the readers with atheris (libFuzzer): any exception but modelcut's own is a finding.

    pip install atheris
    python tests/fuzz/fuzz.py SECONDS [h5|keras|mcut|recipe|csv|gz|npz|json ...]

Findings are written to the working folder as `crash-*`.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]


def _model(suffix):
    def read(data, folder):
        from modelcut.formats import registry

        path = folder / f"m{suffix}"
        path.write_bytes(data)
        with registry.open_model(path) as model:
            for tensor in model.tensors:
                tensor.source.read()
            registry.dangers(model)

    return read


def _recipe(data, folder):
    from modelcut.recipe import recipe
    from modelcut.recipe.yaml_text import load_file

    path = folder / "r.yaml"
    path.write_bytes(data)
    recipe.parse(load_file(path))


def _samples(suffix):
    def read(data, folder):
        from modelcut.data import DataOptions, InputSpec
        from modelcut.data.sources import open_table

        path = folder / f"t{suffix}"
        path.write_bytes(data)
        for _ in open_table(path, DataOptions(), [InputSpec("x", (4,), "float32")]).batches(64):
            pass

    return read


def _json(data, folder):
    from modelcut.graph.architecture import Architecture
    from modelcut.graph.scan import findings

    del folder
    made = Architecture.parse(data.decode("utf-8", "replace"), "3.1.0", "m")
    findings(made.text, "", where="m")


ROWS = b"a,b,c,d,label\n1,2,3,4,0\n5,6,7,8,1\n"

TARGETS = {
    "h5": _model(".h5"),
    "keras": _model(".keras"),
    "mcut": _model(".mcut"),
    "recipe": _recipe,
    "csv": _samples(".csv"),
    "gz": _samples(".csv.gz"),
    "npz": _samples(".npz"),
    "json": _json,
}


def seeds(name, folder):
    """Sound inputs to begin from."""
    models = HERE.parent / "data" / "models"
    if name in ("h5", "keras"):
        return [p.read_bytes() for p in sorted(models.glob(f"*_sequential.{name}"))]
    if name == "mcut":
        return [p.read_bytes() for p in sorted(models.glob("*.mcut"))]
    if name == "recipe":
        return [p.read_bytes() for p in sorted((HERE.parents[1] / "recipes").glob("*.yaml"))]
    if name == "csv":
        return [ROWS]
    if name == "gz":
        return [gzip.compress(ROWS)]
    if name == "npz":
        import numpy as np

        spool = io.BytesIO()
        np.savez(spool, x=np.ones((2, 4), "f4"), y=np.zeros(2))
        return [spool.getvalue()]
    import h5py

    with h5py.File(models / "keras3_sequential.h5") as file:
        return [file.attrs["model_config"].encode()]


def run(name, seconds):
    """Fuzzes one reader in this process, which atheris ends."""
    import atheris

    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp(prefix="modelcut-fuzz-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds(name, folder)):
        (corpus / str(number)).write_bytes(data)
    with atheris.instrument_imports(include=["modelcut"]):
        from modelcut.errors import ModelcutError
        from modelcut.formats.keras import probe

        # Files on which libhdf5 comes to no end are found often; one second tells.
        probe._seconds = lambda size: 1

        for data in (*seeds(name, folder), b"?"):  # what is imported later would not be watched
            with contextlib.suppress(ModelcutError, OSError):
                target(data, folder)

    def one(data):
        try:
            target(data, folder)
        except (ModelcutError, OSError):
            return

    options = [
        f"-max_total_time={seconds}",
        "-seed=1",
        "-max_len=65536",
        "-timeout=120",  # on the wall: another process may spend its second of CPU meanwhile
        "-rss_limit_mb=4096",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def main() -> int:
    """Divides the seconds among the readers, each in a process of its own."""
    seconds, names = int(sys.argv[1]), sys.argv[2:] or list(TARGETS)
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("fuzzing is skipped: atheris is not installed")
        return 0
    if names[0] == "--one":
        run(names[1], seconds)
        return 0
    failed = 0
    for name in names:
        part = str(max(2, seconds // len(names)))
        line = [sys.executable, __file__, part, "--one", name]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        told = [text for text in done.stderr.splitlines() if "DONE" in text or "Exception" in text]
        print(f"{name}: {'nothing found' if done.returncode == 0 else 'FOUND'}; {told[-1:]}")
        if done.returncode:
            print(done.stderr[-3000:])
        failed += done.returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
