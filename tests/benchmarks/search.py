"""What `modelcut search` finds, against recipes made by hand; whether its promise holds; its speed.

    python tests/benchmarks/search.py CASE [--networks NAME …] [--trials N] [--time T] [--keep]
    python tests/benchmarks/search.py --table      # what was kept, as `modelcut docs benchmarks`

Cases:

    by-hand   the recipes of `recipes/` on each network: the smallest `.mcut` within the limit
    smallest  the search, for the smallest `.mcut` within the limit
    int8      the export to int8 alone, as a `.tflite`
    fastest   the search, for the lowest latency of a `.tflite` within the limit
    lenet     the search, for the rows of `lenet.py` (--networks 5-fashion …)
    budget    ten seeds on the demo: does the promised limit hold on the test data?
    unseen    the same where the candidates are measured on half of the test data, which the
              network was not trained with, and the limit is judged on the other half
    enough    the same with as many as tell the limit: LeNet-300-100 on Fashion-MNIST, and 10,000 of
              the 20,000 images that it was not trained with
    untrained the same as budget where no step trains: all of the training data measures
    workers   trials of one worker and of two in the same time, on the demo
    parts     what part of a trial's time each of its steps takes, on the demo

The limit is half a point of accuracy (`--drop`). Networks: demo; lenet-5 and depthwise (Fashion-
MNIST, trained by `lenet.py` and `few_bits.py` on 50,000 images; the other 10,000 validate); speech
(inaSpeechSegmenter's CNN for speech and music, with the sounds of `tests/sounds.py`, half of which
are test data). `--seed` is that of the search. `--keep` writes the raw figures with their
conditions to search.json beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "search"
KEPT = Path(__file__).with_suffix(".json")
DEMO = ROOT / "modelcut" / "demo"
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

WITHOUT_TRAINING = (
    "cutoff", "deep-compression", "half", "int4-no-training", "int8", "prune", "small",
)  # fmt: skip
"""Recipes for any network."""


@dataclass(frozen=True)
class Network:
    """What is searched for.

    Attributes:
        model, train, test: its files.
        validate: samples that it was not trained with; None: a part of `train` validates.
        flags: how the data is read.
        recipes: those of `recipes/` that were made for it, besides the ones for any network.
    """

    model: Path
    train: Path
    test: Path
    flags: tuple[str, ...]
    recipes: tuple[str, ...] = ()
    validate: Path | None = None


def network(name: str) -> Network:
    """The network of this name, trained or fetched where it is not there yet."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if name == "demo":
        files = (DEMO / part for part in ("digits.h5", "digits_train.csv", "digits_test.csv"))
        return Network(*files, ("--scale", "1/16"), ("demo",))
    if name == "speech":
        import materials

        (model,) = materials.models("inaSpeechSegmenter==0.6.8")
        return Network(model, *speech(), ("--label", "label"))
    import lenet

    flags = ("--label", "label", "--scale", "1/255")
    row = lenet.ROWS["300-100-fashion" if name == "dense" else "5-fashion"]
    (train, validate), (_, test) = lenet.tables(row.data, choose=True), lenet.tables(row.data)
    if name == "depthwise":
        import few_bits
        from materials import images

        model = few_bits.trained(name, 0, images(row.data), lenet.SPLIT)
        return Network(model, train, test, flags, validate=validate)
    model = lenet.dense(row, 0, choose=True)
    return Network(model, train, test, flags, (row.recipe,), validate)


def speech() -> tuple[Path, Path]:
    """Every other window of the sounds in each of two files."""
    import sounds

    paths = CACHE / "speech_train.csv", CACHE / "speech_test.csv"
    if not all(path.exists() for path in paths):
        head, *rows = sounds.rows().read_text(encoding="utf-8").splitlines()
        order = np.random.default_rng(0).permutation(len(rows))
        for index, path in enumerate(paths):
            lines = [head, *(rows[at] for at in sorted(order[index::2]))]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def modelcut(*arguments: object) -> float:
    """Runs a command; a gate that failed is no error here. Returns wall seconds."""
    command = [sys.executable, "-m", "modelcut", *map(str, arguments), "--quiet", "--force"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    began = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, cwd=CACHE)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)}: ended with {done.returncode}")
    return time.perf_counter() - began


def report_of(output: Path) -> dict[str, Any]:
    """The numbers of a report that are kept."""
    report = json.loads(output.with_suffix(".report.json").read_text(encoding="utf-8"))
    evaluation = report["evaluation"]
    before, after = (evaluation[part]["metrics"]["accuracy"] for part in ("before", "after"))
    failed = output.with_name(f"{output.stem}.failed{output.suffix}")  # a gate did not hold
    size = (output if output.exists() else failed).stat().st_size
    found = {"bytes": size, "before": before, "after": after}
    latency = evaluation["after"].get("latency")
    if latency:
        found["latency_ms"] = latency["median_ms"]
    return {**found, "lost": round(before - after, 5)}


def by_hand(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Each recipe that goes with a network."""
    net = network(name)
    found: dict[str, Any] = {}
    for recipe in asked.recipes or (*WITHOUT_TRAINING, *net.recipes):
        output = CACHE / f"{name}-{recipe}.mcut"
        data = ("--train", net.train) if recipe.startswith("lenet") else ()
        data = ("--calibrate", net.train) if recipe == "int4-no-training" else data
        place = ROOT / "recipes" / f"{recipe}.yaml"
        seconds = modelcut("run", net.model, "-r", place, *net.flags, *data, "--test", net.test,
                           "-o", output, "--keep-on-failure")  # fmt: skip
        found[recipe] = {**report_of(output), "seconds": round(seconds, 1)}
    within = {key: one for key, one in found.items() if one["lost"] <= asked.drop + 1e-9}
    best = min(within, key=lambda key: within[key]["bytes"])
    return {"recipes": found, "best": best, **found[best]}


def searched(
    net: Network,
    output: Path,
    asked: argparse.Namespace,
    *more: object,
    seed: int | None = None,
    drop: float | None = None,
    validate: Path | None = None,
    training: bool = True,
) -> dict[str, Any]:
    """One search."""
    record = output.with_suffix(".search.json")
    for old in (record, output):
        old.unlink(missing_ok=True)
    bound = ("--time", asked.time) if asked.time else ()
    validate = validate or net.validate
    data = ("--train", net.train, *(("--validate", validate) if validate else ()))
    if not training:
        data = ("--validate", net.train)
    seconds = modelcut(
        *("search", net.model, *data, "--test", net.test, *net.flags),
        *("--max-accuracy-drop", asked.drop if drop is None else drop),
        *("--seed", asked.seed if seed is None else seed, "--confidence", asked.confidence),
        *("-o", output, "--trials", asked.trials, *bound, "--restart", *more),
    )
    told = json.loads(record.read_text(encoding="utf-8"))
    trials = told["trials"]
    found: dict[str, Any] = {
        "version": told["modelcut"],
        "trials": len(trials),
        "given_up": sum(trial["pruned"] for trial in trials),
        "failed": sum(bool(trial["error"]) for trial in trials),
        "seconds": round(seconds, 1),
        "search_seconds": round(told["seconds"]["search"], 1),
        "trial_seconds": round(told["seconds"]["trials"], 1),
        "samples": told["validation"]["samples"],
        "sure": told["sure"],
    }
    if told["chosen"] is None:
        return {**found, "chosen": None}
    chosen = next(trial for trial in trials if trial["number"] == told["chosen"])
    return {
        **found,
        "chosen": told["chosen"],
        "validation_lost": chosen["measured"]["accuracy_drop"],
        "recipe": chosen["recipe"]["steps"],
        **report_of(output),
    }


def smallest(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The smallest `.mcut` that is found."""
    return searched(network(name), CACHE / f"{_seeded(name, asked)}-searched.mcut", asked)


def _seeded(name: str, asked: argparse.Namespace) -> str:
    return f"{name}-seed-{asked.seed}" if asked.seed else name


def int8(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The export to int8 without any step."""
    net, output = network(name), CACHE / f"{_seeded(name, asked)}-int8.tflite"
    recipe = CACHE / "int8.yaml"
    recipe.write_text("steps: []\nexport: {type: int8}\n", encoding="utf-8")
    modelcut("run", net.model, "-r", recipe, *net.flags, "--calibrate", net.train, "--test",
             net.test, "-o", output)  # fmt: skip
    return report_of(output)


def fastest(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The fastest `.tflite` that is found, timed in turn with the one of int8 alone."""
    net, output = network(name), CACHE / f"{_seeded(name, asked)}-fastest.tflite"
    found = searched(net, output, asked, "--minimize", "latency_ms")
    if found["chosen"] is not None:
        int8(name, asked)
        found["in_turn_ms"] = in_turn(output, CACHE / f"{_seeded(name, asked)}-int8.tflite")
    return found


def in_turn(*paths: Path, rounds: int = 15, calls: int = 200) -> list[float]:
    """Milliseconds of a call of each `.tflite` on one thread: medians of alternating rounds."""
    from ai_edge_litert.interpreter import Interpreter

    nets = []
    for path in paths:
        one = Interpreter(str(path), num_threads=1)
        one.allocate_tensors()
        for given in one.get_input_details():
            one.set_tensor(given["index"], np.zeros(given["shape"], given["dtype"]))
        one.invoke()
        nets.append(one)
    times: list[list[float]] = [[] for _ in nets]
    for _ in range(rounds):
        for net, found in zip(nets, times, strict=True):
            began = time.perf_counter()
            for _ in range(calls):
                net.invoke()
            found.append(1000 * (time.perf_counter() - began) / calls)
    return [round(float(np.median(found)), 5) for found in times]


def of_lenet(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """A row of `lenet.py`, found by search: the same networks, the same errors."""
    import lenet

    row = lenet.ROWS[name]
    (train, validate), (_, test) = lenet.tables(row.data, choose=True), lenet.tables(row.data)
    flags = ("--label", "label", "--scale", "1/255")
    model = lenet.dense(row, asked.original, choose=True)
    net = Network(model, train, test, flags, validate=validate)
    kept = lenet.kept()[name]["seeds"]["0"]
    # The limit is on the drop: as much as today's recipe lost.
    drop = max(0.0, round(kept["error"] - kept["dense"], 2)) / 100
    drop = max(drop, row.error / 100 if row.lost else (row.error - kept["dense"]) / 100)
    output = CACHE / f"lenet-{_seeded(name, asked)}.mcut"
    found = searched(net, output, asked, drop=round(drop, 5))
    if found["chosen"] is not None:
        parameters = kept["bytes"] * kept["ratio"]
        found["ratio"] = round(parameters / found["bytes"], 1)
    origin = {"original": asked.original} if asked.original else {}
    return {**found, "limit": round(drop, 5), "by_hand": kept["ratio"], **origin}


def budget(
    name: str, asked: argparse.Namespace, kind: str = "budget", **data: Any
) -> dict[str, Any]:
    """One seed: what was promised, and what the test data says."""
    net = network("dense" if kind == "enough" else "demo")
    if kind in ("unseen", "enough"):
        aside = [net.test] if net.validate is None else [net.validate, net.test]
        validation, test = halves(aside, int(name))
        net, data = replace(net, test=test), {"validate": validation}
    found = searched(net, CACHE / f"{kind}-{name}.mcut", asked, seed=int(name), **data)
    if found["chosen"] is not None:
        found["held"] = found["lost"] <= asked.drop + 1e-9
    return {**found, "limit": asked.drop}


def halves(files: list[Path], seed: int) -> list[Path]:
    """The rows of some CSV files in two others."""
    tables = [path.read_text(encoding="utf-8").splitlines() for path in files]
    (head, *_), rows = tables[0], [row for table in tables for row in table[1:]]
    order = np.random.default_rng(seed).permutation(len(rows))
    paths = [CACHE / f"{files[-1].stem}-{seed}-{part}.csv" for part in range(2)]
    for part, one in enumerate(paths):
        lines = [head, *(rows[at] for at in sorted(order[part::2]))]
        one.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def unseen(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One seed, measured on samples that the network was not trained with."""
    return budget(name, asked, "unseen")


def enough(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One seed, measured on so many of them that they tell the limit."""
    return budget(name, asked, "enough")


def untrained(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One seed, where no step trains."""
    return budget(name, asked, "untrained", training=False)


SHORT = """
steps:
  - finetune: straight_through
    steps: {range: [300, 400]}
    validation: 0
    mask: dynamic
    prune: {sparsity: {range: [0.5, 0.95]}, end: 0.5}
    distill: {weight: 0.7, temperature: 4}
  - quantize: cluster
    values: {choose: [6, 8, 12, 16, 24]}
"""
"""A space of trials that take seconds each, so that many of them can be counted."""


def workers(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """So many workers for the time."""
    asked.trials, asked.time = 1000, asked.time or "100s"
    space = CACHE / "short.yaml"
    space.write_text(SHORT, encoding="utf-8")
    more = ("-r", space, "--workers", name)
    found = searched(network("demo"), CACHE / f"workers-{name}.mcut", asked, *more)
    return {**found, "per_minute": round(60 * found["trials"] / found["search_seconds"], 2)}


def parts(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each step of the recipe that a search has found, with what is around them."""
    net = network(name)
    recipe = CACHE / f"{name}-searched.recipe.yaml"
    if not recipe.exists():
        smallest(name, asked)
    output = CACHE / f"{name}-parts.mcut"
    modelcut("run", net.model, "-r", recipe, *net.flags, "--train", net.train, "--test", net.test,
             "-o", output)  # fmt: skip
    report = json.loads(output.with_suffix(".report.json").read_text(encoding="utf-8"))
    return {"seconds": report["seconds"]}


CASES = {
    "by-hand": (by_hand, ["demo", "lenet-5", "depthwise", "speech"]),
    "smallest": (smallest, ["demo", "lenet-5", "depthwise", "speech"]),
    "int8": (int8, ["demo", "lenet-5", "depthwise", "speech"]),
    "fastest": (fastest, ["demo", "lenet-5", "depthwise", "speech"]),
    "lenet": (of_lenet, ["5-fashion"]),
    "budget": (budget, [str(seed) for seed in range(10)]),
    "unseen": (unseen, [str(seed) for seed in range(10)]),
    "enough": (enough, [str(seed) for seed in range(10)]),
    "untrained": (untrained, [str(seed) for seed in range(10)]),
    "workers": (workers, ["1", "2"]),
    "parts": (parts, ["demo"]),
}


def kept() -> dict[str, Any]:
    """The figures that were kept, by case and name."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}


def table(found: dict[str, Any]) -> str:
    """What was kept, as Markdown; of several seeds the median, and from where to where."""
    lines = [
        "| network | best by hand | bytes | lost | search | bytes | lost | seeds | trials | s |",
        "|---|---|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for name, seeds in _by_name(found.get("smallest", {})).items():
        hand = found.get("by-hand", {}).get(name)
        left = ["not measured", "", ""]
        if hand:
            left = [f"`{hand['best']}`", f"{hand['bytes']:,}", _points(hand["lost"])]
        own = [each for each in seeds if each["chosen"] is not None]
        right = ["none", "", ""]
        if own:
            usual = _median(own, "bytes")
            smaller = "" if not hand else f"{hand['bytes'] / usual:.2f}× smaller"
            right = [smaller, _spread(own, "bytes", "{:,.0f}"), _lost(own)]
        lines.append(f"| {' | '.join([name, *left, *right, *_effort(seeds)])} |")
    lines += ["", "| network | int8 alone, ms | found, ms | faster | lost | seeds | trials | s |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, seeds in _by_name(found.get("fastest", {})).items():
        own = [each for each in seeds if each["chosen"] is not None]
        if own:
            pairs = [each["in_turn_ms"] for each in own]
            mine, other = (float(np.median([pair[at] for pair in pairs])) for at in (0, 1))
            ratios = [{"ratio": pair[1] / pair[0]} for pair in pairs]
            shown = [f"{other:.4f}", f"{mine:.4f}", _spread(ratios, "ratio", "{:.2f}×"), _lost(own)]
            lines.append(f"| {' | '.join([name, *shown, *_effort(seeds)])} |")
    lines += ["", "| row | by hand | found | limit on the drop | lost | seeds | trials | s |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, seeds in _by_name(found.get("lenet", {})).items():
        own = [each for each in seeds if each["chosen"] is not None]
        shown = ["none", _points(seeds[0]["limit"]), ""]
        if own:
            shown = [_spread(own, "ratio", "{:.1f}×"), shown[1], _lost(own)]
        shown = [f"{seeds[0]['by_hand']}×", *shown, *_effort(seeds)]
        lines.append(f"| {' | '.join([name, *shown])} |")
    for case in ("budget", "unseen", "enough", "untrained"):
        lines += _promises(case, found.get(case, {}))
    if pair := found.get("workers"):
        lines += ["", "| workers | trials | s of the search | s of the trials | a minute |"]
        lines.append("|---|--:|--:|--:|--:|")
        lines += [
            f"| {name} | {own['trials']} | {own['search_seconds']} | {own['trial_seconds']} | "
            f"{own['per_minute']} |"
            for name, own in pair.items()
        ]
    return "\n".join(lines)


def _by_name(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The results of all seeds, by what they are of."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in sorted(results):
        found.setdefault(name.partition("-seed-")[0], []).append(results[name])
    return found


def _median(results: list[dict[str, Any]], name: str) -> float:
    return float(np.median([each[name] for each in results]))


def _spread(results: list[dict[str, Any]], name: str, form: str) -> str:
    """The median of the seeds, and the least and the most."""
    values = sorted(each[name] for each in results)
    shown = form.format(_median(results, name))
    ends = f" ({form.format(values[0])} to {form.format(values[-1])})"
    return shown + (ends if len(values) > 1 else "")


def _lost(results: list[dict[str, Any]]) -> str:
    points = [{"lost": 100 * each["lost"]} for each in results]
    return _spread(points, "lost", "{:.2f}")


def _effort(seeds: list[dict[str, Any]]) -> list[str]:
    return [str(len(seeds)), _spread(seeds, "trials", "{:.0f}"), f"{_median(seeds, 'seconds'):.0f}"]


def _promises(case: str, seeds: dict[str, Any]) -> list[str]:
    """Whether the limit held, by seed."""
    if not seeds:
        return []
    lines = [
        "",
        f"`{case}`:",
        "",
        "| seed | bytes | lost, validation | lost, test | limit | sure | held |",
    ]
    lines.append("|---|--:|--:|--:|--:|---|---|")
    for name, own in seeds.items():
        if own["chosen"] is None:
            lines.append(f"| {name} | none found | | | {_points(own['limit'])} | | |")
            continue
        lines.append(
            f"| {name} | {own['bytes']:,} | {_points(own['validation_lost'])} | "
            f"{_points(own['lost'])} | {_points(own['limit'])} | "
            f"{'yes' if own['sure'] else 'no'} | {'yes' if own['held'] else 'no'} |"
        )
    return lines


def _points(drop: float) -> str:
    return f"{100 * drop:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", nargs="?", choices=CASES)
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="or seeds, rows, workers")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--time", default="", metavar="T", help="such as 30m")
    parser.add_argument("--drop", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--original", type=int, default=0, help="seed of the network of `lenet`")
    parser.add_argument("--confidence", type=float, default=0.9, help="that the limit holds")
    parser.add_argument("--keep", action="store_true", help=f"the result in {KEPT.name}")
    parser.add_argument("--recipes", nargs="+", help="of by-hand: only these")
    parser.add_argument("--table", action="store_true", help="print what was kept")
    asked = parser.parse_args()
    if asked.table:
        print(table(kept()))
        return
    if asked.case is None:
        parser.error("which case?")
    measure, names = CASES[asked.case]
    for name in asked.networks or names:
        found = measure(name, asked)
        found["conditions"] = {
            "day": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
            "load": round(os.getloadavg()[0], 1),
            "asked": f"--trials {asked.trials} --time {asked.time or 'none'} "
            f"--confidence {asked.confidence}",
        }
        print(asked.case, name, json.dumps(found), flush=True)
        if asked.keep:
            all_ = kept()
            all_.setdefault(asked.case, {})[_seeded(name, asked)] = found
            KEPT.write_text(json.dumps(all_, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
