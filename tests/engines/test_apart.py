"""Networks in a process of their own: what ends that process is one line here."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from toys import MODELS, saved_model

import modelcut as package
from modelcut import engines
from modelcut.engines import Bounds
from modelcut.engines.litert import network as litert_network
from modelcut.engines.litert import runner
from modelcut.engines.process import pool, wire
from modelcut.engines.process.host import Host
from modelcut.engines.saved_model import network as engine
from modelcut.errors import InputError, ResourceError

TFLITE = Path(__file__).parents[1] / "data" / "tflite" / "float32.tflite"
KINDS = ["keras3", "tf_keras", "module", "v1"]


def opened(path):
    return engines.open_network(path, "saved_model", suffix="")


def rows_for(network, path):
    """A CSV that a golden SavedModel takes."""
    names, cells = [], []
    for spec in network.inputs:
        width = int(np.prod([n or 1 for n in spec.shape]))
        names += [f"{spec.name}_{i}" for i in range(width)] if width > 1 else [spec.name]
        cells += ["red" if spec.dtype == "string" else str(i % 3) for i in range(width)]
    lines = [",".join([*cells, str(row % 3)]) for row in range(12)]
    path.write_text("\n".join([",".join([*names, "label"]), *lines]))
    return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Sound networks that stay open: the process that holds them serves the damaged ones too."""
    folder = tmp_path_factory.mktemp("sound")
    return {kind: opened(saved_model(kind, folder)) for kind in KINDS}


def test_messages_arrive_as_they_were_sent(tmp_path):
    arrays = [
        np.arange(12, dtype="float32").reshape(3, 4)[:, ::2],
        np.array(2.5),
        np.zeros((0, 3), "int16"),
        np.array([True, False]),
        np.array([1, 2], ml_dtypes.bfloat16),
        np.array([["röt", ""], ["x", "blue"]], object),
        np.zeros((0,), object),
    ]
    with (tmp_path / "pipe").open("w+b") as file:
        wire.send(file, {"a": 1}, arrays)
        file.seek(0)
        message, found = wire.receive(file)
        with pytest.raises(EOFError):
            wire.receive(file)
    assert message == {"a": 1}
    for sent, got in zip(arrays, found, strict=True):
        assert (sent.shape, sent.dtype) == (got.shape, got.dtype)
        if sent.dtype == object:
            sent = np.array([item.encode() for item in sent.ravel()], object).reshape(sent.shape)
        np.testing.assert_array_equal(sent, got)


def test_one_tensorflow_serves_all(kept):
    assert len({id(network._host) for network in kept.values()}) == 1


def interpreter():
    return Host("LiteRT", "litert.runner", str(TFLITE), "9")


def test_a_process_ends_with_what_uses_it():
    host = interpreter()
    host.ask({}, limit=9, doing="load")
    process = host._process
    assert process.poll() is None
    del host
    assert process.poll() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (signal.SIGSEGV, InputError, r"LiteRT crashed \(SIGSEGV\) on it"),
        (signal.SIGKILL, ResourceError, "want of memory"),
        (signal.SIGXCPU, InputError, "no end on it, and was stopped after 9 s of CPU"),
        (signal.SIGALRM, InputError, "no end on it"),
        (signal.SIGTERM, InputError, r"crashed \(SIGTERM\)"),
    ],
)
def test_how_a_process_ended_is_said(number, kind, words):
    host = interpreter()
    os.kill(host._process.pid, number)
    with pytest.raises(kind, match=words):
        host.ask({}, limit=9, doing="load")
    assert host.ended


def test_a_process_that_takes_too_much_memory_is_ended(monkeypatch):
    monkeypatch.setattr("modelcut.engines.process.host._LOOK_MS", 0)  # before it has answered
    host = interpreter()
    with pytest.raises(ResourceError, match=r"LiteRT was stopped: it took .* may take 1e-09 GB"):
        host.ask({}, limit=9, doing="load", bounds=Bounds(memory=1))
    assert host.ended


def test_a_fork_leaves_the_process_to_its_parent():
    host = interpreter()
    child = os.fork()
    if child == 0:
        host.close()
        os._exit(host.usable)
    assert os.waitpid(child, 0)[1] == 0
    assert host.usable


def test_who_gave_up_waiting_does_not_get_the_answer_of_another(monkeypatch):
    host = interpreter()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(host, "_watch", stop)
    with pytest.raises(KeyboardInterrupt):
        host.ask({}, limit=9, doing="load")
    assert host.ended


def test_a_process_ends_with_its_parent():
    call = (
        "import os, sys; from modelcut.engines.process.host import Host; "
        f"host = Host('LiteRT', 'litert.runner', {str(TFLITE)!r}, '9'); "
        "host.ask({}, limit=9, doing='load'); print(host._process.pid, flush=True); "
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", call], check=False, capture_output=True)
    process = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{process}/statm").exists():
            return
        time.sleep(0.1)
    raise AssertionError("it still runs")


def test_a_keras_network_that_ends_its_process_is_an_error_of_the_python_api(monkeypatch):
    hosts = []

    class Struck(Host):
        def ask(self, *arguments, **more):
            hosts.append(self)
            os.kill(self._process.pid, signal.SIGABRT)
            return super().ask(*arguments, **more)

    monkeypatch.setattr(pool, "_kept", [])
    monkeypatch.setattr(pool, "Host", Struck)
    test = Path(engines.__file__).parents[1] / "demo" / "digits_test.csv"
    with pytest.raises(
        InputError, match=r"digits.h5: TensorFlow crashed \(SIGABRT\) on it"
    ) as told:
        package.evaluate(test.with_name("digits.h5"), test)
    assert told.value.exit_code == 2
    assert hosts[0].ended
    assert pool.tensorflow("keras") is not hosts[0]


def test_one_engine_serves_job_after_job(monkeypatch, tmp_path, kept, modelcut):
    starts = []

    class Counted(Host):
        def __init__(self, *arguments):
            starts.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(pool, "Host", Counted)
    model = MODELS / "keras3_sequential.h5"
    lines = ["a,b,c,d,e,f,g,h,label", *(f"{i},1,2,0,{i % 5},1,0,1,{i % 3}" for i in range(20))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    rows = {"test": tmp_path / "rows.csv"}
    package.prune(model, tmp_path / "a.h5", sparsity=0.5, **rows)
    package.quantize(model, tmp_path / "b.mcut", bits=8, **rows)
    package.evaluate(tmp_path / "a.h5", **rows)
    package.compare(model, tmp_path / "a.h5", tmp_path / "b.mcut", **rows)
    for sparsity in (0.2, 0.4):
        recipe = f"steps:\n- prune: magnitude\n  sparsity: {sparsity}\n"
        (tmp_path / f"{sparsity}.yaml").write_text(recipe)
    both = ("-r", tmp_path / "0.2.yaml", "-r", tmp_path / "0.4.yaml")
    said = modelcut("run", model, *both, "--test", rows["test"], "-o", tmp_path / "c.h5", "-q")
    assert said.code == 0, said
    assert not starts  # the SavedModels' own TensorFlow serves them too
    host = kept["v1"]._host
    gc.collect()
    assert host.networks == len(KINDS)  # the others are gone
    assert host.loaded > len(KINDS)


def test_all_cores_share_the_rows_of_a_tflite(monkeypatch):
    rng, arrays, found = np.random.default_rng(0), [], []
    for cores in (1, 3):
        monkeypatch.setattr(runner, "cores", lambda cores=cores: cores)
        one = runner._Runner(str(TFLITE), 9)
        monkeypatch.setattr(runner.serve, "wind", lambda _: None)
        shape = (203, *one._inputs[0]["shape"][1:])
        arrays = arrays or [rng.normal(size=shape).astype("float32")]
        found.append(one.run(arrays, exact=False)[1])
        assert len(one._all) == cores
    for one, three in zip(*found, strict=True):
        assert len(one) == 203
        np.testing.assert_array_equal(one, three)


def test_a_crash_in_the_middle_of_an_evaluation(tmp_path, modelcut, monkeypatch, kept):
    path = saved_model("v1", tmp_path)
    predict = engine.SavedModelNetwork.predict

    def struck(self, inputs, **more):
        os.kill(self._host._process.pid, signal.SIGSEGV)
        return predict(self, inputs, **more)

    monkeypatch.setattr(pool, "_kept", [])  # not the one that other tests ask
    monkeypatch.setattr(engine.SavedModelNetwork, "predict", struck)
    rows = rows_for(kept["v1"], tmp_path / "rows.csv")
    said = modelcut("eval", path, "--test", rows, "-q")
    assert said.code == 2, said
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"modelcut: {path}: TensorFlow crashed (SIGSEGV) on it")


def endless(folder):
    """A SavedModel that no row comes out of, and rows for it."""
    import tensorflow as tf

    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def serve(x):
        one = tf.reduce_sum(x)
        return tf.while_loop(lambda y: y < 1e9, lambda y: y * 0.5 + 0.5, [one])[0] + x

    tf.saved_model.save(module, str(folder / "m"), signatures=serve)
    (folder / "rows.csv").write_text("a,b,label\n1,2,0\n3,4,1\n")
    return folder / "m", folder / "rows.csv"


def test_a_loop_without_an_end(tmp_path, modelcut, monkeypatch):
    path, rows = endless(tmp_path)
    monkeypatch.setattr(pool, "_kept", [])
    monkeypatch.setattr(engine, "ROW_SECONDS", 1)
    said = modelcut("eval", path, "--test", rows, "-q")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert (
        "TensorFlow came to no end on it, and was stopped after 1 s of CPU on one row" in said.err
    )


def assert_stopped(said, who, out):
    assert said.code == 2, said
    assert said.err.count("\n") == 1
    assert f"{who}, and was stopped" in said.err
    assert not out.exists()


def test_makers_of_files_come_to_an_end(tmp_path, modelcut, monkeypatch):
    path, out = MODELS / "keras3_cnn.h5", tmp_path / "out"
    monkeypatch.setattr(engine, "STAGE_SECONDS", 0.01)
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", out, "-q")
    assert_stopped(said, "Keras's export came to no end on it", out)
    out = tmp_path / "out.tflite"
    monkeypatch.setattr(litert_network, "STAGE_SECONDS", 0.01)
    said = modelcut("export", path, "-o", out, "-q")
    assert_stopped(said, "LiteRT's converter came to no end on it as float32", out)


@pytest.mark.slow
def test_a_calibration_without_an_end(tmp_path, modelcut, monkeypatch):
    path, rows = endless(tmp_path)
    out = tmp_path / "out.tflite"
    monkeypatch.setattr(litert_network, "ROW_SECONDS", 1)
    call = ("export", path, "-o", out, "--type", "int8", "--calibrate", rows, "-q")
    assert_stopped(modelcut(*call), "LiteRT's converter came to no end on it as int8", out)


def test_who_only_waits_is_ended_too():
    call = (
        "from modelcut.engines.process import serve; import time; serve.wind(0.05); time.sleep(60)"
    )
    ended = subprocess.run([sys.executable, "-c", call], check=False, timeout=50)
    assert ended.returncode == -signal.SIGALRM


@pytest.mark.parametrize("command", ["eval", pytest.param("export", marks=pytest.mark.slow)])
def test_nothing_that_lies_about_is_imported(command, tmp_path, kept):
    """The children too import what is installed; TensorFlow is started in them alone."""
    for name in ("numpy", "tensorflow", "ml_dtypes", "ai_edge_litert"):
        (tmp_path / f"{name}.py").write_text("open('imported.marker', 'w')\nraise ImportError\n")
    path = saved_model("v1", tmp_path)
    rows = rows_for(kept["v1"], tmp_path / "rows.csv")
    start = (
        "import sys; sys.path.remove('')\n"
        "from modelcut.cli import main as cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert 'tensorflow' not in sys.modules"
    )
    call = {"eval": ["--test", rows], "export": ["-o", tmp_path / "m.tflite"]}[command]
    arguments = [sys.executable, "-c", start, command, str(path), *map(str, call), "-q"]
    subprocess.run(arguments, cwd=tmp_path, check=True, timeout=400)
    assert not (tmp_path / "imported.marker").exists()


def test_errors_name_the_file(kept):
    network = kept["v1"]
    with pytest.raises(InputError, match=r"v1: the network cannot run on these samples"):
        network.predict({spec.name: np.zeros((2, 99), "float32") for spec in network.inputs})


def flips(kept, tmp_path, modelcut, kinds, name, times, seed):
    """Evaluates SavedModels with flipped bits; how often it ended with which code."""
    rng = np.random.default_rng(seed)
    codes: dict[int, int] = {}
    for kind in kinds:
        path = saved_model(kind, tmp_path)
        rows = rows_for(kept[kind], tmp_path / "rows.csv")
        raw = (path / name).read_bytes()
        for _ in range(times):
            data = bytearray(raw)
            for at in rng.integers(0, len(raw), int(rng.integers(1, 5))):
                data[at] ^= 1 << int(rng.integers(8))
            (path / name).write_bytes(data)
            said = modelcut("eval", path, "--test", rows, "-q")
            assert said.code in (0, 1, 2, 3, 4), said
            assert said.err.count("\n") == (1 if said.code else 0), said
            codes[said.code] = codes.get(said.code, 0) + 1
    return codes


VALUES = "variables/variables.data-00000-of-00001"


@pytest.mark.parametrize(
    ("name", "times"), [("saved_model.pb", 10), ("variables/variables.index", 3), (VALUES, 3)]
)
def test_flipped_bits_are_one_line_or_a_result(name, times, kept, tmp_path, modelcut):
    codes = flips(kept, tmp_path, modelcut, KINDS, name, times, 1)
    assert codes.get(2)
    assert (0 in codes) == (name == "saved_model.pb")  # what has a checksum is always noticed


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_flipped_bits(kind, kept, tmp_path, modelcut):
    codes = flips(kept, tmp_path, modelcut, [kind], "saved_model.pb", 200, 2)
    assert {0, 2} <= set(codes)
    flips(kept, tmp_path, modelcut, [kind], VALUES, 30, 3)
