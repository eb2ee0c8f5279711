"""Everything that a GPU should be asked, in one command, with nothing prepared.

    python -m benchmarks.gpu [--minutes 9] [--model-size 3b] [--out DIR] [--device auto] [--parts click,tokens]

Makes a checkpoint of the released shapes with random weights on the card, then runs its parts in order of worth, in a
child process, each with its own time limit: one that hangs costs the run nothing but itself. Figures are written as
they are found (DIR/gpu.jsonl, and as a page for benchmarks/RESULTS.md DIR/gpu.md). Random weights say nothing that
makes sense; they take as long as the real ones. The aims are those of PAM-3B's shapes on one H100. Without a GPU:

    python -m benchmarks.gpu --device cpu --model-size tiny
"""

from __future__ import annotations

import argparse
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from backend.system.compiled import keep_in
from benchmarks.gpu.rows import Row, read_row, write_page

MODEL_SIZES = ("3b", "1.5b", "tiny")
_BEGIN = "begin "
_ROOM_BYTES = 12e9


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts of the command line; 1 where one of them could not be measured."""
    options = _options(arguments)
    from benchmarks.gpu.parts import PARTS
    from model.compute.device import pick_device

    device = pick_device(options.device)
    chosen = [part for part in PARTS if not options.parts or part.name in options.parts.split(",")]
    if options.child:
        return _child(options, device)
    options.out.mkdir(parents=True, exist_ok=True)
    facts, rows = _facts(device, options), []
    end = time.monotonic() + 60 * options.minutes
    # not where the weights lie, which may be a place where nothing may run
    with tempfile.TemporaryDirectory(dir=_memory_disk()) as scratch, tempfile.TemporaryDirectory() as compiled:
        keep_in(Path(compiled))
        folder = _checkpoint(options, device, Path(scratch))
        limits = {part.name: 60 * options.minutes * part.share for part in chosen}
        lacking = {part.name: part.lacks() for part in chosen}
        for name, packages in lacking.items():
            if packages:
                rows.append(Row(name, "left out", None, note=f"not installed here: {', '.join(packages)}"))
                print(f"{name}: left out, not installed here: {', '.join(packages)}", flush=True)
        waiting = [part.name for part in chosen if not lacking[part.name]]
        with (options.out / "gpu.jsonl").open("w", encoding="utf-8") as log:
            while waiting:
                found, done = _run(options, device, folder, waiting, limits, end)
                for row in found:
                    log.write(row.line() + "\n")
                log.flush()
                rows += found
                waiting = waiting[done:]
                write_page(options.out, rows, facts)
    print(f"written: {write_page(options.out, rows, facts)}")
    return int(any(row.value is None and row.name != "left out" for row in rows))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    text = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=text)
    parser.add_argument("--minutes", type=float, default=9.0, help="of the whole run, the weights included (9)")
    parser.add_argument("--model-size", choices=MODEL_SIZES, default="3b", help="tiny: the bundled checkpoint")
    parser.add_argument("--checkpoint", help="a folder or name instead of random weights")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"), help="folder for gpu.jsonl and gpu.md")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N, mps, cpu")
    parser.add_argument("--dtype", default="auto", help="of all parts but parity: auto, float32, bfloat16, float16")
    parser.add_argument("--parts", default="", help="names with commas; all by default")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _child(options: argparse.Namespace, device: torch.device) -> int:
    """Run the parts one after the other, a line for each begin and each figure; a part that fails says why."""
    from benchmarks.gpu.bench import Bench
    from benchmarks.gpu.parts import PARTS

    bench = Bench(options.checkpoint, device, options.dtype, most=128 if device.type == "cuda" else 4)
    parts = {part.name: part for part in PARTS}
    for name in options.parts.split(","):
        print(_BEGIN + name, flush=True)
        try:
            with torch.no_grad():
                for row in parts[name].work(bench):
                    # the aims are a large GPU's
                    print((row if device.type == "cuda" else replace(row, aim="")).line(), flush=True)
        except Exception as error:  # the next parts may still be measured
            reason = str(error).splitlines()[0] if str(error) else ""
            print(Row(name, "failed", None, note=f"{type(error).__name__}: {reason}"[:300]).line(), flush=True)
    return 0


def _run(
    options: argparse.Namespace,
    device: torch.device,
    folder: str,
    names: Sequence[str],
    limits: dict[str, float],
    end: float,
) -> tuple[list[Row], int]:
    """Run parts in one child until it ends or one of them takes too long: the figures, and how many parts are over."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--child", "--parts", ",".join(names), "--checkpoint", folder]
    command += ["--device", str(device), "--dtype", options.dtype]
    rows: list[Row] = []
    begun = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        lines = _lines(child)
        # until the first part begins, the child imports
        deadline = min(time.monotonic() + 120, end)
        while True:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                child.kill()
                over = time.monotonic() >= end
                name = names[max(begun - 1, 0)]
                why = "the whole run's time is over" if over else f"took longer than its {limits[name]:.0f} s"
                late = names[max(begun - 1, 0) :] if over else [name]
                rows += [Row(part, "not finished", None, note=why) for part in late]
                _say(rows[-len(late) :])
                return rows, len(names) if over else max(begun, 1)
            if line is None:
                break
            if line.startswith(_BEGIN):
                begun += 1
                deadline = min(time.monotonic() + limits[names[begun - 1]], end)
            elif (row := read_row(line)) is not None:
                rows.append(row)
                _say([row])
        if child.wait():
            name = names[max(begun - 1, 0)]
            rows.append(Row(name, "failed", None, note=f"the process ended with {child.returncode}"))
            _say(rows[-1:])
            return rows, max(begun, 1)
    return rows, len(names)


def _lines(child: subprocess.Popen[str]) -> queue.Queue[str | None]:
    """The child's lines as they come, None at the end."""
    found: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in child.stdout or ():
            found.put(line.rstrip("\n"))
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    return found


def _say(rows: Iterable[Row]) -> None:
    for row in rows:
        print(f"{row.part}: " + "  ".join(cell for cell in row.cells() if cell), flush=True)


def _checkpoint(options: argparse.Namespace, device: torch.device, scratch: Path) -> str:
    if options.checkpoint:
        return str(options.checkpoint)
    if options.model_size == "tiny":
        return "tiny"
    from benchmarks.weights import SAM2, SIZES, VOCABULARY, write

    begin = time.monotonic()
    # as the hub has them: nested, in shards; random numbers for billions of weights are the card's to make
    with torch.device(device):
        write(scratch / f"PAM-{options.model_size.upper()}", SIZES[options.model_size], VOCABULARY, SAM2, released=True)
    print(f"weights of PAM-{options.model_size.upper()}'s shapes: made in {time.monotonic() - begin:.0f} s", flush=True)
    return str(scratch)


def _memory_disk() -> str | None:
    """Where files lie in memory, if there is room: loading is then not a test of the disk."""
    shared = Path("/dev/shm")
    try:
        return str(shared) if shutil.disk_usage(shared).free > _ROOM_BYTES else None
    except OSError:
        return None


def _facts(device: torch.device, options: argparse.Namespace) -> dict[str, str]:
    """What the figures hold for."""
    import transformers

    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    words = " ".join(sys.argv[1:])
    return {
        "command": f"python -m benchmarks.gpu {words}".strip(),
        "card": f"{card} ({device})",
        "torch": f"{torch.__version__}, transformers {transformers.__version__}",
        "weights": options.checkpoint or f"random, shapes of {options.model_size}",
        "commit": commit.stdout.strip() or "unknown",
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    sys.exit(main())
