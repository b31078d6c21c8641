"""`spatial-mllm make-tiny OUT`: a tiny complete checkpoint with random weights, for tests and first steps.

With `--vggt`, the one that learns synthetic rooms: its VGGT has been trained, all else is new.
"""

import sys
from pathlib import Path

import typer

from . import common


def make_tiny(
    out: Path = typer.Argument(help="Folder to make; must not exist or be empty."),
    seed: int = typer.Option(0, help="Of the random weights."),
    vggt: Path | None = typer.Option(
        None, "--vggt", help="Folder of a VGGT trained on rooms: make the checkpoint that learns their questions."
    ),
    without_geometry: bool = typer.Option(
        False, "--without-geometry", help="With --vggt: leave it unused, for comparison."
    ),
) -> None:
    """Write a tiny checkpoint with random weights. Its answers are meaningless words."""
    if without_geometry and vggt is None:
        raise ValueError(
            "--without-geometry makes a twin of the checkpoint that --vggt makes: name a VGGT, or leave it out."
        )
    common.quiet_transformers()
    if vggt is not None:
        from ..training.tiny_rooms import write_start

        folder = write_start(out, vggt, seed, without_geometry)
        sys.stdout.write(f"Wrote {folder}: VGGT of {vggt}, all else random weights.\n")
        return
    from ..hub.tiny_checkpoint import write_tiny_checkpoint

    folder = write_tiny_checkpoint(out, seed)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    sys.stdout.write(f"Wrote {folder} ({size:.1f} MB, random weights: its answers are meaningless words).\n")
