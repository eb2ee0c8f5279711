"""What a worker computes in one step: the jobs of one or several pictures, their regions through the model together."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from backend.job import Group, JobReply, JobRequest, RegionReply, TextAsk, TextReply
from backend.learning.packing import pack_features
from backend.settings import Settings
from backend.worker.choosing import Chooser
from backend.worker.embeddings import Embeddings, Seen
from backend.worker.finding import NamedFinder, apart, find
from backend.worker.joining import Answering, next_replies, together
from backend.worker.judges import Judges
from backend.worker.replies import region_reply, text_reply
from backend.worker.version_switch import VersionSwitch
from model import Sampling, TokenLimits, run_through
from model.values.mask import to_rle

if TYPE_CHECKING:
    from model import Clock, Embedding, PerceiveAnything, Prompt, Reading, Region, Span


class _Ongoing:
    """One request under way; `groups` collects its replies."""

    def __init__(self, request: JobRequest, seen: Seen) -> None:
        self.request = request
        self.seen = seen
        self.queue_s = max(0.0, time.time() - request.sent_at)
        self.spans: dict[str, list[Span]] = {"decode": [], "prefill": [], "generate": []}
        self.groups: list[list[RegionReply]] = [[] for _ in request.groups]

    def reply(self, model_version: str, features: str) -> JobReply:
        embedding = self.seen.embedding
        return JobReply(
            width=embedding.width,
            height=embedding.height,
            groups=tuple(map(tuple, self.groups)),
            seconds={
                "queue": self.queue_s,
                "fetch": self.seen.fetch_s,
                "encode": self.seen.encode_s,
                **{stage: sum(span.seconds() for span in spans) for stage, spans in self.spans.items()},
            },
            model_version=model_version,
            cached=self.seen.cached,
            features=features,
        )


@dataclass(frozen=True, eq=False)
class _Found:
    """A region, its mask as it travels, and where its reply belongs."""

    asked: _Ongoing
    number: int
    region: Region
    mask: Future[dict[str, Any]]

    @property
    def group(self) -> Group:
        return self.asked.request.groups[self.number]


class Inference:
    """Answers several requests at once: pictures are encoded together, and so are regions decoded, read and described.

    Requests that come later join where the model lets them (`answering`): a click need not wait for another's caption.
    One that cannot be answered does not hinder the others. Its seconds are its share of what they took together.
    """

    def __init__(
        self,
        settings: Settings,
        pam: PerceiveAnything,
        embeddings: Embeddings,
        versions: VersionSwitch | None = None,
        judges: Judges | None = None,
    ) -> None:
        self._settings = settings
        self._pam = pam
        self._embeddings = embeddings
        self._finder = NamedFinder(settings, str(pam.device))
        self._versions = versions
        self._chooser = Chooser(pam, judges)
        # masks are packed while the model reads and tells
        self._packer = ThreadPoolExecutor(1, "packer")

    @property
    def joins(self) -> bool:
        """Whether requests may begin while others are under way, see `answering`."""
        return self._pam.joins

    def run(self, requests: Sequence[JobRequest]) -> list[JobReply | Exception]:
        """A reply for each request, or what is wrong with it; raises what is no single request's fault."""
        replies: dict[int, JobReply | Exception] = {}
        for adapter in dict.fromkeys(request.adapter for request in requests):
            places = [place for place, request in enumerate(requests) if request.adapter == adapter]
            found = run_through(self._answer([requests[place] for place in places]), self._step)
            replies |= zip(places, found, strict=True)
        return [replies[place] for place in range(len(requests))]

    def answering(
        self, first: JobRequest, more: Callable[[], Sequence[JobRequest]]
    ) -> Iterator[tuple[JobRequest, JobReply | Exception | None]]:
        """Requests with their replies, each as soon as it has one; texts of all of them are drawn together.

        Args:
            first: to begin with.
            more: asked between two rounds of token steps for requests that begin now.

        Yields:
            None in place of a reply: what these requests are computed with failed, each should be tried alone.
        """
        waiting = [first]
        under_way: list[tuple[Sequence[JobRequest], Answering]] = []
        try:
            while waiting or under_way:
                begun, waiting = together(waiting, [asked for asked, _ in under_way])
                if begun:
                    under_way.append((begun, self._answer(begun)))
                for asked, answering in list(under_way):
                    replies = next_replies(answering, len(asked))
                    if replies is not None:
                        under_way.remove((asked, answering))
                        yield from zip(asked, replies, strict=True)
                if under_way:
                    self._pam.advance()
                waiting += more()
        finally:
            for _, answering in under_way:
                answering.close()

    def _answer(self, requests: Sequence[JobRequest]) -> Answering:
        """As `run`, of requests to one version of the model; yields where token steps have to be made."""
        ongoing: list[_Ongoing | Exception] = [
            _Ongoing(request, seen) if isinstance(seen, Seen) else seen
            for request, seen in zip(
                requests, self._embeddings.look([request.picture for request in requests]), strict=True
            )
        ]
        # embeddings are the same for all versions of the model
        if self._versions is not None and requests:
            self._versions.use(requests[0].adapter)
        found = self._segment(ongoing)
        yield from self._describe(found)
        return [
            one.reply(self._pam.version, self._looked_at(one)) if isinstance(one, _Ongoing) else one for one in ongoing
        ]

    def _step(self) -> None:
        """Some token steps, and beside them the next picture."""
        self._embeddings.encode_ahead()
        self._pam.advance()

    def _looked_at(self, one: _Ongoing) -> str:
        return pack_features(self._pam.picture_features(one.seen.embedding)) if one.request.look else ""

    def _segment(self, ongoing: list[_Ongoing | Exception]) -> list[_Found]:
        """The regions of all requests; one whose prompts are at fault becomes that fault."""
        found: list[_Found] = []
        asked: list[tuple[_Ongoing, int, Prompt]] = []
        with _timed(self._pam.clock, [one for one in ongoing if isinstance(one, _Ongoing)], "decode"):
            for place, one in enumerate(ongoing):
                if isinstance(one, Exception):
                    continue
                try:
                    prompts = [self._prompts(one.seen.embedding, group) for group in one.request.groups]
                    looked_for = self._look(one)
                except Exception as error:
                    ongoing[place] = error
                    continue
                found += looked_for
                for number, group in enumerate(one.request.groups):
                    asked += [(one, number, prompt) for prompt in prompts[number]]
                    if group.propose:
                        limits = {"limit": self._settings.max_proposals, "max_tiles": self._settings.max_tiles}
                        regions = self._pam.propose(one.seen.embedding, **limits)
                        found += [self._found(one, number, region) for region in regions]
            regions = self._pam.segment([one.seen.embedding for one, _, _ in asked], [prompt for *_, prompt in asked])
        return found + [
            self._found(one, number, region) for (one, number, _), region in zip(asked, regions, strict=True)
        ]

    def _found(self, one: _Ongoing, number: int, region: Region) -> _Found:
        return _Found(one, number, region, self._packer.submit(to_rle, region.mask))

    def _look(self, one: _Ongoing) -> list[_Found]:
        """What a request looks for."""
        asks = {number: group.find for number, group in enumerate(one.request.groups) if group.find is not None}
        if not asks:
            return []
        here, how = (one.request.picture, one.seen.embedding), (self._finder, self._settings.max_tiles)
        kinds = apart([find(self._pam, self._embeddings, *here, ask, *how) for ask in asks.values()])
        return [self._found(one, number, region) for number, kind in zip(asks, kinds, strict=True) for region in kind]

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

    def _describe(self, found: Sequence[_Found]) -> Generator[None, None, None]:
        """Regions that are asked the same go together, whatever picture they are of."""
        alike: dict[object, list[_Found]] = defaultdict(list)
        for one in found:
            group, request = one.group, one.asked.request
            memory = request.memory if group.label_sets else ""
            alike[group.texts, group.label_sets, group.features, request.limits, memory].append(one)
        for members in alike.values():
            if not members[0].group.texts and not members[0].group.label_sets:
                for one, reply in zip(members, self._seen(members), strict=True):
                    one.asked.groups[one.number].append(reply)
                continue
            ongoing = list({id(one.asked): one.asked for one in members}.values())
            readings = self._pam.readings([one.region for one in members])
            replies: list[RegionReply] = []
            while len(replies) < len(members):
                # each region's prompt is read once, whatever is then asked about it
                with _timed(self._pam.clock, ongoing, "prefill"):
                    reading = next(readings)
                with _timed(self._pam.clock, ongoing, "generate"):
                    read = members[len(replies) : len(replies) + len(reading.regions)]
                    replies += yield from self._ask(reading, read)
                del reading  # the next regions are read now
            for one, reply in zip(members, replies, strict=True):
                one.asked.groups[one.number].append(reply)

    def _ask(self, reading: Reading, members: Sequence[_Found]) -> Generator[None, None, list[RegionReply]]:
        like = members[0]
        texts = yield from self._texts(reading, like.group.texts, like.asked.request.limits)
        regions = cast("tuple[Region, ...]", reading.regions)
        labels, features = self._chooser.labels(reading, like.group, like.asked.request.memory)
        shown = self._chooser.shown(regions, like.group.features, features)
        return [
            region_reply(one.region, one.mask.result(), said, chosen, seen)
            for one, said, chosen, seen in zip(members, texts, labels, shown, strict=True)
        ]

    def _seen(self, members: Sequence[_Found]) -> list[RegionReply]:
        """Of regions about which nothing is to be said."""
        shown = self._chooser.shown([one.region for one in members], members[0].group.features)
        return [
            region_reply(one.region, one.mask.result(), {}, (), seen) for one, seen in zip(members, shown, strict=True)
        ]

    def _texts(
        self, reading: Reading, asked: Sequence[TextAsk], limits: TokenLimits
    ) -> Generator[None, None, list[dict[str, TextReply]]]:
        """For each region its texts by `TextAsk.key`."""
        texts: list[dict[str, TextReply]] = [{} for _ in reading.regions]
        sampling = Sampling(max_new_tokens=limits)
        by_language = defaultdict(list)
        for ask in asked:
            by_language[ask.language].append(ask)
        for language, asks in by_language.items():
            found = yield from self._pam.describing(reading, [a.task for a in asks], language, sampling)
            for mine, said in zip(texts, found, strict=True):
                for ask in asks:
                    mine[ask.key] = text_reply(said[ask.task])
        return texts


@contextmanager
def _timed(clock: Clock, ongoing: Sequence[_Ongoing], stage: str) -> Iterator[None]:
    """Share what the block takes among some requests; the seconds are asked for when all is done."""
    begin = clock.now()
    yield
    if ongoing:
        span = clock.since(begin).shared(len(ongoing))
        for one in ongoing:
            one.spans[stage].append(span)
