"""What a teacher gives for the samples of a store: once, and only where it fits."""

import numpy as np
import pytest

from modelcut.data import DataOptions, InputSpec
from modelcut.data.csv import Csv
from modelcut.data.rows import Rows
from modelcut.data.store import RowStore

COUNT = 300


class Teacher:
    """Gives twice the input; counts."""

    def __init__(self, width=1):
        self.width, self.seen = width, []

    def teach(self, rows):
        self.seen.append(len(rows))
        return [np.repeat(2 * rows.inputs[0], self.width, axis=1)]


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("x,label\n" + "".join(f"{n},{n % 3}\n" for n in range(COUNT)))

    def opened(memory=1 << 20):
        table = Csv.open(path, DataOptions(label="label"), (InputSpec("x", (1,)),))
        return RowStore(table, decoded, memory=memory)

    return opened


def decoded(batch):
    return Rows((batch.inputs["x"],), (batch.labels[:, 0].astype(np.int64),))


def test_a_teacher_is_asked_once_for_each_sample(store):
    samples, teacher = store(), Teacher()
    for epoch in range(3):
        for rows in samples.batches(
            64, part="train", share=0.2, shuffle=epoch, teach=teacher.teach
        ):
            np.testing.assert_array_equal(rows.taught[0], 2 * rows.inputs[0])
            np.testing.assert_array_equal(rows.labels[0], rows.inputs[0][:, 0] % 3)
    assert sum(teacher.seen) == COUNT
    assert next(samples.batches(64)).taught is None, "nobody asked"


def test_what_was_interrupted_is_done_again(store):
    samples, teacher = store(), Teacher()

    def interrupted(rows):
        if teacher.seen:
            raise KeyboardInterrupt
        return teacher.teach(rows)

    with pytest.raises(KeyboardInterrupt):
        next(samples.batches(64, teach=interrupted))
    teacher.seen = []
    with pytest.raises(KeyboardInterrupt):
        next(samples.batches(64, teach=interrupted))
    assert teacher.seen == [128]


def test_another_teacher_is_asked_anew(store):
    samples, one, other = store(), Teacher(), Teacher(2)
    for teacher in (one, other):
        rows = next(samples.batches(64, teach=teacher.teach))
        assert rows.taught[0].shape == (64, teacher.width)


@pytest.mark.parametrize(("memory", "width"), [(1 << 20, 5000), (1 << 10, 1)])
def test_what_does_not_fit_is_not_kept(store, memory, width):
    samples, teacher = store(memory), Teacher(width)
    for epoch in range(2):
        for rows in samples.batches(64, shuffle=epoch, teach=teacher.teach):
            assert rows.taught is None
    assert sum(teacher.seen) <= 128
