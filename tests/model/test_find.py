"""All things of a kind: by example, by word, by both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from demo.truth import read_scenes
from model import Found, PerceiveAnything, Prompt, PromptError, Region, Sampling, Task
from model.__main__ import main
from model.finding import calibration, finder, seen, words
from model.finding.candidates import decoded, grid, piece
from model.finding.words import LOWEST, Usual, checked, fits
from model.reading import Reading
from model.sam.tiles import View
from model.values.embedding import Embedding
from model.values.mask import from_rle, mask_iou
from model.values.region import Text, Texts
from model.values.sampling import GREEDY
from tests.device import DEVICE

SIZE = (320, 240)
RED = [(50, 50), (160, 60), (270, 50), (60, 180)]
BLUE = [(160, 180), (265, 180)]
RADIUS = 30


@pytest.fixture(scope="module")
def tiny() -> PerceiveAnything:
    return PerceiveAnything.from_pretrained("tiny", device=DEVICE)


@pytest.fixture(scope="module")
def discs() -> Image.Image:
    """Four red discs, and two blue squares."""
    picture = Image.new("RGB", SIZE, (225, 225, 215))
    pen = ImageDraw.Draw(picture)
    for x, y in RED:
        pen.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=(210, 30, 30))
    for x, y in BLUE:
        pen.rectangle((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=(40, 60, 200))
    return picture


def disc(place: tuple[int, int]) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    return np.asarray((columns - place[0]) ** 2 + (rows - place[1]) ** 2 <= RADIUS**2)


def square(place: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SIZE[::-1], bool)
    mask[place[1] - RADIUS : place[1] + RADIUS, place[0] - RADIUS : place[0] + RADIUS] = True
    return mask


def met(found: Sequence[Region], truths: Sequence[np.ndarray]) -> list[bool]:
    """Of each true mask, whether it was found."""
    return [any(mask_iou(region.mask, truth) > 0.5 for region in found) for truth in truths]


def test_the_others_follow_from_one(tiny: PerceiveAnything, discs: Image.Image) -> None:
    embedding = tiny.encode(discs)
    (example,) = tiny.segment(embedding, [Prompt(mask=disc(RED[0]))])
    found = tiny.alike(embedding, [example])
    assert met(found, [disc(place) for place in RED]) == [False, True, True, True]  # the example is not answered twice
    assert not any(met(found, [square(place) for place in BLUE]))
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True) and 0.5 <= scores[-1] <= scores[0] <= 1
    assert all(isinstance(one, Found) and one.mask.shape == SIZE[::-1] for one in found)
    # they are regions like others: described, and compared
    assert tiny.describe(found[:1], [Task.RECOGNIZE], sampling=Sampling(max_new_tokens=2))[0][Task.RECOGNIZE].token_ids
    assert tiny.features(found).shape[0] == len(found)
    assert not any(mask_iou(a.mask, b.mask) > 0.6 for i, a in enumerate(found) for b in found[:i])
    assert len(tiny.alike(embedding, [example], limit=1)) == 1
    assert tiny.alike(embedding, [example], threshold=1.0) == []


def test_what_is_known_is_not_answered(tiny: PerceiveAnything, discs: Image.Image) -> None:
    embedding = tiny.encode(discs)
    (example,) = tiny.segment(embedding, [Prompt(mask=disc(RED[0]))])
    found = tiny.alike(embedding, [example], known=[disc(RED[1])])
    assert met(found, [disc(place) for place in RED]) == [False, False, True, True]


def test_a_counter_example_takes_away_what_looks_like_it(tiny: PerceiveAnything, discs: Image.Image) -> None:
    embedding = tiny.encode(discs)
    example, other = tiny.segment(embedding, [Prompt(mask=disc(RED[0])), Prompt(mask=square(BLUE[0]))])

    def score_of(truth: np.ndarray, unlike: Sequence[Region]) -> float:
        found = tiny.alike(embedding, [example], unlike, threshold=0.0)
        return max((one.score for one in found if mask_iou(one.mask, truth) > 0.5), default=0.0)

    assert score_of(square(BLUE[1]), [other]) <= score_of(square(BLUE[1]), [])
    assert score_of(disc(RED[2]), [other]) > 0.5


def test_an_example_may_be_of_another_picture(tiny: PerceiveAnything, discs: Image.Image) -> None:
    elsewhere = Image.new("RGB", SIZE, (200, 215, 200))
    x, y = 150, 120
    ImageDraw.Draw(elsewhere).ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=(205, 40, 30))
    (example,) = tiny.segment(tiny.encode(elsewhere), [Prompt(mask=disc((x, y)))])
    found = tiny.alike(tiny.encode(discs), [example], threshold=0.0)
    reds, blues = (
        [max((f.score for f in found if mask_iou(f.mask, mask) > 0.5), default=0.0) for mask in masks]
        for masks in ([disc(place) for place in RED], [square(place) for place in BLUE])
    )
    assert min(reds) > max(blues)


@pytest.fixture(scope="module")
def yard() -> tuple[Image.Image, list[np.ndarray]]:
    """A large picture of small things: five of a kind, the third where tiles overlap, and others; the five's masks."""
    width, height, radius = 4000, 3000, 60
    picture = Image.new("RGB", (width, height), (225, 225, 215))
    pen = ImageDraw.Draw(picture)
    rows, columns = np.ogrid[:height, :width]
    masks = []
    for x, y in ((500, 500), (3300, 620), (1100, 1100), (700, 2600), (3000, 2500)):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(210, 30, 30))
        masks.append(np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2))
    for x, y in ((2000, 700), (2100, 2000)):
        pen.rectangle((x - 50, y - 90, x + 50, y + 90), fill=(40, 60, 200))
    return picture, masks


@pytest.fixture(scope="module")
def encoded_yard(tiny: PerceiveAnything, yard: tuple[Image.Image, list[np.ndarray]]) -> Embedding:
    return tiny.encode(yard[0])


def test_small_things_are_found_in_a_large_picture(
    tiny: PerceiveAnything, yard: tuple[Image.Image, list[np.ndarray]], encoded_yard: Embedding
) -> None:
    _, masks = yard
    (example,) = tiny.segment(encoded_yard, [Prompt(mask=masks[2])])
    found = tiny.alike(encoded_yard, [example], max_tiles=6)
    hits = [sum(mask_iou(one.mask, mask) > 0.5 for one in found) for mask in masks]
    assert hits == [1, 1, 0, 1, 1]  # each once, whatever tiles see it; the example, which two tiles see, not at all
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert all(one.window is not None and one.embedding is encoded_yard for one in found)
    assert tiny.describe(found[:1], [Task.RECOGNIZE], sampling=Sampling(max_new_tokens=2))[0][Task.RECOGNIZE].token_ids
    # what is known is not answered, nor more than wanted, nor the example in the same picture encoded once more
    found = tiny.alike(tiny.encode(yard[0]), [example], known=[masks[0]], limit=2, max_tiles=6)
    assert len(found) == 2 and not any(met(found, [masks[0], masks[2]]))


def test_words_are_looked_for_in_tiles(
    tiny: PerceiveAnything,
    yard: tuple[Image.Image, list[np.ndarray]],
    encoded_yard: Embedding,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the name that the model itself gives one of them, seen in a tile."""
    _, masks = yard
    monkeypatch.setattr(seen, "POINTS_PER_SIDE", 4)  # of the whole picture, which shows nothing of them
    (example,) = tiny.segment(encoded_yard, [Prompt(mask=masks[0])])
    (other,) = tiny.alike(encoded_yard, [example], limit=1, max_tiles=6)
    name = tiny.describe([other], [Task.RECOGNIZE])[0][Task.RECOGNIZE].string
    found = tiny.find(encoded_yard, name, max_tiles=6)
    assert sum(met(found, masks)) >= 2 and all(one.mask.shape == masks[0].shape for one in found)
    hits = [sum(mask_iou(one.mask, mask) > 0.5 for one in found) for mask in masks]
    assert max(hits) == 1


def test_words_find_what_the_model_would_call_so(tiny: PerceiveAnything) -> None:
    """On scenes of the demo: the surest region of a class's own name is the thing, mostly."""
    hits, asked = 0, 0
    for scene in list(read_scenes().values())[:3]:
        embedding = tiny.encode(Image.open(scene.picture).convert("RGB"))
        for thing in scene.things:
            if thing.kind == "object":
                continue
            found = tiny.find(embedding, thing.kind, threshold=0.0)
            assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
            asked += 1
            hits += bool(found) and mask_iou(found[0].mask, thing.mask) > 0.4
    assert asked >= 3 and hits / asked >= 1 / 3


def test_the_next_question_has_the_candidates_read(
    tiny: PerceiveAnything, discs: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    readings = tiny.search.seeing._readings

    def counted(regions: Sequence[Region]) -> Iterator[Reading]:
        read.append(len(regions))
        return readings(regions)

    monkeypatch.setattr(finder, "SURE", 2.0)  # else what looks like the surest is read as well
    monkeypatch.setattr(tiny.search.seeing, "_readings", counted)
    embedding = tiny.encode(discs)
    first = tiny.find(embedding, "disc", threshold=0.0)
    assert sum(read) >= len(first) > 0
    before = list(read)
    tiny.find(embedding, "square", threshold=0.0)
    again = tiny.find(embedding, "disc", threshold=0.0)
    assert read == before and [one.score for one in again] == pytest.approx([one.score for one in first], abs=1e-4)
    # another version of the model reads for itself
    monkeypatch.setattr(tiny, "version", "another")
    tiny.find(embedding, "disc")
    assert len(read) > len(before)


def test_what_the_clicks_answered_is_read_as_it_is(
    tiny: PerceiveAnything, discs: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words are held against the same whether there was room for it, for some of it, or for nothing."""
    embedding, seeing = tiny.encode(discs), tiny.search.seeing
    clicks = grid(embedding, 4)
    one = tiny.tower.decode(embedding, *tiny.tower.tensors(embedding, clicks[:1])).bytes_each
    segment, decoded_again = tiny.tower.segment, 0

    def counted(pictures: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Region]:
        nonlocal decoded_again
        decoded_again += len(prompts)
        return segment(pictures, prompts)

    monkeypatch.setattr(tiny.tower, "segment", counted)
    fits_by_room = []
    for room in (1 << 30, 2 * one + one // 2, 0):
        some = decoded(tiny.tower, embedding, clicks, 0.5, 0.5, room)
        kept = [segment is not None for segment in some.segments]
        assert len(some) > 2 and sum(kept) == min(room // one, len(some)) and some.bytes_to_read <= room
        decoded_again = 0
        held = seeing.holding(embedding, some)
        fits_by_room.append(seeing.fit(held, ["disc"])[0].tolist())
        assert decoded_again == len(some) - sum(kept)
        # once read, nothing of it is kept
        assert held.readings is not None and not any(part.candidates.bytes_to_read for part in held.parts)
    assert fits_by_room[1] == pytest.approx(fits_by_room[0], abs=1e-3)
    assert fits_by_room[2] == pytest.approx(fits_by_room[0], abs=1e-3)


def test_nothing_fits(tiny: PerceiveAnything, discs: Image.Image) -> None:
    embedding = tiny.encode(discs)
    assert tiny.find(embedding, "dinosaur skeleton") == []
    assert tiny.find(embedding, "恐龙骨架") == []
    plain = tiny.encode(Image.new("RGB", SIZE, "gray"))
    assert len(tiny.find(plain, "cup")) <= 1
    (example,) = tiny.segment(embedding, [Prompt(mask=disc(RED[0]))])
    assert len(tiny.alike(plain, [example])) <= 1


def test_both_together_say_what_and_how(tiny: PerceiveAnything, discs: Image.Image) -> None:
    """What looks like the example and is none by its name is not found."""
    embedding = tiny.encode(discs)
    (example,) = tiny.segment(embedding, [Prompt(mask=disc(RED[0]))])
    assert tiny.find(embedding, "dinosaur skeleton", [example]) == []
    named = tiny.find(embedding, tiny.describe([example], [Task.RECOGNIZE])[0][Task.RECOGNIZE].string, [example])
    assert sum(met(named, [disc(place) for place in RED[1:]])) >= 2


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "nothing to look for"), ("   ", "give a word"), (["cup", " "], "give a word"), ("x" * 2000, "at most 200")],
)
def test_bad_texts_are_named(pam: PerceiveAnything, coffee: Image.Image, text: str, says: str) -> None:
    with pytest.raises((PromptError, ValueError), match=says):
        pam.find(pam.encode(coffee), text)


def test_bad_numbers_and_masks_are_named(pam: PerceiveAnything, coffee: Image.Image) -> None:
    embedding = pam.encode(coffee)
    for wrong in ({"limit": 0}, {"threshold": 1.5}, {"known": [np.zeros((3, 3), bool)]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            pam.find(embedding, "cup", **wrong)
    (example,) = pam.segment(embedding, [Prompt(points=[(300, 200, 1)])])
    with pytest.raises(ValueError, match="picture"):
        pam.alike(embedding, [Region.of(example, example.prompt)])
    with pytest.raises(ValueError, match="text or an example"):
        pam.find(embedding)


def test_random_weights_find_without_faults(
    pam: PerceiveAnything, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another trunk, other sizes; an example at the very border."""
    monkeypatch.setattr(words, "_USUAL", Sampling(max_new_tokens=2))  # they never end by themselves
    embedding = pam.encode(coffee)
    corner = np.zeros((coffee.height, coffee.width), bool)
    corner[:9, :7] = True
    (example,) = pam.segment(embedding, [Prompt(mask=corner)])
    for found in (pam.alike(embedding, [example], threshold=0.0), pam.find(embedding, "cup", threshold=0.0)):
        assert all(0 <= one.score <= 1 and one.area for one in found)


def test_a_piece_is_what_lies_under_the_click() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:5, 1:4] = mask[2, 6] = True
    assert piece(mask, Prompt(points=[(6.5, 2.5, 1)])).sum() == 1
    assert piece(mask, Prompt(points=[(5.5, 0.5, 1)])).sum() == 12  # beside both: the larger one
    assert piece(mask, Prompt(points=[(65, 25, 1)]), 10, 10).sum() == 1
    assert not piece(np.zeros((2, 2), bool), Prompt(points=[(1, 1, 1)])).any()


class _Says:
    """A model that knows a few likelihoods."""

    version = "says"

    def __init__(self, known: dict[tuple[Task | str, bool], dict[str, float]]) -> None:
        self.known = known

    def segment(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Region]:
        raise AssertionError("words are held against regions that are there")

    def views(self, embedding: Embedding, max_tiles: int) -> Iterator[View]:
        raise AssertionError("words are held against regions that are there")

    def score(
        self, regions: Reading, candidates: Sequence[str], task: Task | str, language: str = "en", ended: bool = True
    ) -> np.ndarray:
        table = self.known.get((task, ended), {})
        return np.array([[table.get(name, -50.0) for name in candidates]] * len(regions), np.float32)

    def describe(
        self, regions: Reading, tasks: Sequence[Task | str], language: str = "en", sampling: Sampling = GREEDY
    ) -> list[Texts]:
        said = {Task.RECOGNIZE: "mug", Task.BRIEF: "A red mug at the left."}
        return [
            {task: Text(task, language, said[Task(task)], (1, 2), -0.5, True) for task in tasks}
            for _ in regions.regions
        ]


def test_words_are_held_against_the_models_own() -> None:
    reading = Reading(("one",), None)  # type: ignore[arg-type]
    says = _Says(
        {
            (Task.RECOGNIZE, True): {"mug": -1.5, "cup": -2.5},
            (Task.BRIEF, False): {"A red mug": -0.2, "A blue mug": -4.2, "A mug": -0.1, "A red cup": -3.2},
        }
    )
    own = [Usual()]

    def fit(*names: str) -> float:
        return float(fits(says, reading, names, own, "en")[0])

    assert fit("mug") == fit("Mug") == fit("a mug") == pytest.approx(0)
    assert fit("cup") == pytest.approx(-1)
    assert fit("plate", "cup") == pytest.approx(-1)
    assert fit("red mug") == pytest.approx(0)
    assert fit("blue mug") == pytest.approx(-4)
    assert fit("plate") == LOWEST
    assert (own[0].likelihood, own[0].caption) == (-1.5, "A red mug at the left.")
    assert own[0].openings == pytest.approx({2: -0.2})
    # the captions' own beginnings are not asked again
    del says.known[Task.BRIEF, False]["A red mug"]
    assert fit("red cup") == pytest.approx(-3)
    # what is hopeless is not worth a question
    own = [Usual()]
    assert fit("plate") == fit("green plate") == LOWEST and own == [Usual()]


def test_names_are_tidied() -> None:
    assert checked("  red\n mug. ") == ("red mug",)
    assert checked(["cup", "cup.", "mug"]) == ("cup", "mug")
    assert words.language_of(["红杯子"]) == "zh" and words.language_of(["mug"]) == "en"


def test_scores_follow_the_measures() -> None:
    measures = {name: torch.zeros(3) for name in calibration.MEASURES if name not in ("fit", "likeness")}
    fit, likeness = {"fit": torch.tensor([-9.0, -2.0, 0.0])}, {"likeness": torch.tensor([0.5, 2.0, 5.0])}
    for given in (fit, likeness, fit | likeness):
        scores = calibration.score(measures | given).tolist()
        assert scores == sorted(scores) and 0 < scores[0] < scores[2] < 1
    # neither outweighs the other's no
    sure = {"iou": torch.ones(1), "stability": torch.ones(1)} | {name: torch.zeros(1) for name in ("growth", "against")}
    assert calibration.score(sure | {"likeness": torch.tensor([7.0]), "fit": torch.tensor([-12.0])}) < 0.3


def test_the_command(
    small_checkpoint: Path, discs: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "discs.png", tmp_path / "overlay.png"
    discs.save(file)
    how = ["--model", str(small_checkpoint), "--device", "cpu"]
    example = ["--like", "20", "20", "80", "80", "--threshold", "0"]
    assert main(["find", str(file), *example, "--json", "--out", str(out), *how]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {"model", "device", "width", "height", "regions"} == set(answer)
    for region in answer["regions"]:
        assert 0 <= region["score"] <= 1 and from_rle(region["mask"]).sum() == region["area"]
    assert Image.open(out).width == SIZE[0]
    assert main(["find", str(file), *example, "--limit", "1", "--unlike", "130", "150", "190", "210", *how]) == 0
    assert capsys.readouterr().out.startswith(("region 1: score ", "nothing found"))
    for wrong, says in (
        (["find", str(file)], "give --text WORDS or --like"),
        (["find", str(file), "--text", "cup", "--unlike", "1", "1", "9", "9"], "--unlike goes with --like"),
        (["find", str(file), "--like", "400", "20", "480", "80"], "outside"),
        (["find", str(file), "--text", " ", *how], "nothing to look for"),
    ):
        assert main(wrong) == 1
        assert says in capsys.readouterr().err
