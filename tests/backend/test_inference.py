"""Several jobs in one step: each gets its own answer, and what is wrong with one does not touch the others."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import torch
from PIL import Image

from backend.fetching.pictures import PictureStore
from backend.job import Candidate, Group, JobReply, JobRequest, LabelSet, PointPrompt, RegionPrompt, TextAsk
from backend.settings import Settings
from backend.worker import inference
from backend.worker.embedding_locks import EmbeddingLocks
from backend.worker.embeddings import Embeddings
from backend.worker.engine import Engine
from model import PerceiveAnything, Reading, Region, Task, TokenLimits
from model.values.mask import to_rle
from tests.waiting import wait_until


@pytest.fixture
def engine(pam: PerceiveAnything, tmp_path: Path, client: redis.Redis) -> Engine:
    settings = Settings(local_roots=(tmp_path,))
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (60 + 40 * number, 50), colour).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG not really")
    embeddings = Embeddings(settings, pam, PictureStore(settings, client), EmbeddingLocks(client, pam.version, 60))
    return Engine(settings, pam, embeddings)


LABELS = LabelSet(candidates=(Candidate(label="a", names=("cat",)), Candidate(label="b", names=("dog", "hound"))))
TEXTS = (TextAsk(task=Task.RECOGNIZE), TextAsk(task=Task.BRIEF), TextAsk(task=Task.BRIEF, language="zh"))


def job(picture: Path | str, *groups: Group, **changes: Any) -> dict[str, Any]:
    values = {"request_id": "r", "picture": str(picture), "limits": TokenLimits.same(5), "sent_at": time.time()}
    return JobRequest(groups=groups, **(values | changes)).model_dump(mode="json")


def clicks(*places: tuple[float, float], **asks: Any) -> Group:
    prompts = tuple(RegionPrompt(points=(PointPrompt(x=x, y=y),)) for x, y in places)
    return Group(prompts=prompts, **({"texts": TEXTS, "label_sets": (LABELS,)} | asks))


def jobs(folder: Path) -> list[dict[str, Any]]:
    box = RegionPrompt(box=(10, 10, 60, 60))
    return [
        job(folder / "0.png", clicks((50, 50), (20, 30))),
        job(folder / "1.png", clicks((40, 60)), clicks((10, 10), texts=TEXTS[:1], label_sets=())),
        job(folder / "broken.png", clicks((50, 50))),
        job(folder / "0.png", Group(propose=True, texts=TEXTS[:1])),
        job(folder / "2.png"),
        job(folder / "gone.png", clicks((50, 50))),
        job(folder / "2.png", Group(prompts=(box,), texts=TEXTS, label_sets=(LABELS,)), limits=TokenLimits.same(3)),
        job(folder / "1.png", clicks((50, 50)), version=1),
        job(folder / "1.png", Group(prompts=(RegionPrompt(mask=to_rle(np.ones((7, 9), bool))),), texts=TEXTS)),
    ]


def without_seconds(answer: dict[str, Any]) -> dict[str, Any]:
    """What must be the same: numbers to four digits, since products of other sizes round otherwise."""
    text = json.dumps({key: value for key, value in answer.items() if key not in ("seconds", "cached")})
    return json.loads(text, parse_float=lambda number: round(float(number), 3))


def answers(engine: Engine, payloads: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [engine.perform(payload) for payload in payloads]


def test_each_job_of_a_step_gets_its_own_answer(engine: Engine, tmp_path: Path, pam: PerceiveAnything) -> None:
    payloads = jobs(tmp_path)
    engine.expect(payloads)
    together = answers(engine, payloads)
    assert engine.stats()["embeddings_encoded"] == 3  # each picture once
    assert [answer.get("error", {}).get("type") for answer in together] == [
        *(None, None, "PictureError", None, None, "PictureNotFound", None, "BadRequest", "PromptError"),
    ]
    for answer, alone in zip(together, answers(engine, payloads), strict=True):
        assert without_seconds(answer) == without_seconds(alone)
    first = JobReply.model_validate(together[0])
    assert (first.width, first.height, first.cached) == (60, 50, False) and len(first.groups[0]) == 2
    assert set(first.groups[0][0].texts) == {"recognize.en", "brief.en", "brief.zh"}
    assert set(first.seconds) == {"queue", "fetch", "encode", "decode", "prefill", "generate"}
    assert first.seconds["generate"] > 0 and first.seconds["encode"] > 0


def test_regions_of_different_jobs_are_read_together(
    engine: Engine, tmp_path: Path, pam: PerceiveAnything, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = pam.reader.read

    def counted(regions: Sequence[Region]) -> Reading:
        read.append(len(regions))
        return original(regions)

    monkeypatch.setattr(pam.reader, "read", counted)
    payloads = [job(tmp_path / f"{i}.png", clicks((50, 50), (20, 30))) for i in range(3)]
    engine.expect(payloads)
    answers(engine, payloads)
    assert read == [6]


def test_masks_are_packed_while_the_model_reads_and_tells(
    engine: Engine, tmp_path: Path, pam: PerceiveAnything, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[int] = []
    original = pam.reader.read

    def counted(mask: np.ndarray) -> dict[str, object]:
        packed.append(mask.size)
        return to_rle(mask)

    def patient(regions: Sequence[Region]) -> Reading:
        wait_until(lambda: len(packed) == 3)
        return original(regions)

    monkeypatch.setattr(inference, "to_rle", counted)
    monkeypatch.setattr(pam.reader, "read", patient)
    payloads = [job(tmp_path / "0.png", clicks((50, 50), (20, 30))), job(tmp_path / "1.png", clicks((40, 60)))]
    engine.expect(payloads)
    found = [JobReply.model_validate(answer).groups[0] for answer in answers(engine, payloads)]
    assert [[tuple(region.mask["size"]) for region in group] for group in found] == [[(50, 60)] * 2, [(50, 100)]]
    monkeypatch.setattr(inference, "to_rle", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.perform(payloads[0])


def test_a_step_that_fails_as_a_whole_is_done_job_by_job(
    engine: Engine, tmp_path: Path, pam: PerceiveAnything, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = pam.segment

    def poisoned(embedding: Any, prompts: Any, *rest: Any) -> Any:
        if any(prompt.points == ((1, 1, 1),) for prompt in prompts):
            raise RuntimeError("the model cannot bear this one")
        return original(embedding, prompts, *rest)

    monkeypatch.setattr(pam, "segment", poisoned)
    payloads = [
        job(tmp_path / "0.png", clicks((50, 50))),
        job(tmp_path / "1.png", clicks((1, 2))),
        job(tmp_path / "2.png", clicks((50, 50))),
    ]
    engine.expect(payloads)
    assert "groups" in engine.perform(payloads[0])
    with pytest.raises(RuntimeError, match="cannot bear"):
        engine.perform(payloads[1])
    assert "groups" in engine.perform(payloads[2])


def test_a_gpus_memory_is_among_the_numbers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [name for name in engine.stats() if "gpu" in name]
    monkeypatch.setattr(PerceiveAnything, "device", torch.device("cuda", 1))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 7 << 30)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 9 << 30)
    found = engine.stats()
    assert (found["gpu_memory_bytes"], found["gpu_memory_peak_bytes"]) == (7 << 30, 9 << 30)
