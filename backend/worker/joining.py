"""Requests under way beside each other: which of them begin, and what each step brings."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence

from backend.job import JobReply, JobRequest

log = logging.getLogger(__name__)

Answering = Generator[None, None, list[JobReply | Exception]]


def next_replies(answering: Answering, count: int) -> Sequence[JobReply | Exception | None] | None:
    """The replies, if this was the last step to them; None for each if it fails."""
    try:
        next(answering)
    except StopIteration as done:
        replies: list[JobReply | Exception] = done.value
        return replies
    except Exception:
        log.exception("%d jobs failed together", count)
        return [None] * count
    return None


def together(
    waiting: list[JobRequest], under_way: Sequence[Sequence[JobRequest]]
) -> tuple[list[JobRequest], list[JobRequest]]:
    """Requests that begin now, and those that wait until all others are done: weights are of one version at a time.

    Once one of another version waits, nothing joins any more.
    """
    version = under_way[0][0].adapter if under_way else waiting[0].adapter if waiting else ""
    if under_way and any(request.adapter != version for request in waiting):
        return [], waiting
    begun = [request for request in waiting if request.adapter == version]
    return begun, [request for request in waiting if request.adapter != version]
