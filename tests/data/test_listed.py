"""Reading ahead: the order of the list, few at a time, and a fault in its place."""

import threading

import pytest

from emanet_jax.data import listed
from emanet_jax.data.files import Entry

ENTRIES = [Entry(str(i), {}) for i in range(20)]


@pytest.mark.parametrize("threads", [1, 4])
def test_examples_come_in_order_and_few_are_read_ahead(threads):
    started, lock = [], threading.Lock()

    def read(entry):
        with lock:
            started.append(entry.name)
        return {"name": entry.name}

    for i, example in enumerate(listed.read_ahead(read, ENTRIES, threads)):
        assert example == {"name": str(i)}
        assert len(started) <= i + 1 + threads
    assert sorted(started, key=int) == [entry.name for entry in ENTRIES]


def test_later_examples_are_read_while_an_earlier_one_takes_long():
    others = threading.Semaphore(0)

    def read(entry):
        if entry.name == "0":
            return {"others": [others.acquire(timeout=30) for _ in range(3)]}
        others.release()
        return {}

    first = next(listed.read_ahead(read, ENTRIES, 4))
    assert first == {"others": [True] * 3}


def test_a_fault_comes_after_the_examples_before_it():
    def read(entry):
        return {"share": 1 / (7 - int(entry.name))}

    examples = listed.read_ahead(read, ENTRIES, 4)
    assert [next(examples)["share"] for _ in range(7)] == [1 / k for k in range(7, 0, -1)]
    with pytest.raises(ZeroDivisionError):
        next(examples)
