"""Start the stack on its embedded defaults, send real Label Studio requests, write pictures and a report."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from rich.console import Console
from rich.progress import track
from rich.table import Table

from backend.run.child import serving
from demo.client import Ask, Outcome, send
from demo.clip import CHANGE, ClipOutcome, make_clip, send_clip
from demo.report import write_report
from demo.truth import read_scenes

HERE = Path(__file__).parent
TINY = (
    "The bundled model is a toy: it learnt its words from drawings. On photographs its masks are rough and it knows "
    "few words for what is there. For real work: --model PAM-3B."
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def pictures_on_http(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback, as a task's picture host; gives its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@contextmanager
def stack(console: Console, log: Path) -> Iterator[str]:
    """Run `python -m backend serve` on a free port with the embedded Redis; gives its URL."""
    with tempfile.TemporaryDirectory(prefix="pallas-demo-", ignore_cleanup_errors=True) as state, ExitStack() as stack:
        # where its pictures lie, see `pictures_on_http`
        own = os.environ | {"PALLAS_STATE_DIR": state, "PALLAS_ALLOWED_HOSTS": "127.0.0.1"}
        own.pop("REDIS_URL", None)
        doing = "starting Redis, the worker and the front; loading the model"
        if not console.is_terminal:
            console.print(doing)
        with console.status(doing):
            try:
                child = stack.enter_context(serving(log, environment=own))
            except RuntimeError as error:
                raise SystemExit(str(error)) from None
        console.print(child.greeting)
        yield child.url


_STAGES = ("queue", "fetch", "encode", "decode", "prefill", "generate")


def print_table(console: Console, outcomes: list[Outcome]) -> None:
    table = Table("picture", "prompt", "truth", "class → label", "caption", "mask", "IoU", *_STAGES, "all")
    for o in outcomes:
        stages = [f"{o.seconds.get(name, 0):.3f}" for name in _STAGES]
        share = f"{100 * o.area / (o.width * o.height):.0f} %"
        match = f"{o.iou:.2f}" if o.iou is not None else ""
        words = (o.ask.truth(), f"{o.class_text} → {o.label}", o.caption)
        table.add_row(o.ask.picture, o.ask.title, *words, share, match, *stages, f"{o.whole_s:.3f}")
    console.print(table)
    console.print(
        "mask: share of the picture; IoU: with the true mask, where it is known; seconds by stage (encode is 0 where "
        "the picture was encoded before)",
        style="dim",
    )
    known = [o for o in outcomes if o.iou is not None]
    right = sum(o.ask.thing is not None and o.class_text == o.ask.thing.kind for o in known)
    if known:
        console.print(
            f"generated pictures that the model never saw: {right} of {len(known)} classes right, "
            f"mean IoU {sum(o.iou or 0.0 for o in known) / len(known):.2f}"
        )


def print_clip(console: Console, tracked: ClipOutcome) -> None:
    console.print(
        f"a clip of a {tracked.clip.kind} that moves from frame {CHANGE} on, one box drawn on frame 1: "
        f"{tracked.keyframes} keyframes, mean IoU with the true boxes {tracked.iou:.2f}, {tracked.whole_s:.1f} s; "
        f'"{tracked.class_text}: {tracked.caption}"'
    )
    for first, last, caption in tracked.events:
        console.print(f"  frames {first} to {last}: {caption}")


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    options.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the pictures and the report")
    out: Path = options.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 160)
    config = (HERE.parent / "label_config.xml").read_text(encoding="utf-8")
    asks = [Ask.from_json(entry) for entry in json.loads((HERE / "requests.json").read_text(encoding="utf-8"))]
    asks += [ask for scene in read_scenes().values() for ask in Ask.of_scene(scene)]
    begin = time.perf_counter()
    with stack(console, out / "stack.log") as url, pictures_on_http(HERE) as host:
        outcomes = [
            send(url, config, ask, f"{host}/{where}", HERE / where, out)
            for ask in track(asks, "sending Label Studio requests", console=console, transient=True)
            for where in ["pictures" if ask.thing is None else "scenes"]
        ]
        clip = make_clip(read_scenes()["test-11-00012"], "ladybird", out / "clip.mp4")
        with console.status("tracking a clip"), pictures_on_http(out) as videos:
            tracked = send_clip(url, (HERE.parent / "label_config_video.xml").read_text("utf-8"), clip, videos, out)
    print_table(console, outcomes)
    print_clip(console, tracked)
    if outcomes[0].model_version.startswith("tiny@"):
        console.print(f"[bold yellow]{TINY.upper()}[/]")
    notice = TINY if outcomes[0].model_version.startswith("tiny@") else ""
    report = write_report(outcomes, tracked, out / "report.html", notice)
    console.print(f"{len(outcomes)} requests answered, {time.perf_counter() - begin:.0f} s in all")
    console.print(f"report: {report}   pictures: {out}/*.png")
    empty = [o.ask for o in outcomes if not o.area]
    if empty:
        console.print(f"[red]nothing found: {', '.join(f'{a.picture} ({a.title})' for a in empty)}[/]")
    # of a photograph the small model may honestly say that nothing is there; its own kind of picture it has to know
    return 1 if any(ask.thing is not None for ask in empty) else 0


if __name__ == "__main__":
    sys.exit(main())
