"""What a search finds in simulated worlds: thousands of trials in seconds, none of which trains.

    python tests/benchmarks/search_simulated.py [--worlds N] [--trials N …]

The search's own code chooses the points, in the default space of LeNet-5; only its trials are
simulated. In a world, each group of layers loses accuracy by a power of the fraction of weights
that is kept, from a place of its own near one rung of the ladder; fewer centroids, shorter
trainings and other learning rates than the world's lose more. Two trainings of a recipe differ by
0.08 points (standard deviation). A drop is measured 0.12 points off by the candidate's chance, and
0.12 by the original's, which all candidates of a world share; the log loss tells it within 0.05.

For each number of trials it prints the geometric mean of the bytes of the chosen candidates, the
mean of their drops on all samples, and how many of these exceed the limit of 0.3 points, of which a
confidence of 0.9 allows a tenth.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

from modelcut.metrics.limits import Gates
from modelcut.tuner.choice import choose
from modelcut.tuner.default import Facts, space_of
from modelcut.tuner.loop import Loop
from modelcut.tuner.request import Request, goal_of
from modelcut.tuner.sampler import open_sampler
from modelcut.tuner.trial import Result
from modelcut.tuner.workers import Here

LIMIT, SAMPLES = 0.003, 10_000
CHANCE = 0.0012
"""Standard deviation of a drop by what a candidate, and by what the original, has by chance."""
GOAL = goal_of((), (), Gates(max_accuracy_drop=LIMIT), 0.9)
WEIGHTS = {"conv1": 500, "conv2": 25_000, "dense": 400_000, "digit": 5_000, "biases": 580}
FACTS = Facts(
    train=True,
    samples=True,
    suffix=".mcut",
    objective="bytes",
    convolutions=True,
    depthwise=False,
    separable=False,
    channels=False,
    first="conv1",
    last="digit",
    parameters=sum(WEIGHTS.values()),
)


class World:
    """How a network bears what is done to it."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.seed = seed
        space, first = space_of(FACTS)
        at = first.ladder[int(draw.uniform(6, 17))]
        usual = kept(space.at(at).to_dict()["steps"][0]["prune"])
        self._borne = {name: part * math.exp(draw.gauss(0, 0.5)) for name, part in usual.items()}
        shares = [draw.gammavariate(1.5, 1) for _ in range(len(WEIGHTS) + 1)]
        scaled = (LIMIT * share / sum(shares) for share in shares)
        self._loss = dict(zip((*WEIGHTS, "values"), scaled, strict=True))
        self._power = {name: draw.uniform(0.8, 1.6) for name in WEIGHTS}
        self._values = draw.uniform(4, 10)
        self._rates = [math.log(rate) + draw.gauss(0, 0.5) for rate in (1.5e-3, 7e-4)]
        self.luck = draw.gauss(0, CHANCE)

    def measure(self, steps: list[dict[str, Any]]) -> tuple[float, int]:
        """The drop that a recipe costs on average, and its bytes."""
        if len(steps) == 1:  # eight bits without a training
            return 0.0, sum(WEIGHTS.values())
        first, cluster, second = steps[:3]
        parts = {name: max(part, 1e-4) for name, part in kept(first["prune"]).items()}
        drop = sum(
            self._loss[name] * (part / self._borne[name]) ** -self._power[name]
            for name, part in parts.items()
        )
        drop += self._loss["values"] * (cluster["values"] / self._values) ** -1.5
        drop *= 1 + 6 * cluster["entropy_weight"]
        drop *= (first["steps"] / 1200) ** -0.25 * (second["steps"] / 600) ** -0.2
        for step, best in zip((first, second), self._rates, strict=True):
            drop *= 1 + 0.2 * (math.log(step["learning_rate"]) - best) ** 2
        bits = 0.85 * math.log2(cluster["values"]) * (1 - 4 * cluster["entropy_weight"])
        size = sum(
            WEIGHTS[name] * part * (bits + 0.9 * math.log2(1 / part) + 0.8) / 8
            for name, part in parts.items()
        )
        return drop - LIMIT / 2, 300 + int(size)


def kept(prune: dict[str, Any]) -> dict[str, float]:
    """The fraction of weights that a recipe keeps, by group."""
    own = prune["overrides"]
    sparsity = {
        "conv1": own["path:conv1"],
        "conv2": own["class:*Conv*?"],
        "dense": prune["sparsity"],
        "digit": own["path:digit"],
        "biases": own["role:bias?"],
    }
    return {name: 1 - value for name, value in sparsity.items()}


class Simulated:
    """Does trials in a world; the same recipe gives the same result."""

    def __init__(self, world: World) -> None:
        self._world = world

    def run(self, recipe: Any, number: int, fraction: float = 1.0, worker: str = "") -> Result:
        del number, worker
        draw = random.Random(json.dumps([recipe["steps"], self._world.seed], sort_keys=True))
        drop, size = self._world.measure(recipe["steps"])
        drop += draw.gauss(0, 0.0008) + LIMIT * (fraction < 1)
        measured = drop + self._world.luck + draw.gauss(0, CHANCE)
        error = CHANCE * math.sqrt(2)
        upper = measured + GOAL.errors(LIMIT, SAMPLES) * error
        excess, doubt = (max(0.0, each - LIMIT) / LIMIT for each in (measured, upper))
        shown = {
            "real": drop,
            "accuracy_drop": measured,
            "drop_error": error,
            "log_loss": 0.26 + 3 * (drop + draw.gauss(0, 0.0005)),
            "samples": SAMPLES,
        }
        return Result((size,), excess, doubt, 1.0, fraction=fraction, measured=shown)


class NoJournal:
    """Keeps nothing."""

    def add(self, trial: object) -> None:
        del trial

    def remove(self) -> None:
        pass


def searched(seed: int, count: int) -> Result:
    """What a search of so many trials chooses in a world."""
    space, first = space_of(FACTS)
    files = {name: Path(name) for name in ("model", "output", "train", "validation")}
    request = Request(space=space, goal=GOAL, trials=count, seed=seed, first=first, **files)
    trials: list[Any] = []
    sampler, workers = open_sampler(GOAL, seed, count), Here(Simulated(World(seed)))
    Loop(request, sampler, NoJournal(), workers, trials, lambda _: None).run()  # type: ignore
    found, _ = choose(trials, GOAL)
    assert found is not None
    return found.result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=120)
    parser.add_argument("--trials", type=int, nargs="+", default=[8, 14, 20, 40])
    asked = parser.parse_args()
    print("| trials | bytes | mean drop, points | beyond the limit |\n|--:|--:|--:|--:|")
    for count in asked.trials:
        found = [searched(seed, count) for seed in range(asked.worlds)]
        size = statistics.geometric_mean(each.values[0] for each in found)
        drops = [each.measured["real"] for each in found]
        beyond = sum(drop > LIMIT for drop in drops)
        drop = 100 * statistics.mean(drops)
        print(f"| {count} | {size:,.0f} | {drop:.3f} | {beyond} of {len(found)} |", flush=True)


if __name__ == "__main__":
    main()
