"""The engine of a worker: a job's request in, its reply out; and several jobs' at once."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from backend import logs
from backend.errors import BackendError, BadRequest, from_model
from backend.job import VERSION, FitRequest, JobReply, JobRequest
from backend.queueing import alarm
from backend.settings import Settings
from backend.worker.embeddings import Embeddings
from backend.worker.fit_starter import FitStarter
from backend.worker.inference import Inference
from backend.worker.judges import Judges
from backend.worker.version_switch import VersionSwitch
from backend.worker.video_sessions import VideoSessions

if TYPE_CHECKING:
    from model import PerceiveAnything

log = logging.getLogger(__name__)

_resident: Engine | None = None
"""The engine of this process: rq calls `perform` by name, so the function must find it here."""


def perform(payload: dict[str, Any]) -> dict[str, Any]:
    """The job function: a JobRequest as JSON in, a JobReply or {"error": ...} as JSON out."""
    assert _resident is not None, "this function runs inside a Pallas worker only"
    logs.begin_request(logs.sane_id(str(payload.get("request_id"))) or "")
    begin = time.perf_counter()
    reply = _resident.perform(payload)
    _log(reply, time.perf_counter() - begin)
    return reply


def _log(reply: dict[str, Any], seconds: float) -> None:
    """The one line of a job."""
    fields: dict[str, Any] = {"seconds": round(seconds, 4)}
    words = [f"job {seconds:.3f}s"]
    if "error" in reply:
        fields["error"] = reply["error"]
        words.append(f"{reply['error']['type']}: {reply['error']['message']}")
    else:
        fields["stages"] = stages = {name: round(value, 4) for name, value in reply["seconds"].items()}
        words += [f"{name}={value:.3f}" for name, value in stages.items()]
    log.info("%s", " ".join(words), extra={"fields": fields})


def make_resident(engine: Engine) -> None:
    """Let `perform` answer with this engine from now on."""
    global _resident
    _resident = engine


def expect(payloads: Sequence[dict[str, Any]]) -> None:
    """Tell this process's engine what it will be asked next; see `Engine.expect`."""
    if _resident is not None:
        _resident.expect(payloads)


def coming(payloads: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> None:
    """Tell this process's engine what it may be asked after what it is asked now; see `Engine.coming`."""
    if _resident is not None:
        _resident.coming(payloads, now)


def joins() -> bool:
    """Whether this process's engine lets jobs begin while others are under way."""
    return _resident is not None and _resident.joins


def answering(payload: dict[str, Any], more: Callable[[], Sequence[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Jobs that `perform` answers without computing from now on; see `Engine.answering`."""
    assert _resident is not None
    return _resident.answering(payload, more)


def resident_stats() -> dict[str, float]:
    """Of this process's engine; empty while it is loading."""
    return _resident.stats() if _resident is not None else {}


class Engine:
    """Answers jobs with a loaded model."""

    def __init__(
        self,
        settings: Settings,
        pam: PerceiveAnything,
        embeddings: Embeddings,
        videos: VideoSessions | None = None,
        versions: VersionSwitch | None = None,
        fits: FitStarter | None = None,
        judges: Judges | None = None,
    ) -> None:
        self._pam = pam
        self._videos = videos
        self._embeddings = embeddings
        self._versions = versions
        self._fits = fits
        self._inference = Inference(settings, pam, embeddings, versions, judges)
        self._expected: list[dict[str, Any]] = []
        self._ready: dict[str, JobReply | Exception] = {}

    @property
    def model_version(self) -> str:
        return self._pam.base_version

    def stats(self) -> dict[str, float]:
        """For /metrics: what the worker remembers of pictures, and its GPU's memory in bytes."""
        found = self._embeddings.stats()
        if self._pam.device.type == "cuda":
            import torch

            found["gpu_memory_bytes"] = torch.cuda.memory_reserved(self._pam.device)
            found["gpu_memory_peak_bytes"] = torch.cuda.max_memory_allocated(self._pam.device)
        return found

    def warm_up(self) -> None:
        """Run the whole path once, so that the first click does not pay for lazy initialisation."""
        from PIL import Image

        from model import Prompt, Sampling, Task

        found = self._pam.perceive(
            Image.new("RGB", (64, 64), "gray"),
            [Prompt(points=[(32, 32, 1)])],
            [Task.BRIEF],
            sampling=Sampling(max_new_tokens=2),
        )
        self._pam.score(found.regions, ["a", "b"])

    def expect(self, payloads: Sequence[dict[str, Any]]) -> None:
        """These will be given to `perform` one after the other: the first call computes all of them together."""
        self._expected = list(payloads) if len(payloads) > 1 else []
        self._ready = {}

    def coming(self, payloads: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]] = ()) -> None:
        """These wait behind what is to be performed now: their pictures are got ready meanwhile."""
        self._embeddings.expect(_pictures(payloads), _pictures(now))

    @property
    def joins(self) -> bool:
        """Whether jobs about pictures may begin while others are under way."""
        return self._inference.joins

    def answering(
        self, payload: dict[str, Any], more: Callable[[], Sequence[dict[str, Any]]]
    ) -> Iterator[dict[str, Any]]:
        """Jobs in the order in which they are done: each is to be given to `perform` then, which has its reply.

        Args:
            payload: of the first job.
            more: asked again and again for payloads of jobs that begin now; none of them is about a video.
        """
        self._ready = {}
        payloads: dict[int, dict[str, Any]] = {}
        unread: list[dict[str, Any]] = []  # what is wrong with them is said when their turn comes

        def known(several: Sequence[dict[str, Any]]) -> list[JobRequest]:
            requests = []
            for one in several:
                try:
                    request = _request(one)
                except Exception:
                    unread.append(one)
                    continue
                payloads[id(request)] = one
                requests.append(request)
            return requests

        first = known([payload])
        for request, result in self._inference.answering(first[0], lambda: known(more())) if first else ():
            yield from unread
            unread.clear()
            done = payloads.pop(id(request))
            if result is not None:
                self._ready[_key(done)] = result
            yield done
        yield from unread

    def perform(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The reply, or the error that the request caused; other faults are raised and rq records them."""
        if payload in self._expected:
            self._perform_expected()
        result = self._ready.pop(_key(payload), None)
        try:
            if "fit" in payload:
                return self._fit(payload)
            if result is None:
                request = _request(payload)
                (result,) = self._inference.run([request]) if request.clip is None else [self._clip(request)]
            if isinstance(result, Exception):
                raise result
            return result.model_dump(mode="json")
        except BackendError as error:
            return {"error": error.to_wire()}
        except Exception as error:
            known = from_model(error)
            if known is None:
                raise
            return {"error": known.to_wire()}

    def _clip(self, request: JobRequest) -> JobReply:
        assert self._videos is not None, "a worker without videos"
        if self._versions is not None:
            self._versions.use(request.adapter)
        return self._videos.advance(request)

    def _fit(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Begin a run of `fit` beside this worker; it does not wait for its end."""
        assert self._fits is not None, "a worker without runs"
        request = FitRequest.model_validate(payload["fit"])
        self._fits.start(request)
        return {"seconds": {}, "fit": request.job}

    def _perform_expected(self) -> None:
        payloads, self._expected = self._expected, []
        requests = {}
        for payload in payloads:
            try:
                requests[_key(payload)] = _request(payload)
            except Exception as error:
                self._ready[_key(payload)] = error
        # no single request's fault, or one that was not caught: each of them is tried alone when its turn comes
        try:
            self._ready |= zip(requests, self._inference.run(list(requests.values())), strict=True)
        except alarm.JobOverran:
            log.warning("%d jobs take too long together: each is tried alone", len(requests))
            alarm.begin_anew()
        except Exception:
            log.exception("%d jobs failed together", len(requests))


def _pictures(payloads: Sequence[dict[str, Any]]) -> list[str]:
    """The addresses in payloads that nobody has checked yet."""
    found = [one.get("picture") for one in payloads if one.get("clip") is None]
    return [picture for picture in found if isinstance(picture, str) and picture]


def _request(payload: dict[str, Any]) -> JobRequest:
    if payload.get("version") != VERSION:
        raise BadRequest("a job of another version of Pallas: run the same version everywhere")
    return JobRequest.model_validate(payload)


def _key(payload: dict[str, Any]) -> str:
    return json.dumps(payload, sort_keys=True)
