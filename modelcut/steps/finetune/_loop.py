"""The epochs of a training: rates, masks, validation, the best state, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from signal import SIGINT
from typing import TYPE_CHECKING, Any

import numpy as np

from modelcut.arrays.blocks import ahead
from modelcut.errors import InputError, ModelcutError, Stopped
from modelcut.runtime import Rows, Running, Runtime, Trainer

if TYPE_CHECKING:
    from modelcut.runtime import Keeper

_BLOCK_BYTES = 64 << 20
_SAY_SECONDS = 0.5


@dataclass(frozen=True)
class Schedule:
    """Number of steps, batch size and learning rates.

    Attributes:
        steps: total number of training steps.
        batch: batch size.
        rate: the largest learning rate.
        cosine: whether the rate decays along a cosine to zero (Loshchilov and Hutter 2017, eq. 5);
            otherwise it is constant.
        warmup: fraction of the steps over which the rate increases from zero.
        hold: fraction of the steps after which the rate begins to decay.
        refresh: steps between two updates of the masks.
        settled: fraction of the steps after which the result may be kept or the training stopped.
    """

    steps: int
    batch: int
    rate: float
    cosine: bool
    warmup: float
    hold: float
    refresh: int
    settled: float

    def rates(self, start: int, count: int) -> np.ndarray:
        """The learning rates of some steps."""
        progress = (np.arange(start, start + count) + 1) / max(1, self.steps)
        rising = progress / self.warmup if self.warmup > 0 else np.ones(count)
        after = max(self.warmup, self.hold)
        left = np.clip((progress - after) / max(1e-12, 1 - after), 0, 1)
        falling = 0.5 * (1 + np.cos(np.pi * left)) if self.cosine else np.ones(count)
        result: np.ndarray = self.rate * np.minimum(1, rising) * falling
        return result


@dataclass
class Course:
    """What happened during a training, as facts.

    Attributes:
        steps: number of training steps done.
        rows: number of samples per epoch.
        loss, right: loss and correct samples of the training part, one entry per epoch.
        judged: metrics of the validation part, one entry per epoch.
        best: number of the epoch whose state was kept, from 1; 0: the last one's.
        ended: why it ended.
    """

    steps: int = 0
    rows: int = 0
    loss: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    judged: list[dict[str, float]] = field(default_factory=list)
    best: int = 0
    ended: str = "all steps done"


@dataclass
class Position:
    """The position within a training.

    Attributes:
        epoch: number of the current epoch, from 0.
        waited: number of epochs without improvement on the validation samples.
        blocks, steps, rows: how many of each are done in this epoch.
        loss, right: summed up in this epoch.
    """

    epoch: int = 0
    waited: int = 0
    blocks: int = 0
    steps: int = 0
    rows: int = 0
    loss: float = 0.0
    right: float = 0.0


@dataclass
class Loop:
    """One training; see `run`.

    Attributes:
        runtime, running, trainer: the engine, the running copy of the model and its trainer.
        schedule: number of steps, batch size and learning rates.
        validation: fraction of the samples that is set aside for validation; 0: none.
        patience: number of epochs without improvement after which training stops; None: never.
        vary: augments the samples of an epoch at random; None: no augmentation.
        teacher: the network that is distilled, where its outputs are kept; None: they are not.
        masks: the masks after a fraction of the steps, from the weights' scores; None: constant.
        masked: names of the tensors that `masks` is about.
        judge: metrics of the running copy, and how good they are; larger is better.
        say: called with a line about progress.
        keep_interrupted: an interrupt ends the training, not the run.
        metric: name of the metric that a trainer's `right` counts, per sample; "": none.
        keeper: saves the state periodically; training resumes from a saved state.
    """

    runtime: Runtime
    running: Running
    trainer: Trainer
    schedule: Schedule
    validation: float
    patience: int | None
    vary: Callable[[Rows, int], Rows] | None
    teacher: Running | None
    masks: Callable[[Mapping[str, np.ndarray], float], Mapping[str, np.ndarray]] | None
    masked: list[str]
    judge: Callable[[], tuple[dict[str, float], tuple[float, ...]]] | None
    say: Callable[[str], None]
    keep_interrupted: bool
    metric: str = ""
    keeper: Keeper | None = None

    def run(self) -> Course:
        """Trains, and leaves the trainer in the state to be kept.

        Raises:
            ModelcutError: the loss is no number any more.
        """
        self._course = Course()
        self._began = time.monotonic()
        self._said = 0.0
        self._least: tuple[float, ...] | None = None
        self._at = Position()
        if self._goes_on():
            return self._course
        try:
            self._epochs()
        except (Stopped, KeyboardInterrupt) as error:
            if not self.keep_interrupted or getattr(error, "number", SIGINT) != SIGINT:
                raise
            before = "" if self._course.steps else " before the first step: nothing was trained"
            self._course.ended = f"interrupted{before}"
        self._refresh(1.0)
        if self._course.best and self._least is not None:
            self.trainer.restore()
        self.trainer.settle()
        if self.keeper:
            self._keep(done=True)
        return self._course

    def _goes_on(self) -> bool:
        """Resumes from a saved state, if there is one; true if that training was complete."""
        if self.keeper is None:
            return False
        saved = self.keeper.load()
        over = False
        if saved:
            with self.keeper.fits():
                over = self._take_up(saved.facts)
        steps = float(self._course.steps) if saved else -1.0
        if self.runtime.agreed([steps]) != [steps]:
            raise InputError(
                "this worker cannot see the checkpoint from which the chief resumes",
                "--checkpoint must name a folder that all workers share",
            )
        if saved is None:
            return False
        if self.masks and not over:
            # The criterion may depend on the progress at its last update.
            last = (self._course.steps - 1) // self.schedule.refresh * self.schedule.refresh
            self.masks(self.trainer.saliency(self.masked), last / self.schedule.steps)
        with self.keeper.fits():
            self.trainer.load(saved.arrays)
        if over:
            self.trainer.settle()
        return over

    def _take_up(self, facts: Mapping[str, Any]) -> bool:
        """Restores the position; true if the training was complete."""
        self._course = Course(**facts["course"])
        self._at = Position(**facts["at"])
        self._least = None if facts["least"] is None else tuple(facts["least"])
        return bool(facts["done"])

    def _keep(self, *, done: bool = False) -> None:
        assert self.keeper is not None
        facts = {
            "course": asdict(self._course),
            "at": asdict(self._at),
            "least": self._least,
            "done": done,
        }
        self.keeper.save(self.trainer.state(), facts)

    def _epochs(self) -> None:
        course, at = self._course, self._at
        if self.teacher is not None:
            self._teach()
        while course.steps < self.schedule.steps:
            self._epoch()
            at.epoch += 1
            if self.judge is None:
                continue
            self._refresh(course.steps / self.schedule.steps)
            self.trainer.settle()
            metrics, score = self._agreed(*self.judge())
            course.judged.append(metrics)
            if course.steps < self.schedule.settled * self.schedule.steps:
                continue
            if self._least is None or score > self._least:
                self._least, course.best, at.waited = score, at.epoch, 0
                self.trainer.save()
                continue
            at.waited += 1
            if self.patience is not None and at.waited >= self.patience:
                course.ended = f"no improvement for {at.waited} epochs"
                return

    def _teach(self) -> None:
        """Has the teacher's outputs computed here, where an interrupt ends it at once."""
        self.say("running the teacher over the training samples")
        rows = self.runtime.rows(
            self.running, 1, part="train", share=self.validation, teacher=self.teacher
        )
        next(iter(rows))

    def _agreed(
        self, metrics: dict[str, float], score: tuple[float, ...]
    ) -> tuple[dict[str, float], tuple[float, ...]]:
        """The chief's metrics: all workers must agree on the best epoch."""
        numbers = self.runtime.agreed([*metrics.values(), *score])
        return dict(zip(metrics, numbers, strict=False)), tuple(numbers[len(metrics) :])

    def _epoch(self) -> None:
        course, schedule, at = self._course, self.schedule, self._at
        for rows in ahead(islice(self._blocks(at.epoch), at.blocks, None), depth=1):
            if self.keeper and self.keeper.due():
                self._keep()
            count = min(max(1, len(rows) // schedule.batch), schedule.steps - course.steps)
            done = 0
            while done < count:
                self._refresh_if_due()
                until = schedule.refresh - course.steps % schedule.refresh
                some = min(until, count - done) if self.masks else count - done
                part = rows[done * schedule.batch : (done + some) * schedule.batch]
                passed = self.trainer.run(part, schedule.rates(course.steps, some))
                if not np.isfinite(passed.loss):
                    raise ModelcutError(
                        f"the loss became {passed.loss} after {course.steps + some} steps",
                        "a lower learning_rate, a warmup, or a smaller weight of regularize helps",
                    )
                done += some
                course.steps += some
                at.steps += some
                at.loss += passed.loss * some
                at.right += passed.right
                at.rows += passed.rows
                self._report(at.epoch, at.loss / at.steps, at.right / max(1, at.rows))
            at.blocks += 1
            if course.steps >= schedule.steps:
                break
        course.rows = max(course.rows, at.rows)
        course.loss.append(at.loss / max(1, at.steps))
        course.right.append(at.right / max(1, at.rows))
        at.blocks, at.steps, at.rows, at.loss, at.right = 0, 0, 0, 0.0, 0.0

    def _blocks(self, epoch: int) -> Iterator[Rows]:
        """The samples of an epoch, many batches at a time; an incomplete last batch is left out."""
        schedule = self.schedule
        sample = next(iter(self.runtime.rows(self.running, 1, part="train", share=self.validation)))
        most = max(1, _BLOCK_BYTES // max(1, sample.nbytes * schedule.batch))
        size = schedule.batch * min(most, 64)
        for rows in self.runtime.rows(
            self.running,
            size,
            part="train",
            share=self.validation,
            shuffle=epoch,
            teacher=self.teacher,
        ):
            whole = len(rows) // schedule.batch * schedule.batch
            if whole:
                part = rows[:whole]
                yield self.vary(part, epoch) if self.vary else part

    def _refresh_if_due(self) -> None:
        if self.masks and self._course.steps % self.schedule.refresh == 0:
            self._refresh(self._course.steps / self.schedule.steps)

    def _refresh(self, progress: float) -> None:
        if self.masks:
            self.trainer.mask(self.masks(self.trainer.saliency(self.masked), progress))

    def _report(self, epoch: int, loss: float, right: float) -> None:
        now = time.monotonic()
        if now - self._said < _SAY_SECONDS:
            return
        self._said = now
        done = self._course.steps / self.schedule.steps
        left = (now - self._began) * (1 - done) / done
        shown = f", {self.metric} {right:.4f}" if self.metric else ""
        judged = self._course.judged[-1:] or [{}]
        more = "".join(f", validation {name} {value:.4f}" for name, value in judged[0].items())
        self.say(
            f"training: epoch {epoch + 1}, {done:.0%}, loss {loss:.4f}{shown}{more}, "
            f"{left:.0f} s left"
        )


def facts(course: Course) -> dict[str, Any]:
    """The course as plain JSON data, rounded to six digits."""
    return {
        "steps": course.steps,
        "rows": course.rows,
        "epochs": len(course.loss),
        "best_epoch": course.best,
        "ended": course.ended,
        "loss": [float(f"{value:.6g}") for value in course.loss],
        "validation": [
            {name: float(f"{value:.6g}") for name, value in entry.items()}
            for entry in course.judged
        ],
    }
