"""Working ahead: the same items, errors where they are used, no thread left behind."""

from __future__ import annotations

import threading

import pytest

from modelcut.arrays.blocks import ahead


def test_the_same_items_in_order():
    assert list(ahead(iter(range(100)))) == list(range(100))
    assert list(ahead(iter([]))) == []


def test_an_error_comes_after_the_items_before_it():
    def broken():
        yield 1
        raise KeyError("two")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(KeyError):
        next(items)


def test_who_stops_early_leaves_no_thread():
    before = threading.active_count()
    items = ahead(iter(range(10**9)))
    assert next(items) == 0
    items.close()
    assert threading.active_count() == before
