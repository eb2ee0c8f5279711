"""The arguments of `python -m backend bulk`; apart from the rest, so that other commands need not import it."""

from __future__ import annotations

import argparse
from pathlib import Path

VERBS = ("status", "pause", "resume", "cancel", "retry-failed", "failed", "report")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bulk`."""
    parser.add_argument("verb", nargs="?", choices=VERBS, help="for a job that was begun before; none begins one")
    parser.add_argument("job", nargs="?", help="its name, as `bulk` printed it; `bulk status` lists all")
    what = parser.add_argument_group("tasks")
    what.add_argument("--project", type=int, help="a project's number in Label Studio")
    what.add_argument("--view", type=int, help="only the tasks of this tab of the data manager")
    what.add_argument("--task-ids", help="only these tasks: numbers separated by commas, or @FILE with one a line")
    what.add_argument("--input", type=Path, help="instead: a JSON list of tasks, or a folder of pictures")
    what.add_argument("--output", type=Path, help="the tasks with predictions, for Label Studio's import")
    what.add_argument("--config", type=Path, default=Path("label_config.xml"), help="labelling config for --input")
    what.add_argument("--url-prefix", help="what a folder's pictures are called in the output, before their path")
    what.add_argument("--limit", type=int, help="the first so many tasks only")
    how = parser.add_argument_group("what is wanted of each")
    how.add_argument(
        "--regions",
        nargs="+",
        metavar="WHERE",
        help="from-annotations, from-predictions, from-field NAME, propose; unset: annotations, and as the config says",
    )
    how.add_argument(
        "--find", action="append", default=[], metavar="TEXT[=LABEL]", help='look for it everywhere: dog, "red mug=mug"'
    )
    how.add_argument(
        "--like-labeled",
        action="append",
        default=[],
        metavar="LABEL",
        help="look for what is like the project's annotated regions with this label",
    )
    how.add_argument("--texts", help="names of text controls or kinds (brief, detailed, explain), by commas, or none")
    run = parser.add_argument_group("running it")
    run.add_argument("--dry-run", action="store_true", help="read and plan only: how much there is to do")
    run.add_argument("--detach", action="store_true", help="go on in the background")
    run.add_argument("--report", type=Path, help="write an HTML page with the least certain tasks at the end")
    run.add_argument("--workers", type=int, default=0, dest="own_workers", help="start so many workers for this job")
