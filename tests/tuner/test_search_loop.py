"""The search on results that are computed, without a network."""

from __future__ import annotations

import contextlib
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from modelcut.errors import (
    InfeasibleError,
    InputError,
    RecipeError,
    ResourceError,
    Stopped,
    UsageError,
)
from modelcut.metrics.limits import Gates
from modelcut.recipe.space import Space
from modelcut.recipe.yaml_text import loads
from modelcut.tuner import journal, loop, sampler
from modelcut.tuner import search as searches
from modelcut.tuner.choice import front_of
from modelcut.tuner.goal import Goal, Objective
from modelcut.tuner.ladder import First
from modelcut.tuner.record import Trial
from modelcut.tuner.request import Request, goal_of
from modelcut.tuner.trial import Result, fractions, scaled
from modelcut.tuner.workers import Here

DEMO = Path(__file__).parents[2] / "modelcut" / "demo"
TEXT = """
steps:
  - prune: magnitude
    sparsity: {range: [0.0, 0.9]}
  - quantize: linear
    bits: {choose: [2, 4, 8]}
"""
GATES = Gates(max_accuracy_drop=0.02)


class Computed:
    """Small files lose accuracy; the best that loses 0.02 has 4 bits and sparsity 0.6."""

    def __init__(self, fail=(), stop_after=None):
        self.calls = []
        self._fail = fail
        self._stop_after = stop_after

    def run(self, recipe, number, fraction=1.0, worker=""):
        if self._stop_after is not None and len(self.calls) >= self._stop_after:
            raise Stopped(2)
        self.calls.append((number, fraction))
        if number in self._fail:
            return Result(error="no such layer", fraction=fraction)
        steps = {key: value for step in recipe["steps"] for key, value in step.items()}
        sparsity, bits = steps["sparsity"], steps["bits"]
        size = int(1000 * (1 - sparsity) * bits)
        drop = max(0.0, sparsity - 0.6) / 5 + {2: 0.1, 4: 0.02, 8: 0.0}[bits]
        excess = max(0.0, drop - 0.02) / 0.02
        shown = {"bytes": size, "accuracy_drop": drop, "samples": 100}
        doubt = max(0.0, drop - 0.01) / 0.02
        return Result((size,), excess, doubt, 0.5, fraction=fraction, measured=shown)


@pytest.fixture
def request_for(tmp_path):
    def made(text=TEXT, **fields):
        fields = {"validation": DEMO / "digits_test.csv", "trials": 30, **fields}
        goal = fields.pop("goal", None) or goal_of((), (), GATES, 0.9)
        space = Space.of(loads(text, "r.yaml"))
        output = tmp_path / "best.mcut"
        return Request(DEMO / "digits.h5", space, goal, output, **fields)

    return made


@pytest.fixture
def runner(monkeypatch):
    """Puts results that are computed in the place of trials, and of the final run."""

    def use(computed):
        @contextmanager
        def opened(*_, **__):
            yield Here(computed)

        monkeypatch.setattr(searches, "open_workers", opened)
        monkeypatch.setattr(searches, "_made", lambda *args: args)
        monkeypatch.setattr(searches, "_tested", lambda *_: [])
        return computed

    return use


def record_of(request):
    return json.loads(searches.places_of(request.output)["search"].read_text())


def test_the_smallest_within_the_limit(request_for, runner):
    computed = runner(Computed())
    request = request_for()
    _, _, recipe, facts, _ = searches.search(request)
    record = record_of(request)
    assert len(record["trials"]) == 30
    best = min(t["values"][0] for t in record["trials"] if t["sure"])
    assert record["trials"][record["chosen"]]["values"] == [best]
    assert facts["chosen"] == record["chosen"]
    assert facts["trials"] == 30
    assert facts["front"] == record["front"]
    kept = [trial for trial in record["trials"] if not trial["error"]]
    assert [trial["number"] for trial in facts["tried"]] == [trial["number"] for trial in kept]
    assert recipe.head.gates == GATES.asked_with_data(), "there is no test data"
    text = searches.places_of(request.output)["recipe"].read_text()
    assert recipe.to_yaml() in text
    assert not request.folder.exists()
    assert len(computed.calls) <= 30


LADDER = tuple(
    {"steps.0.sparsity": round(0.1 + 0.05 * rung, 2), "steps.1.bits": 2} for rung in range(15)
)


def test_known_points_and_a_ladder_come_first(request_for, runner):
    computed = runner(Computed())
    known = {"steps.0.sparsity": 0.05, "steps.1.bits": 1}
    request = request_for(first=First((known,), LADDER), trials=8)
    searches.search(request)
    trials = record_of(request)["trials"]
    first = [
        [step.get("sparsity", step.get("bits")) for step in t["recipe"]["steps"]] for t in trials
    ]
    assert first[:5] == [[0.05, 4], [0.45, 8], [0.65, 8], [0.55, 8], [0.6, 8]]
    assert [t["rung"] for t in trials[:6]] == [None, 7, 11, 9, 10, None]
    assert len(computed.calls) == 8


UNTRAINED = ({"prune": "magnitude", "sparsity": 0.1}, {"quantize": "linear", "bits": 8})


@pytest.mark.parametrize("optuna", [True, False])
def test_where_nothing_else_holds_a_recipe_that_trains_nothing_is_tried(
    request_for, runner, monkeypatch, optuna
):
    if not optuna:
        monkeypatch.setattr(sampler, "find_spec", lambda _: None)
    runner(Computed())
    text = TEXT.replace("[0.0, 0.9]", "[0.8, 0.9]").replace("[2, 4, 8]", "[2, 4]")
    searches.search(request_for(text, first=First(untrained=UNTRAINED), trials=3))
    record = record_of(request_for())
    *others, last = record["trials"]
    assert len(others) == 3
    assert all(trial["excess"] > 0 and trial["point"] for trial in others)
    steps = last["recipe"]["steps"]
    assert (steps[0]["sparsity"], steps[1]["bits"]) == (0.1, 8)
    assert (last["point"], last["rung"], record["chosen"]) == ({}, None, 3)


def test_it_is_not_tried_where_another_one_holds(request_for, runner):
    runner(Computed())
    known = {"steps.0.sparsity": 0.05, "steps.1.bits": 1}
    searches.search(request_for(first=First((known,), untrained=UNTRAINED), trials=2))
    assert all(trial["point"] for trial in record_of(request_for())["trials"])


def test_it_is_tried_once_and_may_fail(request_for, runner):
    runner(Computed(fail=(0, 1, 2)))
    request = request_for(first=First(untrained=UNTRAINED), trials=2)
    with pytest.raises(InfeasibleError, match="every trial failed"):
        searches.search(request)
    assert len(record_of(request)["trials"]) == 3


def test_a_ladder_is_climbed_on_after_an_interrupt(request_for, runner):
    request = request_for(first=First((), LADDER), trials=8)
    runner(Computed())
    searches.search(request)
    whole = record_of(request)["trials"]
    for path in searches.places_of(request.output).values():
        path.unlink()
    runner(Computed(stop_after=2))
    with pytest.raises(Stopped):
        searches.search(request)
    runner(Computed())
    searches.search(request)
    again = record_of(request)["trials"]
    assert [t["recipe"] for t in again[:4]] == [t["recipe"] for t in whole[:4]]


def test_the_same_seed_gives_the_same_trials(request_for, runner):
    records = []
    for _ in range(2):
        runner(Computed())
        request = request_for()
        searches.search(request)
        records.append([t["recipe"] for t in record_of(request)["trials"]])
    assert records[0] == records[1]
    runner(Computed())
    request = request_for(seed=1)
    searches.search(request)
    assert [t["recipe"] for t in record_of(request)["trials"]] != records[0]


def test_no_trial_meets_the_limits(request_for, runner):
    runner(Computed())
    text = TEXT.replace("[2, 4, 8]", "[2]")
    request = request_for(text)
    with pytest.raises(InfeasibleError, match="none of 30 trials meets the limits") as caught:
        searches.search(request)
    assert caught.value.exit_code == 1
    assert record_of(request)["chosen"] is None
    assert not searches.places_of(request.output)["recipe"].exists()


def test_a_trial_that_fails_is_a_row(request_for, runner):
    runner(Computed(fail=(1, 2)))
    request = request_for()
    _, _, _, facts, _ = searches.search(request)
    errors = [t["error"] for t in record_of(request)["trials"]]
    assert errors.count("no such layer") == 2
    assert len(facts["tried"]) == 28  # the page shows those that gave something
    assert any("2 of 30 trials failed" in line for line in facts["warnings"])


def test_when_all_fail_it_ends_at_once(request_for, runner):
    computed = runner(Computed(fail=range(100)))
    request = request_for()
    with pytest.raises(InputError, match="first 5 trials failed: no such layer"):
        searches.search(request)
    assert len(computed.calls) == 5
    assert not request.folder.exists()


TRAINED = TEXT + "  - {finetune: straight_through, epochs: 9}\n"


@pytest.mark.parametrize("text", [TEXT, TRAINED], ids=["edits", "trainings"])
@pytest.mark.parametrize("sampler", ["Optuna", "random"])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(
    text, sampler, request_for, runner, monkeypatch
):
    if sampler == "random":
        monkeypatch.setattr("modelcut.tuner.sampler.find_spec", lambda _: None)
    request = request_for(text, first=First((), LADDER), train=DEMO / "digits_train.csv")
    runner(Computed(fail=(2, 17)))
    searches.search(request)
    whole = record_of(request)["trials"]
    for path in searches.places_of(request.output).values():
        path.unlink()
    for stop_after in (7, 6):
        runner(Computed(fail=(2, 17), stop_after=stop_after))
        with pytest.raises(Stopped):
            searches.search(request)
    assert not list(request.output.parent.glob(".*part"))
    # The line that was being written when it was killed is cut.
    with (request.folder / "trials.jsonl").open("a") as file:
        file.write('{"number": 13, "rec')
    runner(Computed(fail=(2, 17)))
    searches.search(request)
    record = record_of(request)
    assert record["seconds"]["resumed_trials"] >= 3
    assert record["trials"] == whole


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[1]",
        "7",
        "null",
        "noise",
        "",
        "[" * 5000,
        '{"number": ' + "9" * 5000 + "}",
        "NUMBER",
        "VALUES",
        "\udcff",
    ],
)
def test_a_damaged_journal_is_told(line, request_for, runner):
    runner(Computed(stop_after=3))
    request = request_for()
    with pytest.raises(Stopped):
        searches.search(request)
    path = request.folder / "trials.jsonl"
    first, *rest = path.read_text().splitlines()
    record = json.loads(first)
    line = {
        "NUMBER": json.dumps({**record, "number": "x"}),
        "VALUES": json.dumps({**record, "values": ["x"]}),
    }.get(line, line)
    path.write_text("\n".join([line, *rest, ""]), errors="surrogateescape")
    runner(Computed())
    with pytest.raises(InputError, match=r"trials.jsonl: is damaged.*--restart") as caught:
        searches.search(request)
    assert caught.value.exit_code == 2
    assert len(path.read_bytes().splitlines()) == 3


def test_a_journal_that_is_a_link_is_not_removed(request_for, runner, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "search.json").write_text("{}")
    request = request_for()
    request.folder.symlink_to(precious)
    runner(Computed())
    for use in (lambda: searches.search(request), lambda: journal.discard(request.folder)):
        with pytest.raises(UsageError, match="is a link"):
            use()
    assert [path.name for path in precious.iterdir()] == ["search.json"]


def test_two_searches_for_one_output(request_for, runner):
    request = request_for()

    class Meanwhile(Computed):
        def run(self, *arguments, **more):
            for use in (lambda: searches.search(request), lambda: journal.discard(request.folder)):
                with pytest.raises(UsageError, match="another search for this output is running"):
                    use()
            return super().run(*arguments, **more)

    runner(Meanwhile(stop_after=2))
    with pytest.raises(Stopped):
        searches.search(request)
    runner(Computed())
    searches.search(request)  # the lock has ended with the other
    assert len(record_of(request)["trials"]) == 30


def test_another_search_does_not_take_up_its_journal(request_for, runner):
    runner(Computed(stop_after=3))
    with pytest.raises(Stopped):
        searches.search(request_for())
    with pytest.raises(InputError, match="interrupted search with another goal"):
        searches.search(request_for(goal=goal_of((), (), Gates(max_accuracy_drop=0.1), 0.9)))
    with pytest.raises(InputError, match="interrupted search with another seed"):
        searches.search(request_for(seed=4))


def test_an_interrupt_may_keep_the_best(request_for, runner):
    runner(Computed(stop_after=12))
    request = request_for(keep_best=True)
    searches.search(request)
    record = record_of(request)
    assert record["interrupted"]
    assert len(record["trials"]) >= 12


def test_workers_end_while_the_best_model_is_made(request_for, runner, monkeypatch):
    runner(Computed())
    made, ended = threading.Event(), []

    @contextmanager
    def opened(*_, **__):
        yield Here(Computed())
        ended.append(made.wait(20))
        raise OSError("a worker process is gone already")

    def make(*args):
        made.set()
        return args

    monkeypatch.setattr(searches, "open_workers", opened)
    monkeypatch.setattr(searches, "_made", make)
    known = First(({"steps.0.sparsity": 0.05, "steps.1.bits": 2},))
    searches.search(request_for(trials=1, first=known))
    assert ended == [True], "it was waited for, and the model did not wait for it"


def test_what_cannot_be_searched(request_for, runner):
    runner(Computed())
    with pytest.raises(UsageError, match="nothing is open"):
        searches.search(request_for("steps: [{quantize: float16}]"))
    with pytest.raises(UsageError, match="the emptiest model would be the best"):
        searches.search(request_for(goal=goal_of((), (), Gates(), 0.9)))
    with pytest.raises(UsageError, match="measured on validation data"):
        searches.search(request_for(validation=None))
    with pytest.raises(UsageError, match="is the test data, too"):
        searches.search(request_for(test=DEMO / "digits_test.csv"))
    for workers in (0, -3, 10**20):
        with pytest.raises(UsageError, match=f"--workers: {workers}"):
            searches.search(request_for(workers=workers))
    for fraction in (0, 1, float("nan")):
        with pytest.raises(UsageError, match=f"--validation-fraction: {fraction}"):
            searches.search(request_for(fraction=fraction))
    many = "steps:\n" + "  - maybe: {prune: magnitude, sparsity: 0.5}\n" * 3000
    with pytest.raises(RecipeError, match="6,000 options in 3,000 steps are more than"):
        searches.search(request_for(many))
    with pytest.raises(UsageError, match="latency_ms"):
        goal_of(["size"], (), GATES, 0.9)


@pytest.mark.parametrize(
    ("objective", "parts"),
    # A ninth tells the size as well as a third does.
    [("bytes", {1 / 9}), ("log_loss_increase", {1 / 9, 1 / 3})],
)
def test_hopeless_trainings_are_given_up_early(request_for, runner, objective, parts):
    text = TEXT + "  - {finetune: straight_through, epochs: 9}\n"
    computed = runner(Computed())
    goal = goal_of((objective,), (), GATES, 0.9)
    request = request_for(text, train=DEMO / "digits_train.csv", trials=25, goal=goal)
    searches.search(request)
    trials = record_of(request)["trials"]
    pruned = [t for t in trials if t["pruned"]]
    assert pruned
    assert all(t["fraction"] < 1 for t in pruned)
    chosen = trials[record_of(request)["chosen"]]
    assert not chosen["pruned"]
    assert {fraction for _, fraction in computed.calls} == {*parts, 1.0}
    # Each call takes half a second; a trial counts all of its own.
    assert sum(t["seconds"] for t in trials) == len(computed.calls) / 2


def test_a_larger_file_than_the_best_is_not_trained_to_the_end(request_for, runner):
    text = TEXT + "  - {finetune: straight_through, epochs: 9}\n"
    computed = runner(Computed())
    careful = [{"steps.0.sparsity": sparsity, "steps.1.bits": 2} for sparsity in (0.5, 0.2, 0.6)]
    request = request_for(text, train=DEMO / "digits_train.csv", trials=3, first=First(careful))
    searches.search(request)
    first, larger, smaller = record_of(request)["trials"]
    assert (first["pruned"], larger["pruned"], smaller["pruned"]) == (False, True, False)
    assert [fraction for number, fraction in computed.calls if number == 1] == [1 / 9]


def test_no_longer_training_is_begun_when_the_time_is_over(request_for, runner, monkeypatch):
    text = TEXT + "  - {finetune: straight_through, epochs: 9}\n"
    computed = runner(Computed())
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(len(computed.calls)))
    points = [{"steps.0.sparsity": sparsity, "steps.1.bits": 2} for sparsity in (0.2, 0.5)]
    request = request_for(
        text, train=DEMO / "digits_train.csv", trials=9, seconds=3, first=First(points)
    )
    searches.search(request)
    # Two calls for the first, which is a whole one; the second is given up after its first.
    assert [fraction for _, fraction in computed.calls] == [1 / 9, 1.0, 1 / 9]
    assert [t["pruned"] for t in record_of(request)["trials"]] == [False, True]


def test_a_search_that_never_began_leaves_nothing(request_for, monkeypatch):
    def nowhere(*_, **__):
        raise ResourceError("tcp://nowhere:8786: no Dask cluster")

    monkeypatch.setattr(searches, "open_workers", nowhere)
    request = request_for()
    with pytest.raises(ResourceError):
        searches.search(request)
    assert not request.folder.exists()


def test_points_after_the_ladder_are_near_the_best(request_for, runner):
    runner(Computed())
    request = request_for(first=First((), LADDER), trials=20)
    searches.search(request)
    trials = record_of(request)["trials"]
    assert [t["rung"] is None for t in trials] == [False] * 4 + [True] * 16
    points = [t["point"] for t in trials]
    assert all(point not in points[:number] for number, point in enumerate(points))
    chosen = trials[record_of(request)["chosen"]]
    assert chosen["rung"] is None, "better than the ladder"
    assert sum(t["values"][0] < 1.1 * chosen["values"][0] for t in trials) > 5


def test_what_is_near_the_best_is_trained_at_once(request_for, runner):
    computed = runner(Computed())
    request = request_for(
        TRAINED, train=DEMO / "digits_train.csv", first=First((), LADDER), trials=44
    )
    searches.search(request)
    trials = record_of(request)["trials"]
    beside = [t["number"] for t in trials[:40] if t["rung"] is None and not t["error"]]
    assert len(beside) > 10
    fractions_ = {n: [part for number, part in computed.calls if number == n] for n in beside}
    assert all(parts in ([1.0], []) for parts in fractions_.values())
    later = [part for number, part in computed.calls if number >= 40]
    assert 1 / 9 in later, "the sampler's may be larger"


TRAINED_TWICE = """
steps:
  - prune: magnitude
    sparsity: {range: [0.0, 0.9]}
  - quantize: linear
    bits: {choose: [2, 4, 8]}
  - finetune: straight_through
    steps: {choose: [60, 200, 600]}
"""


class Longer(Computed):
    """The last training gets back a hundredth for each three times the batches."""

    def run(self, recipe, number, fraction=1.0, worker=""):
        found = super().run(recipe, number, fraction, worker)
        drop = (
            found.measured["accuracy_drop"]
            - {60: 0, 200: 0.01, 600: 0.02}[recipe["steps"][2]["steps"]]
        )
        excess = max(0.0, drop - 0.02) / 0.02
        measured = {**found.measured, "accuracy_drop": drop}
        return replace(found, excess=excess, doubt=excess, measured=measured)


def test_what_misses_the_limit_by_little_is_trained_longer(request_for, runner):
    runner(Longer())
    ladder = tuple(
        {"steps.0.sparsity": sparsity, "steps.1.bits": 1, "steps.2.steps": 0}
        for sparsity in (0.1, 0.3, 0.5, 0.62, 0.88)
    )
    first = First((), ladder, last="steps.2.steps")
    request = request_for(TRAINED_TWICE, train=DEMO / "digits_train.csv", trials=6, first=first)
    searches.search(request)
    record = record_of(request)
    lengths = [trial["recipe"]["steps"][2]["steps"] for trial in record["trials"]]
    assert [trial["rung"] for trial in record["trials"][:3]] == [2, 3, None]
    assert lengths[:3] == [60, 60, 200]  # 0.62 had lost 0.024
    assert record["trials"][2]["point"] == {**ladder[3], "steps.2.steps": 1}
    assert record["trials"][record["chosen"]]["values"][0] <= 1520


def test_what_was_passed_over_is_trained_longer(request_for, runner, monkeypatch):
    runner(Longer())
    # The second, smaller one holds by its measured drop, and is taken for lucky.
    monkeypatch.setattr(
        loop, "choose", lambda trials, _: (trials[0], True) if trials else (None, False)
    )
    ladder = tuple(
        {"steps.0.sparsity": sparsity, "steps.1.bits": 1, "steps.2.steps": 0}
        for sparsity in (0.1, 0.3, 0.5, 0.55, 0.88)
    )
    first = First((), ladder, last="steps.2.steps")
    request = request_for(TRAINED_TWICE, train=DEMO / "digits_train.csv", trials=6, first=first)
    searches.search(request)
    points = [trial["point"] for trial in record_of(request)["trials"]]
    assert points.index({**ladder[3], "steps.2.steps": 1}) > points.index(ladder[3])


class LongerYet(Longer):
    """Counts batches by tens, and by thirties where all trainings are three times as long."""

    def run(self, recipe, number, fraction=1.0, worker=""):
        prune, quantize, last = recipe["steps"]
        batches = last["steps"] // (30 if last["steps"] in (1800, 18000) else 10)
        return super().run(
            {"steps": [prune, quantize, {**last, "steps": batches}]}, number, fraction, worker
        )


@pytest.mark.parametrize(("seconds", "again"), [(None, True), (1e6, False)])
def test_what_is_trained_long_is_not_trained_longer_yet(seconds, again, request_for, runner):
    runner(LongerYet())
    text = TRAINED_TWICE.replace("[60, 200, 600]", "[600, 2000, 6000]")
    ladder = ({"steps.0.sparsity": 0.62, "steps.1.bits": 1, "steps.2.steps": 0},)
    fields = {"train": DEMO / "digits_train.csv", "trials": 2, "seconds": seconds}
    request = request_for(text, first=First((), ladder, last="steps.2.steps"), **fields)
    with contextlib.suppress(InfeasibleError):
        searches.search(request)
    first, second = record_of(request)["trials"]
    assert first["factor"] == (1 if seconds is None else 3)
    assert (second["point"] == {**ladder[0], "steps.2.steps": 1}) == again


def test_a_few_trials_in_much_time_are_long(request_for, runner):
    runner(Computed())
    fixed = TRAINED_TWICE.replace("{choose: [60, 200, 600]}", "600")
    ladder = tuple({"steps.0.sparsity": each, "steps.1.bits": 1} for each in (0.1, 0.3, 0.5, 0.7))
    fields = {"train": DEMO / "digits_train.csv", "first": First((), ladder), "trials": 3}
    searches.search(request_for(fixed, seconds=1000.0, **fields))
    steps = [trial["recipe"]["steps"][2]["steps"] for trial in record_of(request_for())["trials"]]
    assert steps == [1800] * 3


class Lucky(Computed):
    """The 21st trial is the smallest, and its log loss is that of one which loses 0.05."""

    def run(self, recipe, number, fraction=1.0, worker=""):
        found = super().run(recipe, number, fraction, worker)
        drop = found.measured["accuracy_drop"]
        more = {"log_loss": 0.3 + drop, "drop_error": 0.001}
        if number != 20:
            return replace(found, measured={**found.measured, **more})
        more = {"log_loss": 0.35, "drop_error": 0.001, "accuracy_drop": 0.0}
        return replace(found, values=(1,), excess=0, doubt=0, measured={**found.measured, **more})


def test_what_was_passed_over_is_told(request_for, runner):
    runner(Lucky())
    _, _, _, facts, _ = searches.search(request_for())
    record = record_of(request_for())
    assert record["chosen"] != 20
    assert record["trials"][20]["sure"]
    assert record["passed_over"] == [{"number": 20, "expected_drop": pytest.approx(0.05, abs=0.01)}]
    assert facts["passed_over"] == record["passed_over"]


class Heavy(Longer):
    """Has too many multiply-accumulates where little is pruned."""

    def run(self, recipe, number, fraction=1.0, worker=""):
        found = super().run(recipe, number, fraction, worker)
        macs = round(1000 * (1 - recipe["steps"][0]["sparsity"]))
        gate = {"name": "max_macs", "limit": 300, "value": macs, "held": macs <= 300}
        more = max(0, macs - 300) / 300
        return replace(found, excess=found.excess + more, doubt=found.doubt + more, gates=(gate,))


def test_no_training_makes_up_for_multiply_accumulates(request_for, runner):
    runner(Heavy())
    ladder = ({"steps.0.sparsity": 0.62, "steps.1.bits": 1, "steps.2.steps": 0},)
    goal = goal_of((), (), Gates(max_accuracy_drop=0.02, max_macs=300), 0.9)
    request = request_for(
        TRAINED_TWICE,
        train=DEMO / "digits_train.csv",
        trials=3,
        first=First((), ladder, last="steps.2.steps"),
        goal=goal,
    )
    with contextlib.suppress(InfeasibleError):
        searches.search(request)
    first, *others = record_of(request)["trials"]
    assert 0 < first["doubt"] < 0.5, "missed by little"
    assert {**ladder[0], "steps.2.steps": 1} not in [trial["point"] for trial in others]


class Two(Computed):
    """Tells the drop as a second objective."""

    def run(self, *arguments):
        found = super().run(*arguments)
        return replace(found, values=(*found.values, found.measured["accuracy_drop"]))


def test_a_front_is_left_to_the_sampler(request_for, runner, monkeypatch):
    runner(Two())
    monkeypatch.setattr(loop, "near", lambda *_: pytest.fail("there is no best one"))
    goal = goal_of(["bytes", "accuracy_drop"], (), GATES, 0.9)
    request = request_for(first=First((), LADDER), trials=8, goal=goal)
    searches.search(request)
    assert len(record_of(request)["trials"]) == 8


class Slow(Computed):
    """Takes 10 s, and 0.1 s for each batch."""

    def run(self, recipe, number, fraction=1.0, worker=""):
        found = super().run(recipe, number, fraction, worker)
        batches = sum(step.get("steps", 0) for step in recipe["steps"])
        return replace(found, seconds=10 + 0.1 * batches * fraction)


def test_how_long_trials_take_is_known_after_an_interrupt(request_for, runner):
    runner(Slow(stop_after=6))
    with pytest.raises(Stopped):
        searches.search(request_for(trials=9))
    runner(Slow())
    request = request_for(trials=9, seconds=4)
    searches.search(request)
    assert len(record_of(request)["trials"]) == 6, "less than half of another one fits"


def test_trainings_are_shortened_where_time_is_short(request_for, runner):
    text = TEXT + "  - {finetune: straight_through, steps: {choose: [900, 2700]}}\n"
    ladder = tuple({**point, "steps.2.steps": 1} for point in LADDER)
    fields = {"train": DEMO / "digits_train.csv", "seconds": 600, "first": First((), ladder)}
    computed = runner(Slow(stop_after=6))
    request = request_for(text, trials=6, **fields)
    with pytest.raises(Stopped):
        searches.search(request)
    assert computed.calls[:4] == [(0, 1 / 2700), (0, 60 / 2700), (0, 180 / 2700), (0, 1.0)]
    assert {fraction for _, fraction in computed.calls[4:]} == {1.0}, "only the first is probed"
    again = runner(Slow())
    searches.search(request)
    assert 1 / 2700 not in {fraction for _, fraction in again.calls}, "what was learned is kept"
    trials = record_of(request)["trials"]
    first, (factor,) = trials[0]["factor"], {trial["factor"] for trial in trials[1:]}
    assert first == pytest.approx(1 / 3, rel=0.01)
    assert factor == pytest.approx(110 / 270, rel=0.01), "as of the first"
    lengths = {trial["recipe"]["steps"][2]["steps"] for trial in trials[1:]}
    assert lengths <= {round(each * factor) for each in (900, 2700)}
    assert trials[0]["recipe"]["steps"][2]["steps"] == pytest.approx(900, rel=0.01)


def test_a_probe_that_would_take_longer_than_a_trial_is_left_out(request_for, runner):
    text = TEXT + "  - {finetune: straight_through, steps: 2700}\n"
    computed = runner(Slow())
    fields = {"train": DEMO / "digits_train.csv", "seconds": 120, "first": First((), LADDER)}
    searches.search(request_for(text, trials=6, **fields))
    # A sixth of the time is 20 s, 180 batches would take 28 s.
    assert computed.calls[:3] == [(0, 1 / 2700), (0, 60 / 2700), (0, 1.0)]
    assert record_of(request_for())["trials"][0]["factor"] == pytest.approx(100 / 2700, rel=0.01)


def test_a_recipe_that_failed_with_a_short_training_is_tried_again(request_for, runner):
    class Learns(Slow):
        """Loses nothing after 1,000 batches, and takes less time than its probes say."""

        def run(self, recipe, number, fraction=1.0, worker=""):
            found = super().run(recipe, number, fraction, worker)
            batches = sum(step.get("steps", 0) for step in recipe["steps"])
            good = batches >= 1000
            seconds = found.seconds / (3 if fraction == 1 else 1)
            return replace(found, excess=float(not good), doubt=float(not good), seconds=seconds)

    text = TEXT + "  - {finetune: straight_through, steps: {choose: [900, 2700]}}\n"
    ladder = tuple({**point, "steps.2.steps": 1} for point in LADDER)
    runner(Learns())
    fields = {"train": DEMO / "digits_train.csv", "seconds": 600, "first": First((), ladder)}
    request = request_for(text, trials=8, **fields)
    searches.search(request)
    first, second, *_ = record_of(request)["trials"]
    assert first["point"] == second["point"]
    assert (first["rung"], first["excess"], second["excess"]) == (None, 1, 0)
    assert second["rung"] is not None
    assert second["factor"] > 1.2 * first["factor"]


def test_a_search_that_is_resumed_with_less_time_learns_how_long_its_trainings_take(
    request_for, runner
):
    text = TEXT + "  - {finetune: straight_through, steps: {choose: [900, 2700]}}\n"
    ladder = tuple({**point, "steps.2.steps": 1} for point in LADDER)
    fields = {"train": DEMO / "digits_train.csv", "first": First((), ladder), "trials": 6}
    runner(Slow(stop_after=1))
    with pytest.raises(Stopped):
        searches.search(request_for(text, **fields))
    runner(Slow())
    request = request_for(text, seconds=600, **fields)
    searches.search(request)
    factors = [trial["factor"] for trial in record_of(request)["trials"]]
    assert factors[0] == 1
    assert max(factors[1:]) < 0.5


def test_shorter_trainings():
    recipe = {"steps": [{"prune": "magnitude"}, {"finetune": "straight_through", "epochs": 12}]}
    assert fractions(recipe) == (1 / 9, 1 / 3)
    assert scaled(recipe, 1 / 3)["steps"][1]["epochs"] == 4
    assert scaled(recipe, 1)["steps"] == recipe["steps"]
    assert fractions({"steps": [{"prune": "magnitude"}]}) == ()
    batches = {"steps": [{"finetune": "straight_through", "steps": 3600}]}
    assert fractions(batches) == (1 / 3,)
    assert scaled(batches, 1 / 3)["steps"][0]["steps"] == 1200
    few = {"steps": [{"finetune": "straight_through", "steps": 1800}]}
    assert fractions(few) == ()


def test_the_front_of_two_objectives():
    goal = Goal(
        (Objective.of("bytes", minimize=True), Objective.of("accuracy", minimize=False)), Gates()
    )
    values = [(100, 0.9), (50, 0.8), (120, 0.9), (50, 0.7), (10, 0.1)]
    trials = [Trial(i, {"steps": []}, Result(each, 0.0, 0.0)) for i, each in enumerate(values)]
    assert [t.number for t in front_of(trials, goal)] == [4, 1, 0]
    worse = Trial(9, {"steps": []}, Result((1, 0.99), 0.5))
    assert worse not in front_of([*trials, worse], goal)
