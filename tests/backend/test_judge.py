"""What examples say about a region's label: right where there are enough, silent where there are not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from backend.learning.judge import Judge, fit

WIDTH = 24


@dataclass(frozen=True)
class Shown:
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    weight: float = 1.0


class World:
    """Things of some classes: a direction each, with noise; and whatever else there is in pictures."""

    def __init__(self, classes: int, seed: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.names = [f"part-{number}" for number in range(classes)]
        self.directions = self.rng.normal(0, 1, (classes, WIDTH))

    def things(self, number: int, count: int) -> np.ndarray:
        return self._unit(self.directions[number] + self.rng.normal(0, 0.35, (count, WIDTH)))

    def elsewhere(self, count: int) -> np.ndarray:
        return self._unit(self.rng.normal(0, 1, (count, WIDTH)))

    def taught(self, counts: dict[int, int], background: int = 40, control: str = "mask") -> Judge:
        rows = [self.things(number, count) for number, count in counts.items()]
        examples = [Shown({control: (self.names[number],)}) for number, count in counts.items() for _ in range(count)]
        features = np.concatenate([*rows, self.elsewhere(background)])
        return fit(features, [*examples, *[Shown()] * background], "m")

    def _unit(self, rows: np.ndarray) -> np.ndarray:
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def right(world: World, judge: Judge, number: int, count: int = 40) -> float:
    """The share of a class's new things that it says with more than 0.4."""
    said = judge.say(world.things(number, count), world.names)
    return float(np.mean([one.get(world.names[number], 0) > 0.4 for one in said]))


def loud(judge: Judge, rows: np.ndarray, names: list[str]) -> float:
    return float(np.mean([max(one.values(), default=0) > 0.4 for one in judge.say(rows, names)]))


def test_more_examples_make_it_surer() -> None:
    world = World(8)
    few, many = (world.taught(dict.fromkeys(range(8), count)) for count in (4, 30))
    assert np.mean([right(world, many, number) for number in range(8)]) > 0.9
    assert all(many.trusted()[name] > few.trusted()[name] for name in world.names)
    assert all(0 < trust < 1 for trust in many.trusted().values())


def test_ten_labels_with_one_example_each_say_nothing() -> None:
    world = World(10)
    judge = world.taught(dict.fromkeys(range(10), 1))
    rows = np.concatenate([world.things(number, 20) for number in range(10)])
    assert all(one == {} for one in judge.say(rows, world.names))


def test_a_lone_label_is_known_from_what_else_is_there() -> None:
    world = World(4)
    judge = world.taught({0: 12})
    assert right(world, judge, 0) > 0.8
    others = np.concatenate([world.things(number, 40) for number in (1, 2, 3)])
    assert loud(judge, others, world.names) < 0.1 and loud(judge, world.elsewhere(100), world.names) < 0.1


def test_without_anything_else_to_compare_it_is_silent() -> None:
    world = World(2)
    judge = world.taught({0: 12}, background=0)
    assert loud(judge, world.things(1, 40), world.names) == 0


def test_classes_that_were_never_taught_are_left_to_the_model() -> None:
    world = World(8)
    judge = world.taught(dict.fromkeys(range(6), 15))
    assert loud(judge, np.concatenate([world.things(6, 40), world.things(7, 40)]), world.names) < 0.15


def test_only_wanted_labels_are_said() -> None:
    world = World(5)
    judge = world.taught(dict.fromkeys(range(5), 10))
    rows = world.things(0, 20)
    said = judge.say(rows, [*world.names[1:], "a label of the config without examples"])
    assert not any(world.names[0] in one for one in said)
    assert judge.say(rows, ["stranger"]) == [{}] * 20


def test_labels_that_cannot_be_told_apart_are_not_believed() -> None:
    world = World(3)
    world.directions[1] = world.directions[0]
    judge = world.taught(dict.fromkeys(range(3), 20))
    trusted = judge.trusted()
    assert trusted["part-2"] > 0.8 and max(trusted["part-0"], trusted["part-1"]) < 0.75


def test_ground_truth_counts_double() -> None:
    rows = World(2).elsewhere(4)
    examples = [Shown({"mask": ("a",)}, 2.0), Shown({"mask": ("a",)}), *[Shown({"mask": ("b",)})] * 2]
    once = [Shown({"mask": ("a",)}), Shown({"mask": ("a",)}), Shown({"mask": ("a",)}), *examples[2:]]
    twice = fit(rows, examples, "m").sections["mask"]
    same = fit(np.concatenate([rows[:1], rows]), once, "m").sections["mask"]
    assert np.allclose(twice.centre, same.centre, atol=1e-5)


def test_each_control_is_judged_by_its_own_examples() -> None:
    world = World(4)
    rows = np.concatenate([world.things(number, 12) for number in range(4)])
    examples = [
        Shown({"shape": ("round" if number < 2 else "square",), "state": ("good" if number % 2 else "bad",)})
        for number in range(4)
        for _ in range(12)
    ]
    judge = fit(rows, examples, "m")
    (shape,) = judge.say(world.things(1, 1), ["round", "square"])
    (state,) = judge.say(world.things(1, 1), ["good", "bad"])
    assert max(shape, key=lambda name: shape[name]) == "round" and max(state, key=lambda name: state[name]) == "good"


def test_the_same_picture_again_and_again() -> None:
    world = World(2)
    rows = np.concatenate([np.repeat(world.things(number, 1), 6, axis=0) for number in (0, 1)])
    examples = [Shown({"mask": (world.names[number],)}) for number in (0, 1) for _ in range(6)]
    judge = fit(rows, examples, "m")
    again = rows + np.random.default_rng(1).normal(0, 1e-4, rows.shape).astype(np.float32)
    assert [max(one, key=lambda name: one[name]) for one in judge.say(again, world.names)] == ["part-0"] * 6 + [
        "part-1"
    ] * 6
    assert all(max(one.values()) > 0.4 for one in judge.say(again, world.names))


def test_it_travels_as_bytes() -> None:
    world = World(3)
    judge = world.taught(dict.fromkeys(range(3), 6))
    back = Judge.from_bytes(judge.to_bytes())
    rows = world.things(1, 5)
    for one, other in zip(judge.say(rows, world.names), back.say(rows, world.names), strict=True):
        assert one.keys() == other.keys() and all(one[name] == pytest.approx(other[name], abs=1e-3) for name in one)
    for broken in (b"", b"{}", b"[]\n", judge.to_bytes()[:200], b"\xff\xfe"):
        with pytest.raises(ValueError):
            Judge.from_bytes(broken)


@pytest.mark.parametrize("features", [np.zeros((3, WIDTH), np.float32), np.ones((3, WIDTH), np.float32)])
def test_features_that_say_nothing(features: np.ndarray) -> None:
    judge = fit(features, [Shown({"mask": ("a",)})] * 2 + [Shown({"mask": ("b",)})], "m")
    assert all(sum(one.values()) <= 1 for one in judge.say(features, ["a", "b"]))
    assert judge.say(np.zeros((2, 5), np.float32), ["a"]) == [{}, {}]


def test_nothing_taught() -> None:
    judge = fit(np.zeros((0, 0), np.float32), [], "m")
    assert judge.say(np.zeros((1, 3), np.float32), ["a"]) == [{}] and judge.trusted() == {}
