"""python -m model perceive | find | stream | fetch | try"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from model import find_command as finding
from model.errors import ModelError, PromptError
from model.loading import hub
from model.values.task import LANGUAGES, Task, VideoTask
from model.values.window import LARGE_SIDE

if TYPE_CHECKING:
    from model.pam import PerceiveAnything
    from model.values.prompt import Prompt
    from model.values.region import Perception

DEFAULT_MODEL = "tiny"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m model", description="Perceive Anything (PAM) from the shell.")
    commands = top.add_subparsers(dest="command", required=True)
    asking, model = _asking(), _model()
    perceive = commands.add_parser(
        "perceive",
        parents=[asking, model],
        help="mask, class and texts of regions of a picture or video",
        description="Each --box and each --mask is a region of its own; all points together are one region, or, with "
        "exactly one box, belong to that box. In a video the regions are tracked from --frame to both ends.",
    )
    perceive.add_argument("--refine", action="store_true", help="let SAM 2 refine the given masks")
    perceive.add_argument(
        "--task",
        action="append",
        choices=[*(task.value for task in Task), VideoTask.CAPTION.value],
        help="what to say; may be given several times (recognize and brief if never; caption is for videos)",
    )
    perceive.add_argument(
        "--large",
        type=int,
        default=LARGE_SIDE,
        help=f"small things in pictures with a longer side are looked at in crops; 0: never ({LARGE_SIDE})",
    )
    perceive.add_argument("--out", type=Path, help="write the picture, or the video (.mp4), with masks and captions")
    finding.add_arguments(commands, model)
    stream = commands.add_parser(
        "stream",
        parents=[asking, model],
        help="tell what a thing in a video does, event by event",
        description="The prompt is one box, mask, or points, on the first frame that is looked at (--frame).",
    )
    stream.add_argument("--clip-length", type=int, default=32, help="frames of an event at most (32)")
    stream.add_argument("--fixed", action="store_true", help="events of this length, whatever happens in them")
    fetch = commands.add_parser(
        "fetch", help="download weights", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_models_table()
    )
    fetch.add_argument("name", help="PAM-1.5B, PAM-3B, or any hub id; @ and a commit's 40 digits pin it")
    trying = commands.add_parser(
        "try",
        parents=[_how()],
        help="load a model, click on a photograph, say how long it took and whether that is an answer",
    )
    trying.add_argument("model", nargs="?", default=DEFAULT_MODEL, help=f"name, folder or hub id ({DEFAULT_MODEL})")
    trying.add_argument("--picture", type=Path, help="another one than the demo's; with --box")
    trying.add_argument("--box", nargs=4, type=float, metavar=("X1", "Y1", "X2", "Y2"), help="around one thing in it")
    trying.add_argument("--out", type=Path, default=Path("pallas-try.png"), help="the overlay (pallas-try.png)")
    return top


def _asking() -> argparse.ArgumentParser:
    """What is asked about, and how the answer is wanted."""
    asking = argparse.ArgumentParser(add_help=False)
    asking.add_argument(
        "image", type=Path, help="a picture (JPEG, PNG, WebP, GIF, BMP, TIFF), a video file, or a folder of frames"
    )
    asking.add_argument("--box", nargs=4, type=float, action="append", default=[], metavar=("X1", "Y1", "X2", "Y2"))
    asking.add_argument("--point", nargs=2, type=float, action="append", default=[], metavar=("X", "Y"))
    asking.add_argument(
        "--negative", nargs=2, type=float, action="append", default=[], metavar=("X", "Y"), help="a point outside"
    )
    asking.add_argument("--mask", type=Path, action="append", default=[], help="a picture, white = region")
    asking.add_argument("--frame", type=int, default=0, help="of a video: the frame that the prompts are on (0)")
    asking.add_argument("--frame-rate", type=float, help="of a video: look at about so many frames a second (all)")
    asking.add_argument("--language", choices=LANGUAGES, default="en")
    asking.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    asking.add_argument("--max-new-tokens", type=int, help="longest text, whatever is asked (by task: 64 to 512)")
    asking.add_argument(
        "--json", action="store_true", help="one JSON object on standard output, of a stream one a line"
    )
    return asking


def _model() -> argparse.ArgumentParser:
    model = argparse.ArgumentParser(add_help=False, parents=[_how()])
    model.add_argument("--model", default=DEFAULT_MODEL, help=f"name, folder or hub id ({DEFAULT_MODEL})")
    return model


def _how() -> argparse.ArgumentParser:
    """How a model is loaded."""
    how = argparse.ArgumentParser(add_help=False)
    how.add_argument("--sam2", help="SAM 2 weights, where the model's folder has none")
    how.add_argument("--sam2-config", help="the Hydra config of those weights")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    how.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    how.add_argument("--quantize", default="none", help="none; int8: the language model in eight bits, on a CPU")
    how.add_argument("--compile", action="store_true", help="compile all first, on a GPU as workers do: takes minutes")
    return how


def _models_table() -> str:
    rows = [("name", "hub id", "download", "memory", "for")]
    rows += [(r.name, r.hub_id or "", f"{r.download_gb:g} GB", f"{r.memory_gb:g} GB", r.summary) for r in hub.KNOWN]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        commands = {"fetch": _fetch, "find": _find, "perceive": _perceive, "stream": _stream, "try": _try}
        return commands[options.command](options)
    except (ModelError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{type(error).__name__}: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1


def _fetch(options: argparse.Namespace) -> int:
    from model.loading.fetch import fetch

    fetch(options.name)
    return 0


def _try(options: argparse.Namespace) -> int:
    from model import open_picture
    from model.overlay import draw_regions
    from model.trial import BOX, PICTURE, try_model
    from model.values.prompt import Prompt

    if (options.picture is None) != (options.box is None):
        raise PromptError("--picture and --box go together: a box around one thing in your own picture")
    picture, prompt = open_picture(options.picture or PICTURE), Prompt(box=tuple(options.box or BOX))
    prompt.check_inside(picture.width, picture.height)
    trial = try_model(lambda: _load(options), picture, prompt, (Task.RECOGNIZE, Task.BRIEF, Task.DETAILED))
    captions = [": ".join(map(str, trial.texts.values()))]
    draw_regions(picture, [trial.region.mask], [prompt], captions).save(options.out)
    print(trial.report())
    print(f"overlay: {options.out}")
    print("\n".join(f"fault: {fault}" for fault in trial.faults) or "It answers; whether rightly, the overlay shows.")
    return int(bool(trial.faults))


def _load(options: argparse.Namespace) -> PerceiveAnything:
    from model import PerceiveAnything

    return PerceiveAnything.from_pretrained(
        options.model,
        options.sam2,
        options.sam2_config,
        options.device,
        options.dtype,
        compile=options.compile,
        quantize=options.quantize,
        # one command is over before compiling pays
        resident=None if options.compile else False,
    )


def _find(options: argparse.Namespace) -> int:
    return finding.run(options, lambda: _load(options))


def _stream(options: argparse.Namespace) -> int:
    prompts = _prompts(options)
    from model import video_command as command

    if len(prompts) != 1:
        raise PromptError(f"{len(prompts)} regions: a stream is about one thing")
    video, frame = command.open_thinned(options.image, options)
    prompts[0].check_inside(video.width, video.height)
    command.stream(_load(options), command.from_frame(video, frame), prompts[0], options)
    return 0


def _perceive(options: argparse.Namespace) -> int:
    prompts = _prompts(options)
    from model import open_picture
    from model import video_command as command
    from model.video.opening import is_video

    if is_video(options.image):
        video, frame = command.open_thinned(options.image, options)
        for prompt in prompts:
            prompt.check_inside(video.width, video.height)
        command.perceive(_load(options), video, frame, prompts, options)
        return 0
    if options.frame or VideoTask.CAPTION.value in (options.task or ()):
        raise ValueError(f"{options.image} is a picture: --frame and --task caption are for videos")
    image = open_picture(options.image)
    for prompt in prompts:
        prompt.check_inside(image.width, image.height)
    pam = _load(options)
    tasks = [Task(name) for name in options.task or (Task.RECOGNIZE, Task.BRIEF)]
    sampling = command.sampling_of(options)
    found = pam.perceive(
        image, prompts, tasks, options.language, sampling, refine_masks=options.refine, large=options.large
    )
    if options.out:
        from model.overlay import draw_regions

        captions = [": ".join(text.string for text in texts.values()) for _, texts in found]
        draw_regions(image, [region.mask for region in found.regions], prompts, captions).save(options.out)
    print(_as_json(found, pam, image.size) if options.json else _as_lines(found, prompts))
    return 0


def _prompts(options: argparse.Namespace) -> list[Prompt]:
    from model.values.prompt import Prompt

    points = [(x, y, 1) for x, y in options.point] + [(x, y, 0) for x, y in options.negative]
    if points and len(options.box) == 1:
        prompts = [Prompt(points=points, box=tuple(options.box[0]))]
    else:
        prompts = [Prompt(box=tuple(box)) for box in options.box]
        if points:
            if not options.point:
                raise PromptError("only --negative points: add a --point inside the region, or one --box around it")
            prompts.append(Prompt(points=points))
    prompts += [Prompt(mask=_read_mask(path)) for path in options.mask]
    if not prompts:
        raise PromptError("no prompt: give --point X Y, --box X1 Y1 X2 Y2 or --mask FILE")
    return prompts


def _read_mask(path: Path):  # type: ignore[no-untyped-def]  # numpy is imported late
    import numpy as np

    from model import open_picture

    return np.asarray(open_picture(path).convert("L")) > 127


def _as_json(found: Perception, pam: PerceiveAnything, size: tuple[int, int]) -> str:
    from model.values.region import region_to_json

    answer = {
        "model": pam.version,
        "device": str(pam.device),
        "width": size[0],
        "height": size[1],
        "seconds": found.seconds,
        "regions": [region_to_json(region, texts) for region, texts in found],
    }
    return json.dumps(answer, ensure_ascii=False)


def _as_lines(found: Perception, prompts: list[Prompt]) -> str:
    lines = []
    for i, (region, texts) in enumerate(found):
        box = "none" if region.box is None else ", ".join(f"{v:g}" for v in region.box)
        lines.append(f"region {i + 1}: {region.area} pixels, box {box}, IoU {region.iou:.2f}")
        for task, text in texts.items():
            lines.append(f"  {task}: {text.shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
