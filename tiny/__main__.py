"""`python -m tiny art | scenes | clips | fit | export`: the small checkpoint from nothing but packages."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from model.errors import CheckpointError
from tiny import art
from tiny.clips import Director
from tiny.clips import export as film
from tiny.scenes import SPLITS, Painter, export


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tiny", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("art", help="fetch the drawings and photographs from Debian and npm packages")
    scenes = commands.add_parser("scenes", help="write pictures with truth.json")
    clips = commands.add_parser("clips", help="write short videos with clips.json")
    for command in (scenes, clips):
        command.add_argument("--count", type=int, default=20)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--split", choices=SPLITS, default="test")
        command.add_argument("--seed", type=int, default=0)
    fit = commands.add_parser("fit", help="train, or go on with a training that was stopped")
    fit.add_argument("--stage", choices=("all", "pool", "regions", "segment", "memory", "speak"), default="all")
    fit.add_argument("--start", type=Path, help="a checkpoint folder to fine-tune instead of beginning anew")
    fit.add_argument("--after", type=Path, help="the run folder that --start came from: its heads and optimisers go on")
    fit.add_argument("--minutes", type=float, help="what all lessons take together, instead of the recipe's")
    done = commands.add_parser(
        "export", help="write the trained weights, run card and curves into the checkpoint folder"
    )
    done.add_argument("--figures", type=Path, help="figures.json of model.evaluation, for the run card")
    for command in (fetch, scenes, clips, fit, done):
        command.add_argument("--art", type=Path, default=Path(".art"), help="folder of the fetched drawings")
    for command in (fit, done):
        command.add_argument(
            "--run", type=Path, default=Path(".run"), help="folder of the pool, the states and the log"
        )
        command.add_argument("--recipe", type=Path, help="YAML; by default the bundled checkpoint's")
        command.add_argument(
            "--checkpoint", type=Path, help="gets the result; its sam2.yaml says the shape (RUN/checkpoint)"
        )
        command.add_argument("--device", default="auto", help="auto, cpu, cuda")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 when the drawings, or the checkpoint or run to go on from, are not there or do not fit."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "art":
            from tiny import photographs, trunk  # torch is slow to import

            catalog = art.fetch(options.art)
            shown = len(photographs.fetch(options.art))
            trunk.fetch(options.art)
            print(
                f"{len(catalog.drawings)} drawings of {len(art.kinds())} classes, {shown} photographs in {options.art}"
            )
        elif options.command == "scenes":
            target = export(Painter(art.load(options.art), options.split, options.seed), options.count, options.out)
            print(f"{options.count} scenes and {target}")
        elif options.command == "clips":
            director = Director(Painter(art.load(options.art), options.split, options.seed))
            print(f"{options.count} clips and {film(director, options.count, options.out)}")
        else:
            _train(options)
    except (art.ArtMissing, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _train(options: argparse.Namespace) -> None:
    from tiny import (
        speaking,  # torch and transformers are slow to import
        stages,  # torch and transformers are slow to import
    )
    from tiny.place import Place
    from tiny.recipe import DEFAULT, read

    place = Place(options.art, options.run, options.checkpoint or options.run / "checkpoint")
    place.prepare()
    recipe = read(options.recipe or DEFAULT)
    if options.command == "export":
        figures = json.loads(options.figures.read_text(encoding="utf-8")) if options.figures else None
        taken = stages.finish(place, recipe, figures)
        print(f"{taken / 1e6:.1f} MB of weights in {place.checkpoint}")
        return
    if options.minutes is not None:
        recipe = recipe.within(options.minutes)
    device = stages.prepare(recipe.seed, options.device)
    if options.stage in ("all", "pool"):
        stages.draw_pool(place, recipe)
    if options.stage in ("all", "regions"):
        stages.make_regions(place, recipe)
    if options.stage in ("all", "segment"):
        stages.segment(place, recipe, device, options.start, options.after)
    if options.stage in ("all", "memory"):
        stages.remember(place, recipe, device, options.start)
    if options.stage in ("all", "speak"):
        speaking.speak(place, recipe, device, options.start)


if __name__ == "__main__":
    sys.exit(main())
