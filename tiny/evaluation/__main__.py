"""`python -m tiny.evaluation [--seed N] [--clips N] [--find N] [--named] [--json]`: a checkpoint, measured.

Everything goes through the public façade. What is shown comes from `tiny`; its drawings have to be fetched
once (`python -m tiny art`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from model import PerceiveAnything
from tiny.art import ArtMissing, Catalog, load
from tiny.clips import Director
from tiny.evaluation import clips, finding, named, photographs, pictures
from tiny.scenes import Painter


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 when the drawings are not there."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=options.json)
    try:
        catalog = load(options.art)
    except ArtMissing as error:
        print(f"The held-out evaluation draws its scenes from packages that are not here yet: {error}", file=sys.stderr)
        return 2
    pam = PerceiveAnything.from_pretrained(
        options.model, device=options.device, dtype=options.dtype, quantize=options.quantize
    )
    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {}
    if options.count:
        report |= _pictures(pam, catalog, options, console)
    if options.clips:
        report |= _clips(pam, catalog, options, console)
    if options.find:
        report |= _finding(pam, catalog, options, console)
    if options.named:
        report |= _named(pam, options, console)
    if options.photographs:
        try:
            found = photographs.figures(pam, options.photographs, console)
        except photographs.TruthMissing as error:
            print(error, file=sys.stderr)
            return 2
        if not options.json:
            console.print(_table("photographs", found, photographs.TARGETS))
        report |= _rounded(found)
    report["seed"] = options.seed
    (options.out / "figures.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(report))
    else:
        console.print(f"contact sheets and figures.json are in {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tiny.evaluation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny", help="checkpoint name or folder")
    parser.add_argument("--art", type=Path, default=Path(".art"), help="folder of the fetched drawings")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other scenes")
    parser.add_argument("--count", type=int, default=200, help="scenes of each split")
    parser.add_argument("--clips", type=int, default=0, help="clips of the test split")
    parser.add_argument("--find", type=int, default=0, help="scenes of the test split with several of a kind")
    parser.add_argument(
        "--fit", action="store_true", help="with --find: print the numbers of model/finding/calibration.py instead"
    )
    parser.add_argument("--named", action="store_true", help="names of things on photographs, see named.yaml")
    parser.add_argument("--photographs", type=Path, help="folder of pictures/ and truth.json with regions people drew")
    parser.add_argument("--out", type=Path, default=Path("evaluation"), help="folder for contact sheets, figures.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument("--quantize", default="none", help="none; int8: the language model in eight bits, on a CPU")
    return parser


def _pictures(pam: PerceiveAnything, catalog: Catalog, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    test = pictures.run(pam, Painter(catalog, "test", options.seed), options.count, console)
    transfer = pictures.run(pam, Painter(catalog, "transfer", options.seed), options.count, console)
    found = pictures.figures(test, transfer)
    found["seconds_per_click"] = pictures.measure_click(pam, test)
    pictures.contact_sheet(test[:32]).save(options.out / "contact-sheet.png")
    pictures.contact_sheet(transfer[:32]).save(options.out / "contact-sheet-transfer.png")
    wrong = pictures.confusions(test)
    if not options.json:
        console.print(_table("held-out scenes", found, pictures.TARGETS))
        confused = Table("truth", "said", "times", title="commonest confusions")
        for truth, said, count in wrong[:15]:
            confused.add_row(truth, said, str(count))
        console.print(confused)
    return {**_rounded(found), "scenes": options.count, "things": len(test), "confusions": wrong[:20]}


def _clips(pam: PerceiveAnything, catalog: Catalog, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    cases = clips.run(pam, Director(Painter(catalog, "test", options.seed)), options.clips, console)
    found = clips.figures(cases)
    clips.filmstrips(cases[:12]).save(options.out / "filmstrips.png")
    if not options.json:
        console.print(_table("held-out clips", found, clips.TARGETS))
    return {**_rounded(found), "clips": options.clips}


def _finding(pam: PerceiveAnything, catalog: Catalog, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    if options.fit:
        # other pictures than those that are measured
        fitted = finding.fit(pam, Painter(catalog, "val", options.seed), options.find, console)
        if not options.json:
            console.print(fitted)
        return {"calibration": fitted}
    tallies = finding.run(pam, Painter(catalog, "test", options.seed), options.find, console)
    found = finding.figures(tallies)
    if not options.json:
        console.print(_table("several of a kind", found, finding.TARGETS))
    return {**_rounded(found), "several": options.find}


def _named(pam: PerceiveAnything, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    found, said = named.figures(pam, options.art, console)
    if not options.json:
        console.print(_table("things on photographs", found, named.TARGETS))
        names = Table("photograph", "is", "said")
        for row in said:
            names.add_row(*row)
        console.print(names)
    return {**_rounded(found), "named": len(said)}


def _rounded(found: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in found.items()}


def _table(title: str, found: dict[str, float], targets: dict[str, float | None]) -> Table:
    table = Table("figure", "value", "target", title=title)
    for key, value in found.items():
        target = targets.get(key)
        missed = target is not None and value < target
        table.add_row(key, f"{value:.3f}", f"≥ {target:.2f}" if target else "", style="red" if missed else None)
    return table


if __name__ == "__main__":
    sys.exit(main())
