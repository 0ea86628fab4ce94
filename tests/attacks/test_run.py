"""What may happen around a run: signals, full disks, closed pipes, links, odd places and names."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from toys import MODELS

from modelcut.errors import Stopped

MODEL = MODELS / "keras3_sequential.h5"
CALL = [sys.executable, "-m", "modelcut"]
PRUNE = ["--sparsity", "0.5", "-o"]


def run(*arguments, **options):
    options = {"capture_output": True, "text": True, "timeout": 120, **options}
    return subprocess.run([*CALL, *map(str, arguments)], **options)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_input_is_never_the_output(tmp_path, modelcut, in_one_line):
    path = tmp_path / "m.h5"
    shutil.copyfile(MODEL, path)
    raw = path.read_bytes()
    os.link(path, tmp_path / "hard.h5")
    (tmp_path / "soft.h5").symlink_to(path)
    (tmp_path / "sub").mkdir()
    for place in ("m.h5", "hard.h5", "soft.h5", "sub/../m.h5"):
        for force in ([], ["--force"]):
            in_one_line(modelcut("prune", path, *PRUNE, tmp_path / place, *force), 2)
    in_one_line(modelcut("prune", path, "--sparsity", "0.5"), 2, words="-o")
    assert path.read_bytes() == raw
    said = modelcut("prune", path, "--sparsity", "0.5", "--in-place", "-q")
    assert said.code == 0, said
    assert path.read_bytes() != raw
    assert (tmp_path / "hard.h5").read_bytes() == raw


def test_only_our_own_files_are_replaced(tmp_path, modelcut, in_one_line):
    out = tmp_path / "o.h5"
    shutil.copyfile(MODEL, out)
    in_one_line(modelcut("prune", MODEL, *PRUNE, out), 2, words="--force")
    assert modelcut("prune", MODEL, *PRUNE, out, "--force", "-q").code == 0
    assert modelcut("prune", MODEL, *PRUNE, out, "-q").code == 0
    assert files(tmp_path) == ["o.h5", "o.report.html", "o.report.json", "o.report.md"]


@pytest.mark.parametrize("place", ["gone/o.h5", ".", "..", "gs://bucket/o.h5", "o.xyz"])
def test_places_that_are_none(place, tmp_path, modelcut, in_one_line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_one_line(modelcut("prune", MODEL, *PRUNE, place), 2)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["gs://b/m.h5", "s3://b/m.h5", "hf://a/b", "https://example.org/m.h5", "file:///m.h5"]
)
def test_nothing_is_fetched(name, tmp_path, modelcut, in_one_line):
    in_one_line(modelcut("prune", name, *PRUNE, tmp_path / "o.h5"), 2, words="only local files")


def test_endless_and_special_files(tmp_path, modelcut, in_one_line):
    os.mkfifo(tmp_path / "pipe")
    for name in ("/dev/zero", tmp_path / "pipe", tmp_path):
        in_one_line(modelcut("prune", name, *PRUNE, tmp_path / "o.h5"), 2)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model that takes about a second to prune."""
    import h5py
    import numpy as np

    path = tmp_path_factory.mktemp("large") / "large.h5"
    values = np.random.default_rng(0).normal(size=(1000, 1000)).astype("float32")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [f"d{i}".encode() for i in range(20)]
        for i in range(20):
            group = file.create_group(f"d{i}")
            group.attrs["weight_names"] = [b"kernel:0"]
            group["kernel:0"] = values
    return path


def test_a_signal_that_becomes_another_error(modelcut, tmp_path, monkeypatch, in_one_line):
    """As in h5py, where one that comes in the middle of C code ends as a SystemError."""
    from modelcut.job import pipeline

    def struck(*_):
        try:
            raise Stopped(signal.SIGTERM)
        except Stopped as error:
            raise SystemError("returned a result with an exception set") from error

    monkeypatch.setattr(pipeline, "fold", struck)
    in_one_line(modelcut("prune", MODEL, *PRUNE, tmp_path / "o.h5"), 143, words="terminated")
    assert files(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_behind(number, code, tmp_path, large):
    child = subprocess.Popen(
        [*CALL, "prune", str(large), *PRUNE, str(tmp_path / "o.h5")],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not files(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert err.count("\n") == 1
    assert files(tmp_path) == []


def test_killed_at_any_time_the_output_is_whole_or_absent(tmp_path, large):
    for delay in (0.3, 0.6, 0.9, 1.2):
        child = subprocess.Popen(
            [*CALL, "prune", str(large), *PRUNE, str(tmp_path / "o.h5"), "-q", "--no-report"]
        )
        time.sleep(delay)
        child.kill()
        child.wait()
        if (tmp_path / "o.h5").exists():
            assert run("inspect", tmp_path / "o.h5").returncode == 0
    assert run("prune", large, *PRUNE, tmp_path / "o.h5", "-q").returncode == 0


def test_a_limit_on_the_size_of_files(tmp_path, large):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

    done = run("prune", large, *PRUNE, tmp_path / "o.h5", preexec_fn=limit)
    assert done.returncode == 4, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert files(tmp_path) == []


def test_a_full_disk(tmp_path, large):
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        done = run("prune", large, *PRUNE, place / "o.h5")
        assert done.returncode == 4, done
        assert done.stderr.count("\n") == 1, done.stderr
        assert files(place) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_folder_without_rights(tmp_path, modelcut):
    if os.geteuid() == 0:
        place = "/proc/o.h5"  # root may write anywhere but here
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        place = tmp_path / "locked" / "o.h5"
    said = modelcut("prune", MODEL, *PRUNE, place)
    assert said.code == 4, said
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("stream", ["1>&-", "2>&-", "| head -1", "1>&- 2>&-", "> /dev/full"])
def test_whoever_listens_the_work_is_done(stream, tmp_path):
    call = f"'{sys.executable}' -m modelcut prune {MODEL} --sparsity 0.5"
    line = f"{call} -o {tmp_path}/o.h5 {stream}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert (tmp_path / "o.h5").exists()
    assert run("inspect", tmp_path / "o.h5").returncode == 0


def test_a_plain_locale_and_odd_names(tmp_path):
    path = tmp_path / "modèle ☃.h5"
    shutil.copyfile(MODEL, path)
    plain = {**os.environ, "LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = run("prune", path, *PRUNE, tmp_path / "été.h5", env=plain)
    assert done.returncode == 0, done
    assert (tmp_path / "été.h5").exists()
    done = run("inspect", tmp_path / "été.h5", env=plain)
    assert done.returncode == 0, done


def test_modules_in_the_folder_are_not_imported(tmp_path):
    for name in ("numpy", "yaml", "h5py", "pydantic", "typing_extensions"):
        (tmp_path / f"{name}.py").write_text("open('ran.marker', 'w')\n")
    command = shutil.which("modelcut", path=os.path.dirname(sys.executable))
    done = subprocess.run(
        [command, "prune", str(MODEL), *PRUNE, "o.h5"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done
    assert not (tmp_path / "ran.marker").exists()


def test_a_missing_temporary_folder(tmp_path):
    lost = {**os.environ, "TMPDIR": str(tmp_path / "gone")}
    done = run("prune", MODELS / "keras3_cnn.keras", *PRUNE, tmp_path / "o.keras", env=lost)
    assert done.returncode in (0, 4), done
    assert "Traceback" not in done.stderr


def test_two_writers_of_one_file(tmp_path, large):
    line = [*CALL, "prune", str(large), *PRUNE, str(tmp_path / "o.h5"), "-q"]
    both = [subprocess.Popen(line) for _ in range(2)]
    assert {child.wait(120) for child in both} <= {0, 2}
    assert run("inspect", tmp_path / "o.h5").returncode == 0
    assert not [name for name in files(tmp_path) if name.endswith(".part")]


def test_an_input_that_changes_meanwhile(tmp_path, large):
    path = tmp_path / "m.h5"
    shutil.copyfile(large, path)
    child = subprocess.Popen(
        [*CALL, "prune", str(path), *PRUNE, str(tmp_path / "o.h5")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(files(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"changed")
    _, err = child.communicate(timeout=60)
    assert child.returncode in (0, 2)
    assert err.count("\n") == (child.returncode != 0), err
    assert (tmp_path / "o.h5").exists() == (child.returncode == 0)
    assert not [name for name in files(tmp_path) if name.endswith(".part")]


@pytest.mark.parametrize("name", ["m.h5", "hard.md", "soft.md", "o.h5", "o.report.md", "new.keras"])
def test_the_summary_is_appended_to_text_only(name, tmp_path, modelcut, in_one_line):
    shutil.copyfile(MODEL, tmp_path / "m.h5")
    os.link(tmp_path / "m.h5", tmp_path / "hard.md")
    (tmp_path / "soft.md").symlink_to(tmp_path / "m.h5")
    raw, before = (tmp_path / "m.h5").read_bytes(), files(tmp_path)
    call = ("prune", tmp_path / "m.h5", *PRUNE, tmp_path / "o.h5", "--summary", tmp_path / name)
    in_one_line(modelcut(*call), 2, words=name)
    assert (tmp_path / "m.h5").read_bytes() == raw
    assert files(tmp_path) == before


def test_the_summary_is_not_appended_to_other_inputs(tmp_path, modelcut, in_one_line):
    table, script = tmp_path / "rows", tmp_path / "layers"
    other, binary = tmp_path / "other.csv", tmp_path / "binary.md"
    for path in (table, script, other):
        path.write_text("a,label\n1,0\n")
    binary.write_bytes(b"text\n\0\1")
    call = ("eval", MODEL, "--test", table, "--custom-objects", script, "--summary")
    for place, words in (
        (table, "is the input"),
        (script, "is the input"),
        (other, "a .csv file"),
        (binary, "not a text file"),
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "page.md", "folder does not exist"),
    ):
        raw = None if not place.is_file() else place.read_bytes()
        in_one_line(modelcut(*call, place), 2, words=words)
        assert raw is None or place.read_bytes() == raw
    pack = ("pack", MODEL, "-o", tmp_path / "p.mcut", "--summary", tmp_path / "p.mcut")
    in_one_line(modelcut(*pack), 2)


def test_the_recipe_is_no_output(tmp_path, modelcut, in_one_line):
    recipe = tmp_path / "o.report.json"
    text = '{"version": 1, "steps": [{"prune": "magnitude", "sparsity": 0.5}]}'
    recipe.write_text(text)
    call = ("run", MODEL, "--recipe", recipe, "-o", tmp_path / "o.h5", "--force")
    in_one_line(modelcut(*call), 2, words="is the input")
    assert recipe.read_text() == text
    assert files(tmp_path) == ["o.report.json"]
