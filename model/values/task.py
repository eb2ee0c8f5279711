"""The text tasks of PAM and the exact instructions its weights were trained with (arXiv 2506.05302, section 3)."""

from __future__ import annotations

from enum import StrEnum

LANGUAGES = ("en", "zh")


class Task(StrEnum):
    """What to say about a region. The values are the names used on the command line and in JSON."""

    RECOGNIZE = "recognize"
    """The class of the region, a word or a few."""
    BRIEF = "brief"
    """A caption of one clause."""
    DETAILED = "detailed"
    """A caption of one or more sentences."""
    EXPLAIN = "explain"
    """The class with its definition and its function in context."""


class VideoTask(StrEnum):
    """What to say about a region in a clip; a free instruction may stand instead, and a `Task` asks one picture."""

    CAPTION = "caption"
    """What the region does in the clip."""


_VIDEO_INSTRUCTIONS = {
    "en": "Provide a caption for this subject in this video.\nPrevious caption: {previous}",
    "zh": "对该视频中的目标对象提供一个描述。\n历史描述：{previous}",
}
_NONE_BEFORE = {"en": "None", "zh": "无"}

_INSTRUCTIONS: dict[tuple[Task, str], str] = {
    (Task.RECOGNIZE, "en"): "Classify this subject and provide its label.",
    (Task.RECOGNIZE, "zh"): "对该目标对象进行分类并提供标签",
    (Task.BRIEF, "en"): "Provide a concise caption for this subject.",
    (Task.BRIEF, "zh"): "对该目标对象提供一个概括的描述",
    (Task.DETAILED, "en"): "Provide a comprehensive and detailed description for this subject.",
    (Task.DETAILED, "zh"): "对该目标对象提供一个全面且详细的描述",
    (Task.EXPLAIN, "en"): "Classify this subject and provide the label and its definition.",
    (Task.EXPLAIN, "zh"): "对该目标对象进行分类并提供标签和名词功能解释",
}


def video_instruction(task: VideoTask | str, language: str = "en", previous: str = "") -> str:
    """The instruction that stands after a clip in the prompt, byte for byte as PAM was trained.

    Args:
        task: a `VideoTask` (or its value), or any other string, which is then used as the instruction itself.
        language: "en" or "zh"; ignored for a free instruction.
        previous: what was said about the clip before in the same video; empty where this is the first.

    Raises:
        ValueError: for a language that PAM has no instructions in, or an empty instruction.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language {language!r} is not one of {', '.join(LANGUAGES)}")
    if task == VideoTask.CAPTION:
        return _VIDEO_INSTRUCTIONS[language].format(previous=previous or _NONE_BEFORE[language])
    if not task.strip():
        raise ValueError("an empty instruction: give a VideoTask or a sentence")
    return str(task)


def instruction(task: Task | str, language: str = "en") -> str:
    """The instruction that stands after the image in the prompt, byte for byte as PAM was trained.

    Args:
        task: a `Task` (or its value), or any other string, which is then used as the instruction itself.
        language: "en" or "zh"; ignored for a free instruction.

    Raises:
        ValueError: for a language that PAM has no instructions in, or an empty instruction.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language {language!r} is not one of {', '.join(LANGUAGES)}")
    try:
        return _INSTRUCTIONS[Task(task), language]
    except ValueError:
        if not task.strip():
            raise ValueError("an empty instruction: give a Task or a sentence") from None
        return str(task)
