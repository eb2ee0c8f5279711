"""What a worker computes in one step: the jobs of one or several pictures, their regions through the model together."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.job import Group, JobReply, JobRequest, LabelReply, RegionReply, TextAsk, TextReply
from backend.settings import Settings
from backend.worker.choosing import best_label
from backend.worker.embeddings import Embeddings, Seen
from model.values.sampling import Sampling

if TYPE_CHECKING:
    from model import Embedding, PerceiveAnything, Prompt, Reading, Region, Segment


class _Work:
    """One request under way; `groups` collects its replies."""

    def __init__(self, request: JobRequest, seen: Seen) -> None:
        self.request = request
        self.seen = seen
        self.seconds = {
            "queue": max(0.0, time.time() - request.sent_at),
            "fetch": seen.fetch_s,
            "encode": seen.encode_s,
            **dict.fromkeys(("decode", "prefill", "generate"), 0.0),
        }
        self.groups: list[list[RegionReply]] = [[] for _ in request.groups]

    def reply(self, model_version: str) -> JobReply:
        embedding = self.seen.embedding
        return JobReply(
            width=embedding.width,
            height=embedding.height,
            groups=tuple(map(tuple, self.groups)),
            seconds=self.seconds,
            model_version=model_version,
            cached=self.seen.cached,
        )


@dataclass(frozen=True, eq=False)
class _Found:
    """A region, and where its reply belongs."""

    work: _Work
    number: int
    region: Region

    @property
    def group(self) -> Group:
        return self.work.request.groups[self.number]


class Step:
    """Answers several requests at once: pictures are encoded together, and so are regions decoded, read and described.

    A request that cannot be answered does not hinder the others. Its seconds are its share of what they took together.
    """

    def __init__(self, settings: Settings, pam: PerceiveAnything, gallery: Embeddings) -> None:
        self._settings = settings
        self._pam = pam
        self._gallery = gallery

    def answer(self, requests: Sequence[JobRequest]) -> list[JobReply | Exception]:
        """A reply for each request, or what is wrong with it; raises what is no single request's fault."""
        works: list[_Work | Exception] = [
            _Work(request, seen) if isinstance(seen, Seen) else seen
            for request, seen in zip(
                requests, self._gallery.look([request.picture for request in requests]), strict=True
            )
        ]
        found = self._segment(works)
        self._describe(found)
        return [work.reply(self._pam.version) if isinstance(work, _Work) else work for work in works]

    def _segment(self, works: list[_Work | Exception]) -> list[_Found]:
        """The regions of all works; one whose prompts are at fault becomes that fault."""
        found: list[_Found] = []
        asked: list[tuple[_Work, int, Prompt]] = []
        with _timed([work for work in works if isinstance(work, _Work)], "decode"):
            for place, work in enumerate(works):
                if isinstance(work, Exception):
                    continue
                try:
                    prompts = [self._prompts(work.seen.embedding, group) for group in work.request.groups]
                except Exception as error:
                    works[place] = error
                    continue
                for number, group in enumerate(work.request.groups):
                    asked += [(work, number, prompt) for prompt in prompts[number]]
                    if group.propose:
                        regions = self._pam.propose(work.seen.embedding, limit=self._settings.max_proposals)
                        found += [_Found(work, number, region) for region in regions]
            regions = self._pam.segment([work.seen.embedding for work, _, _ in asked], [prompt for *_, prompt in asked])
        return found + [_Found(work, number, region) for (work, number, _), region in zip(asked, regions, strict=True)]

    def _prompts(self, embedding: Embedding, group: Group) -> list[Prompt]:
        from backend.worker.cut import cut, to_pixels

        width, height = embedding.width, embedding.height
        prompts = [
            cut(self._pam, embedding, prompt)
            if prompt.mask is not None and prompt.points
            else to_pixels(prompt, width, height)
            for prompt in group.prompts
        ]
        for prompt in prompts:
            prompt.check_inside(width, height)
        return prompts

    def _describe(self, found: Sequence[_Found]) -> None:
        """Regions that are asked the same go together, whatever picture they are of."""
        alike: dict[object, list[_Found]] = defaultdict(list)
        for one in found:
            alike[one.group.texts, one.group.label_sets, one.work.request.max_new_tokens].append(one)
        for members in alike.values():
            works = list({id(one.work): one.work for one in members}.values())
            readings = self._pam.readings([one.region for one in members])
            replies: list[RegionReply] = []
            while len(replies) < len(members):
                # each region's prompt is read once, whatever is then asked about it
                with _timed(works, "prefill"):
                    reading = next(readings)
                with _timed(works, "generate"):
                    replies += self._ask(reading, members[0])
            for one, reply in zip(members, replies, strict=True):
                one.work.groups[one.number].append(reply)

    def _ask(self, reading: Reading, like: _Found) -> list[RegionReply]:
        texts = self._texts(reading, like.group.texts, like.work.request.max_new_tokens)
        labels = self._labels(reading, like.group)
        return [_reply(region, t, chosen) for region, t, chosen in zip(reading.regions, texts, labels, strict=True)]

    def _texts(self, reading: Reading, asked: Sequence[TextAsk], max_new_tokens: int) -> list[dict[str, TextReply]]:
        """For each region its texts by `TextAsk.key`."""
        texts: list[dict[str, TextReply]] = [{} for _ in reading.regions]
        sampling = Sampling(max_new_tokens=max_new_tokens)
        by_language = defaultdict(list)
        for ask in asked:
            by_language[ask.language].append(ask)
        for language, asks in by_language.items():
            found = self._pam.describe(reading, [a.task for a in asks], language, sampling)
            for mine, said in zip(texts, found, strict=True):
                for ask in asks:
                    text = said[ask.task]
                    mine[ask.key] = TextReply(string=text.string, score=min(1.0, math.exp(text.mean_logprob)))
        return texts

    def _labels(self, reading: Reading, group: Group) -> list[tuple[LabelReply, ...]]:
        """For each region the likeliest label of each set."""
        chosen: list[list[LabelReply]] = [[] for _ in reading.regions]
        for labels in group.label_sets:
            names = list(dict.fromkeys(name for candidate in labels.candidates for name in candidate.names))
            scores = self._pam.score(reading, names, language=labels.language)
            for mine, row in zip(chosen, scores.tolist(), strict=True):
                mine.append(best_label(labels.candidates, dict(zip(names, row, strict=True))))
        return [tuple(mine) for mine in chosen]


@contextmanager
def _timed(works: Sequence[_Work], stage: str) -> Iterator[None]:
    """Share what the block takes among some works."""
    begin = time.perf_counter()
    yield
    for work in works:
        work.seconds[stage] += (time.perf_counter() - begin) / len(works)


def _reply(region: Segment, texts: dict[str, TextReply], labels: tuple[LabelReply, ...]) -> RegionReply:
    from model.values.mask import to_rle

    return RegionReply(
        mask=to_rle(region.mask),
        area=region.area,
        iou=min(max(region.iou, 0.0), 1.0),
        object_score=region.object_score,
        texts=texts,
        labels=labels,
    )
