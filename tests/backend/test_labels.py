from __future__ import annotations

import math

import pytest

from backend.job import Candidate
from backend.worker.replies import best_label


def test_the_likeliest_label_and_its_probability() -> None:
    labels = [Candidate(label="cat", names=("cat",)), Candidate(label="dog", names=("dog",))]
    found = best_label(labels, {"cat": math.log(0.1), "dog": math.log(0.3)})
    assert found.label == "dog" and found.probability == pytest.approx(0.75)


def test_names_of_one_label_add_up() -> None:
    labels = [Candidate(label="vehicle", names=("car", "bus")), Candidate(label="animal", names=("dog",))]
    found = best_label(labels, {"car": math.log(0.2), "bus": math.log(0.2), "dog": math.log(0.3)})
    assert found.label == "vehicle" and found.probability == pytest.approx(4 / 7)


def test_likelihoods_too_small_for_a_float_still_compare() -> None:
    labels = [Candidate(label="a", names=("a",)), Candidate(label="b", names=("b",))]
    found = best_label(labels, {"a": -2000.0, "b": -2003.0})
    assert found.label == "a" and found.probability == pytest.approx(1 / (1 + math.exp(-3)))
    nothing = best_label(labels, {"a": -math.inf, "b": -math.inf})
    assert 0 <= nothing.probability <= 1


def test_what_the_label_memory_is_sure_of_is_taken_from_it() -> None:
    labels = [Candidate(label=name, names=(name,)) for name in ("dog", "gasket-B", "gear")]
    said = {"dog": math.log(0.02), "gasket-B": math.log(1e-6), "gear": math.log(1e-6)}
    found = best_label(labels, said, {"gasket-B": 0.8, "gear": 0.0})
    assert found.label == "gasket-B" and found.from_memory and found.probability == pytest.approx(0.8, abs=0.03)
    assert 0 < found.margin < found.probability
    # what it doubts, and what the model is certain of that the memory does not know, is left to the model
    doubted = best_label(labels, said, {"gasket-B": 0.2, "gear": 0.0})
    assert doubted.label == "dog" and not doubted.from_memory and doubted.memory == 0
    certain = best_label(labels, said | {"dog": math.log(0.95)}, {"gasket-B": 0.6, "gear": 0.0})
    assert certain.label == "dog"
    # of a label that it knows it is asked all the same
    known = best_label(labels, said | {"dog": math.log(0.95)}, {"gasket-B": 0.6, "dog": 0.0})
    assert known.label == "gasket-B"
    assert best_label(labels, said).memory is None
    total = best_label(labels[:1], {"dog": math.log(0.5)}, {"dog": 0.9})
    assert total.probability == pytest.approx(1.0) and total.margin == pytest.approx(1.0)
