"""`python -m model fetch`: download a model, and end well only if it can be loaded."""

from __future__ import annotations

from pathlib import Path

from model.loading import hub


def fetch(name: str) -> None:
    """Download a model and its SAM 2, say where they lie and what they take.

    Raises:
        CheckpointError: they cannot be had, or what came cannot be loaded.
    """
    row = hub.known(name)
    if row is not None:
        print(
            f"{row.name}: {row.download_gb:g} GB with SAM 2.1-large, needs about {row.memory_gb:g} GB of GPU memory; "
            "what is complete is not downloaded again"
        )
    from model.loading.checkpoint import Checkpoint

    found = Checkpoint.find(name)
    found.check()
    print(f"model:   {found.folder}")
    if found.commit is not None:
        print(f"commit:  {found.commit} ({name.partition('@')[0]}@{found.commit} pins it)")
    print(f"SAM 2:   {found.sam2_weights}")
    print(f"on disk: {_bytes(found.folder, found.sam2_weights) / 1e9:.2f} GB")
    print(f"It can be loaded: python -m model try {name}")


def _bytes(folder: Path, weights: Path) -> int:
    files = {file.resolve() for file in (*folder.iterdir(), weights) if file.is_file()}
    return sum(file.stat().st_size for file in files)
