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
