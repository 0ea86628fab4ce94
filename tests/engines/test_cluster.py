import json

import pytest

from modelcut.engines.keras.cluster import from_environment
from modelcut.errors import UsageError

WORKERS = ["a:1", "b:1", "c:1"]


def config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("text", "index", "addresses"),
    [
        (config({"worker": WORKERS}, index=2), 2, WORKERS),
        (config({"worker": WORKERS}, index="1"), 1, WORKERS),
        (config({"worker": WORKERS, "chief": ["d:1"]}, "chief"), 0, ["d:1", *WORKERS]),
        (config({"worker": WORKERS, "chief": ["d:1"]}, index=2), 3, ["d:1", *WORKERS]),
    ],
)
def test_who_takes_part(monkeypatch, text, index, addresses):
    monkeypatch.setenv("TF_CONFIG", text)
    found = from_environment()
    assert found is not None
    assert (found.index, list(found.addresses), found.chief) == (index, addresses, index == 0)
    assert found.own_chief is (len(addresses) == 4)


@pytest.mark.parametrize("text", ["", "{}", config({"worker": ["a:1"]}), '{"cluster": {}}'])
def test_nobody_else(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    assert from_environment() is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "is not JSON"),
        (config({"worker": WORKERS}, index=3), "not in the cluster"),
        (config({"worker": WORKERS}, index=True), "not in the cluster"),
        (config({"worker": WORKERS}, "evaluator"), "not in the cluster"),
        (json.dumps({"cluster": {"worker": WORKERS}}), "not in the cluster"),
        (config({"worker": WORKERS, "ps": ["d:1"]}), "'ps' takes no part"),
        (config({"worker": ["a", "b"]}), "not a list of host:port"),
        (config({"worker": "a:1"}), "not a list of host:port"),
        (config({"worker": ["a:1", "a:1"]}), "twice"),
        (config({"chief": ["a:1", "b:1"]}, "chief"), "several chiefs"),
        (json.dumps({"cluster": [1]}), "not a mapping"),
    ],
)
def test_what_cannot_be_understood(monkeypatch, text, word):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match=word):
        from_environment()
