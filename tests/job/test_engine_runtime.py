"""What a step that runs the network waits for is told."""

from __future__ import annotations

import pytest
from toys import MODELS

from modelcut import engines
from modelcut.data import DataOptions
from modelcut.errors import ResourceError
from modelcut.formats import registry
from modelcut.job.engine_runtime import EngineRuntime


def test_it_says_once_that_it_starts_the_engine(tmp_path, monkeypatch):
    told = []

    def no_network(*_, **__):
        raise ResourceError("enough is seen")

    monkeypatch.setattr(engines, "open_network", no_network)
    with registry.open_model(MODELS / "keras3_sequential.h5") as model:
        runtime = EngineRuntime(model, tmp_path / "rows.csv", DataOptions(), say=told.append)
        assert told == []
        for _ in range(2):
            with pytest.raises(ResourceError):
                runtime.open(model)
    assert told == ["starting TensorFlow"]
