"""One training in one process, on two devices, and in two processes on loopback."""

import json
import re
import socket
import time

import numpy as np
import pytest
from processes import begin, end

from modelcut.cli import main
from modelcut.errors import ExitCode
from modelcut.formats import registry

RECIPE = """\
version: 1
data: {label: label}
steps:
  - finetune:
      steps: 24
      batch_size: 31                # no two equal shares
      optimizer: sgd
      learning_rate: 0.05
      prune: {sparsity: 0.6, end: 0.5}
      distill: {weight: 0.3}
      regularize: {l2: 1.e-3}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a small network with a batch normalization, rows, and a recipe."""
    import keras

    folder = tmp_path_factory.mktemp("scale")
    keras.utils.set_random_seed(3)
    layers = keras.layers
    keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(24, activation="relu", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dense(3, activation="softmax"),
        ]
    ).save(folder / "model.keras")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 8)).round(3)
    labels = (rows @ rng.normal(size=(8, 3))).argmax(axis=1)
    lines = [",".join([*map(str, r), str(label)]) for r, label in zip(rows, labels, strict=True)]
    header = ",".join([*(f"x{i}" for i in range(8)), "label"])
    (folder / "rows.csv").write_text("\n".join([header, *lines]) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def arguments(work, output, *more):
    job = ["run", work / "model.keras", "-r", work / "recipe.yaml", "--train", work / "rows.csv"]
    return [str(part) for part in (*job, "-o", work / output, "--force", *more)]


def weights(path):
    return {t.name: t.pull()[0] for t in registry.open_model(path).tensors}


@pytest.fixture(scope="module")
def alone(work):
    """What one process makes of it."""
    with pytest.raises(SystemExit) as ended:
        main.main(arguments(work, "alone.keras", "--distribute", "none", "-q"))
    assert ended.value.code == 0
    return weights(work / "alone.keras")


def check_same(found, expected):
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name] == 0, values == 0, err_msg=name)
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


def cluster(count):
    """TF_CONFIG of each worker, on ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        for index in range(count)
    ]


def test_two_workers_give_what_one_gives(work, alone):
    both = [begin(arguments(work, f"two-{c['task']['index']}.keras"), config=c) for c in cluster(2)]
    (chief, chief_said), (other, other_said) = end(both)
    assert (chief, other) == (0, 0), chief_said + other_said
    assert chief_said == ""
    assert re.fullmatch(
        r"modelcut: worker 1: done; the chief, worker 0, has written .*two-1.keras\n", other_said
    )
    # Each was told another name: only the chief's is there, and nothing half-written.
    assert not list(work.glob("two-1*"))
    assert not list(work.glob(".*.part"))
    check_same(weights(work / "two-0.keras"), alone)


@pytest.mark.slow  # five processes train
def test_dropout_on_two_workers(work):
    """Its noise is not that of one process, but the same each time, and the workers stay alike."""
    import keras

    keras.utils.set_random_seed(4)
    layers = keras.layers
    body = [layers.Dense(24, activation="relu"), layers.Dropout(0.5)]
    last = layers.Dense(3, activation="softmax")
    keras.Sequential([keras.Input((8,)), *body, last]).save(work / "noisy.keras")
    recipe = work / "noisy.yaml"
    # Before the second training, the workers hold their weights against each other.
    one = "  - finetune: {steps: 12, batch_size: 32, validation: 0, learning_rate: 0.01}\n"
    recipe.write_text("version: 1\ndata: {label: label}\nsteps:\n" + one + one)

    def words(output):
        rows = ("--train", work / "rows.csv")
        return ["run", work / "noisy.keras", "-r", recipe, *rows, "-o", work / output]

    processes = [
        begin(words(f"noisy-{turn}-{config['task']['index']}.keras"), config=config)
        for turn in range(2)
        for config in cluster(2)
    ]
    processes.append(begin(words("noisy-alone.keras")))
    for code, said in end(processes):
        assert code == 0, said
    first, again = (work / f"noisy-{turn}-0.keras" for turn in range(2))
    assert first.read_bytes() == again.read_bytes()
    mine, alone = weights(first), weights(work / "noisy-alone.keras")
    assert any(not np.allclose(mine[name], alone[name], atol=1e-3) for name in alone)


def test_two_devices_give_what_one_gives(work, alone):
    process = begin(arguments(work, "devices.keras", "--distribute", "mirrored"), devices=2)
    [(code, said)] = end([process])
    assert code == 0, said
    check_same(weights(work / "devices.keras"), alone)


@pytest.mark.slow  # two processes train
def test_ranges_of_activations_on_two_devices(work):
    """They are of the whole batch, not of a device's part of it."""
    recipe = work / "rounded.yaml"
    finetune = "{steps: 6, batch_size: 31, validation: 0, activations: {bits: 8}}"
    recipe.write_text(f"version: 1\ndata: {{label: label}}\nsteps:\n  - finetune: {finetune}\n")
    found = []
    for count in (1, 2):
        words = arguments(work, f"rounded-{count}.keras")
        words[words.index("-r") + 1] = str(recipe)
        process = begin(
            [*words, "--distribute", "mirrored" if count > 1 else "none"], devices=count
        )
        found.append(process)
    for code, said in end(found):
        assert code == 0, said
    reports = [json.loads((work / f"rounded-{n}.report.json").read_text()) for n in (1, 2)]
    alone, both = (r["steps"][0]["facts"]["activations"]["ranges"] for r in reports)
    assert alone.keys() == both.keys()
    for name, ends in alone.items():
        np.testing.assert_allclose(both[name], ends, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_dies_ends_the_others(work, victim):
    configs = cluster(2)
    long = work / "long.yaml"
    long.write_text(RECIPE.replace("steps: 24", "steps: 10000000"))
    job = [
        arguments(work, "dead.keras") if index == victim else arguments(work, "left.keras")
        for index in range(2)
    ]
    for words in job:
        words[words.index("-r") + 1] = str(long)
    both = [
        begin(job[index], config=configs[index], die_at=5 if index == victim else 0)
        for index in range(2)
    ]
    both[victim].wait(timeout=400)
    start = time.monotonic()
    ended = end(both, seconds=200)
    assert time.monotonic() - start < 120
    assert ended[victim][0] == -9
    code, said = ended[1 - victim]
    assert code == ExitCode.PEER, said
    assert said.count("\n") == 1
    assert "lost" in said
    assert not list(work.glob("dead*")) + list(work.glob("left*"))
    # SIGKILL leaves a chief no time to take away its hidden drafts; nobody else has any.
    drafts = list(work.glob(".*.part"))
    assert all(f".{both[victim].pid}-" in draft.name for draft in drafts)
    assert not drafts or victim == 0
    for draft in drafts:
        draft.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "what"), [(["--seed", "7"], "recipe"), (["--train", "other.csv"], "CSV for --train")]
)
def test_workers_that_disagree(work, more, what):
    text = (work / "rows.csv").read_text()
    (work / "other.csv").write_text(text[: text.rstrip().rfind("\n") + 1])
    more = [str(work / part) if part.endswith(".csv") else part for part in more]
    both = [
        begin(arguments(work, "odd.keras", *(more if c["task"]["index"] else [])), config=c)
        for c in cluster(2)
    ]
    for code, said in end(both):
        assert code == ExitCode.USAGE
        assert f"worker 1 has another {what} than the chief" in said
        assert said.count("\n") == 1
    assert not list(work.glob("odd*"))


def test_what_does_not_go_together(work, capsys, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for words, expected in (
        (("--distribute", "multiworker"), "TF_CONFIG names no cluster"),
        (("--distribute", "mirrored"), "TensorFlow sees 0 GPU"),
        (("--distribute", "some"), "is not auto, none, mirrored or multiworker"),
        (("--distribute", "mirrored", "--dry-run"), "a dry run is one process"),
    ):
        with pytest.raises(SystemExit) as ended:
            main.main(arguments(work, "no.keras", *words))
        assert ended.value.code == ExitCode.USAGE
        assert expected in capsys.readouterr().err
    words = ("--sparsity", "0.5", "-o", str(work / "no.keras"), "--distribute", "mirrored")
    with pytest.raises(SystemExit) as ended:
        main.main(["prune", str(work / "model.keras"), *words])
    assert ended.value.code == ExitCode.USAGE
    assert "no step of the recipe trains" in capsys.readouterr().err
