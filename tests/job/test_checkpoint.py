import json

import numpy as np
import pytest

from modelcut.errors import InputError, UsageError
from modelcut.job.checkpoint import Checkpoint

OF = {"recipe": "prune", "model": "abc"}


def opened(folder, *, of=OF, resume=True, every=0.0, writes=True):
    return Checkpoint(folder, of, resume=resume, every=every, writes=writes)


def test_what_was_saved_is_loaded(tmp_path):
    folder = tmp_path / "kept"
    keeper = opened(folder, resume=False).keeper(1)
    assert keeper.load() is None
    assert keeper.due()
    state = {
        "a/b:0": np.arange(6.0).reshape(2, 3),
        "mask": np.array([True, False]),
        "n": np.int64(7),
    }
    keeper.save(state, {"loss": [0.1, 1 / 3], "least": None})
    found = opened(folder).keeper(1).load()
    assert found.facts == {"loss": [0.1, 1 / 3], "least": None}
    assert list(found.arrays) == list(state)
    for name, values in state.items():
        np.testing.assert_array_equal(found.arrays[name], values)
        assert found.arrays[name].dtype == values.dtype
    assert opened(folder).keeper(0).load() is None
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint.json", "step-2.npz"]
    (folder / "mine.txt").write_text("x")
    opened(folder).remove()
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    (folder / "other").touch()
    with pytest.raises(UsageError, match="is not a checkpoint"):
        opened(folder)


def test_how_often(tmp_path):
    assert not opened(tmp_path / "a", every=3600).keeper(0).due()
    reader = opened(tmp_path / "b", writes=False)
    assert not reader.keeper(0).due()
    reader.keeper(0).save({}, {})
    reader.remove()
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_is_only_used_when_asked(tmp_path):
    opened(tmp_path / "kept", resume=False)
    with pytest.raises(UsageError, match="--resume continues it"):
        opened(tmp_path / "kept", resume=False)
    opened(tmp_path / "kept")


@pytest.mark.parametrize("name", list(OF))
def test_a_checkpoint_of_something_else(tmp_path, name):
    opened(tmp_path / "kept")
    with pytest.raises(InputError, match=f"is a checkpoint of another {name}"):
        opened(tmp_path / "kept", of={**OF, name: "other"})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        (json.dumps({"schema": "modelcut-checkpoint/9", "of": {}}), "another version"),
    ],
)
def test_what_it_is_of_is_damaged(tmp_path, text, word):
    opened(tmp_path / "kept")
    (tmp_path / "kept" / "checkpoint.json").write_text(text)
    with pytest.raises(InputError, match=word):
        opened(tmp_path / "kept")


def test_a_damaged_state(tmp_path):
    keeper = opened(tmp_path / "kept").keeper(0)
    keeper.save({"a": np.arange(1000)}, {"x": 1})
    path = tmp_path / "kept" / "step-1.npz"
    whole = path.read_bytes()
    for data in (b"", b"PK", whole[: len(whole) // 2], np.lib.format.magic(1, 0)):
        path.write_bytes(data)
        with pytest.raises(InputError, match="is damaged"):
            keeper.load()
    np.savez(path, facts=np.array({"x": 1}, dtype=object))  # code, if it were loaded
    with pytest.raises(InputError, match="is damaged"):
        keeper.load()
