"""The Enterprise editor at a video: prompts on any frame, and tracking that is asked for its frames by and by.

A tracking session is a chain of jobs in the queue, whichever worker takes them; what is known of it lies in Redis, so
any front can answer the next question about it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict

from backend.errors import BackendError, BadRequest, NoWorker, PromptError, QueueFull
from backend.job import ClipAsk, ClipMark, ClipObject, ClipReply, JobReply, JobRequest
from backend.label_studio import editor
from backend.label_studio.geometry import BOXES, POINTS, hull, kind_of
from backend.label_studio.protocol import Context, LabelStudioTask, Prediction, PredictRequest
from backend.label_studio.video_clock import Clock, time_of
from backend.labeling.roles import Roles
from backend.labeling.video_roles import VideoRoles
from backend.predict.means import Means
from backend.predict.outcome import Outcome
from backend.predict.sending import request_of
from backend.queueing.queues import BATCH, INTERACTIVE
from backend.tasks.video_plan import ClipPlan
from backend.tasks.wanted import new_id, point_of

_KEY = "pallas:track:"
_OF_TASK = "pallas:tracks:"
_KEPT_S = 1800
_POLL_S = 10.0
_MOST_FRAMES = 600
"""Frames of one session at most, in each direction."""
_MOST_WINDOW = 20

log = logging.getLogger(__name__)


class _Session(BaseModel):
    """One tracking under way: its newest job, and how much of it was handed out; `kind` is of the control it is for."""

    model_config = ConfigDict(frozen=True)

    request: JobRequest
    job: str
    rate: float
    total: int
    kind: str
    given: tuple[int, ...] = ()


class Editor:
    """Answers the events of the protocol; safe to use from many threads."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._redis = means.dispatcher.redis

    def predict(self, asked: PredictRequest, context: Context, roles: Roles, request_id: str) -> Outcome:
        """The answer to an event, or to prompts on a frame. Raises every BackendError there is."""
        event = context.event or "predict"
        if event not in editor.EVENTS:
            raise BadRequest(f"params.context.event {event!r} is not one of {', '.join(editor.EVENTS)}")
        answers: dict[str, Callable[[], dict[str, Any]]] = {
            "capabilities": lambda: self._value("capabilities", editor.capabilities(self._version)),
            "track_progress": lambda: self._value("track_progress", self._progress(context.session_id)),
            "track_cancel": lambda: self._value("track_cancel_ack", self._cancelled(context.session_id)),
            "release": lambda: self._value("release_ack", self._released(asked)),
            "prewarm": lambda: self._value("prewarm_ack", self._warmed(asked, context, roles, request_id)),
            "track": lambda: self._value("track", self._track(asked, context, roles, request_id)),
            "predict": lambda: self._frame(asked, context, roles, request_id),
        }
        item = answers[event]()
        return Outcome([Prediction(result=[item] if item else [], model_version=self._version)])

    @property
    def _version(self) -> str:
        return self._means.dispatcher.model_version()

    def _value(self, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        return {"id": new_id(), "from_name": "", "to_name": "", "type": kind, "origin": "manual", "value": value}

    def _frame(self, asked: PredictRequest, context: Context, roles: Roles, request_id: str) -> dict[str, Any]:
        """The thing at the prompts on one frame, as the video's control has it."""
        task, video = _video(asked, roles)
        if not context.result:
            return {}
        ask = ClipAsk(objects=(_thing(context, video, task),), direction="forward", live=True, most_frames=1)
        reply = self._run(self._request(task, video, ask, request_id))
        masks = reply.objects[0].masks
        if not masks:
            return {}
        kind, name = _output(video)
        value = editor.shape(kind, _mask(masks[0][1]), self._means.settings.polygon_tolerance)
        return self._value(editor.type_of(kind), value) | {"from_name": name, "to_name": video.name}

    def _warmed(self, asked: PredictRequest, context: Context, roles: Roles, request_id: str) -> dict[str, Any]:
        """Have a worker fetch the video, and encode the frames around when nobody clicks: the next prompt is quick."""
        task, video = _video(asked, roles)
        rate = video.rate(task.data)
        request = self._request(task, video, ClipAsk(live=True), request_id)
        reply = self._run(request)
        count = Clock(rate, reply.duration_s).count
        window = min(max(1, context.window), _MOST_WINDOW)
        near = editor.frames(_at(context, rate), window, context.direction, count)
        assert request.clip is not None
        clip = request.clip.model_copy(update={"warm": tuple(time_of(number, rate) for number in near)})
        with suppress(QueueFull, NoWorker):  # then they are encoded when they are asked for
            request = request.model_copy(update={"clip": clip, "sent_at": time.time()})
            self._means.dispatcher.submit(request, BATCH, self._means.dispatcher.holder(request.picture))
        return {"status": "ok", "cached": list(near), "pending": [], "frame_count": count}

    def _track(self, asked: PredictRequest, context: Context, roles: Roles, request_id: str) -> dict[str, Any]:
        task, video = _video(asked, roles)
        rate = video.rate(task.data)
        most = context.max_frames or _MOST_FRAMES
        if context.max_duration_ms:
            most = min(most, max(1, round(context.max_duration_ms / 1000 * rate)))
        most = min(max(1, most), _MOST_FRAMES)
        direction = context.direction if context.direction in ("forward", "backward", "both") else "forward"
        thing = _thing(context, video, task)
        ask = ClipAsk(objects=(thing,), direction=direction, live=True, most_frames=most)
        request = self._request(task, video, ask, request_id)
        try:
            job = self._means.dispatcher.submit_once(request, INTERACTIVE)
        except (QueueFull, NoWorker) as error:
            return {"status": "busy", "error": str(error)}
        name = uuid.uuid4().hex
        total = 2 * most - 1 if direction == "both" else most
        self._keep(name, _Session(request=request, job=job, rate=rate, total=total, kind=_output(video)[0]))
        of_task = _OF_TASK + _whose(asked)
        self._redis.sadd(of_task, name)
        self._redis.expire(of_task, _KEPT_S)
        return {"session_id": name, "status": "started"}

    def _progress(self, name: str) -> dict[str, Any]:
        """The frames that nobody was given yet; waits until there is one."""
        session = self._find(name)
        if session is None:
            return _progress([], 0, 0, True, "no such session: it has ended, or was cancelled")
        until = time.monotonic() + _POLL_S
        while True:
            try:
                with self._means.seats.taken():
                    reply, session = self._next(session, max(0.0, until - time.monotonic()))
            except QueueFull:
                # asked again in a moment, it goes on where it was
                return _progress([], len(session.given), session.total, False, None)
            except BackendError as error:
                self._forget(name)
                return _progress([], len(session.given), session.total, True, str(error))
            done = reply is not None and reply.done
            found = self._unseen(reply, session) if reply is not None else []
            if found or done or time.monotonic() >= until:
                break
        session = session.model_copy(update={"given": (*session.given, *(frame["frame"] for frame in found))})
        if done:
            self._forget(name)
        else:
            self._keep(name, session)
        total = len(session.given) if done else session.total
        return _progress(found, len(session.given), total, done, None)

    def _next(self, session: _Session, seconds: float) -> tuple[ClipReply | None, _Session]:
        """What the session's newest job says, if it comes in time; the next one is put into the queue."""
        dispatcher = self._means.dispatcher
        if dispatcher.missing([session.job]):
            # Redis has lost it, or a session that asked for the same was cancelled, and the job with it
            session = session.model_copy(update={"job": dispatcher.submit_once(session.request, INTERACTIVE)})
        result = dispatcher.results([session.job], seconds).get(session.job)
        if result is None:
            return None, session
        reply = dispatcher.unpack(result, session.request)
        if reply.clip is None or reply.clip.done:
            return reply.clip, session
        assert session.request.clip is not None
        clip = session.request.clip.model_copy(update={"part": session.request.clip.part + 1})
        request = session.request.model_copy(update={"clip": clip, "sent_at": time.time()})
        job = dispatcher.submit_once(request, INTERACTIVE, reply.clip.worker)
        return reply.clip, session.model_copy(update={"request": request, "job": job})

    def _unseen(self, reply: ClipReply, session: _Session) -> list[dict[str, Any]]:
        clock, found = Clock(session.rate, reply.duration_s), {}
        for time_s, rle in reply.objects[0].masks if reply.objects else ():
            number = clock.frame(time_s) - 1
            if number not in session.given:
                found[number] = (time_s, rle)
        frames = []
        for number, (time_s, rle) in sorted(found.items()):
            mask = _mask(rle)
            known = {"frame": number, "time_ms": round(1000 * time_s), "bbox": editor.box(mask)}
            if session.kind in editor.OUTLINES:
                known |= editor.shape(session.kind, mask, self._means.settings.polygon_tolerance)
            frames.append(known | editor.picture(mask))
        return frames

    def _cancelled(self, name: str) -> dict[str, Any]:
        session = self._find(name)
        if session is None:
            return {"status": "not_found"}
        self._means.dispatcher.withdraw(session.job)
        self._forget(name)
        return {"status": "cancelled"}

    def _released(self, asked: PredictRequest) -> dict[str, Any]:
        """The task was left: nobody wants its sessions any longer."""
        key = _OF_TASK + _whose(asked)
        members: Any = self._redis.smembers(key)
        for name in members:
            self._cancelled(name.decode())
        self._redis.delete(key)
        return {"status": "released"}

    def _run(self, request: JobRequest) -> ClipReply:
        """A short job, waited for through all of its parts."""
        worker, click = self._means.dispatcher.holder(request.picture), True
        until = time.monotonic() + self._means.settings.wait_s
        with self._means.seats.taken():
            while True:
                job = self._means.dispatcher.submit_once(request, INTERACTIVE, worker, click)
                result = self._means.dispatcher.results([job], max(0.0, until - time.monotonic())).get(job)
                if result is None:
                    raise QueueFull("no worker came to this frame in time: try again in a moment")
                reply: JobReply = self._means.dispatcher.unpack(result, request)
                assert reply.clip is not None and request.clip is not None
                if reply.clip.done:
                    return reply.clip
                worker, click = reply.clip.worker, False
                clip = request.clip.model_copy(update={"part": request.clip.part + 1})
                request = request.model_copy(update={"clip": clip, "sent_at": time.time()})

    def _request(self, task: LabelStudioTask, video: VideoRoles, ask: ClipAsk, request_id: str) -> JobRequest:
        rate = video.rate(task.data)
        address = self._means.planner.address(task, video)
        plan = ClipPlan(video, address, rate, ask.model_copy(update={"frame_rate": rate}))
        return request_of(plan, request_id, self._means.settings, self._redis)

    def _find(self, name: str) -> _Session | None:
        text: Any = self._redis.get(_KEY + name)
        return _Session.model_validate_json(text) if text is not None else None

    def _keep(self, name: str, session: _Session) -> None:
        self._redis.set(_KEY + name, session.model_dump_json(), ex=_KEPT_S)

    def _forget(self, name: str) -> None:
        self._redis.delete(_KEY + name)


def _video(asked: PredictRequest, roles: Roles) -> tuple[LabelStudioTask, VideoRoles]:
    if len(asked.tasks) != 1:
        raise BadRequest(f"tasks: an interactive request is about one task, this one has {len(asked.tasks)}")
    for video in roles.videos.values():
        if video.address(asked.tasks[0].data) is not None:
            return asked.tasks[0], video
    raise BadRequest("the task has no video of the labelling config's <Video>")


def _whose(asked: PredictRequest) -> str:
    return f"{asked.project}:{asked.tasks[0].id if asked.tasks else ''}"


def _at(context: Context, rate: float) -> int:
    """The frame (from 1) that is asked about; a time beats its number, as clients may count other frames."""
    if context.time_ms is not None:
        return max(1, round(context.time_ms / 1000 * rate) + 1)
    return max(1, context.frame or 1)


def _thing(context: Context, video: VideoRoles, task: LabelStudioTask) -> ClipObject:
    """What the prompts of a context are about: clicks, or a box and clicks, on one frame."""
    rate = video.rate(task.data)
    time_s = context.time_ms / 1000 if context.time_ms is not None else time_of(_at(context, rate), rate)
    points = tuple(point_of(item) for item in context.result if kind_of(item.type) in POINTS)
    drawn = [item for item in context.result if kind_of(item.type) in BOXES]
    box = hull("rectangle", drawn[-1].value) if drawn else None
    if box is None and not any(point.positive for point in points):
        raise PromptError("no click inside a thing and no box: mark one on this frame")
    return ClipObject(marks=(ClipMark(time_s=max(0.0, time_s), box=box, points=points),))


def _output(video: VideoRoles) -> tuple[str, str]:
    for kind in editor.OUTPUTS:
        if kind in video.outputs:
            return kind, video.outputs[kind]
    return editor.MASKS[0], ""


def _mask(rle: dict[str, Any]) -> Any:
    from model.values.mask import from_rle

    return from_rle(rle)


def _progress(frames: list[dict[str, Any]], produced: int, total: int, done: bool, error: str | None) -> dict[str, Any]:
    return {"frames": frames, "produced": produced, "total": total, "done": done, "error": error}
