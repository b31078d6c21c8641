"""`spatial-mllm data rooms`: synthetic rooms as a data set, with clips, annotations and, where asked for, questions."""

import re
import sys
from pathlib import Path

import typer

from . import common


def rooms(
    scenes: int = typer.Option(..., "--scenes", min=1, help="How many rooms."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder to write; one that was begun goes on."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the first room; the next room has the next one."),
    frames: int = typer.Option(100, "--frames", min=1, help="Frames of each clip."),
    size: str = typer.Option("224x168", "--size", help="Width and height of a frame, even."),
    fps: float | None = typer.Option(
        None, "--fps", help="Frames a second of the clips. [default: that a walk takes 20 seconds]"
    ),
    workers: int = typer.Option(2, "--workers", min=1, help="Processes."),
    geometry: bool = typer.Option(False, "--geometry", help="Also write depth, objects and cameras of every frame."),
    compass: bool = typer.Option(
        False, "--compass", help="Walls in the same four colours in every room, walks that start facing the yellow one."
    ),
    seen_share: float = typer.Option(
        1e-3, "--seen-share", help="Of a frame, from which an object in it counts as seen."
    ),
    most_objects: int | None = typer.Option(
        None, "--most-objects", min=4, help="Sparse rooms, with so many pieces of furniture at most."
    ),
    questions: bool = typer.Option(False, "--questions", help="Also write questions, as `eval vsibench` reads them."),
    max_questions: int = typer.Option(10, "--max-questions", min=0, help="Most questions of a task on a room."),
) -> None:
    """Make furnished rooms, film walks through them, and say exactly what is in them."""
    width_by_height = re.fullmatch(r"(\d+)x(\d+)", size)
    if width_by_height is None:
        raise ValueError(f"--size must be WIDTHxHEIGHT in pixels, such as 224x168, got {size!r}.")
    from ..data.question_generation import GenerationSettings
    from ..data.synthetic_data_set import ANNOTATIONS, QUESTIONS, VIDEOS, write_questions, write_rooms
    from ..data.synthetic_scenes import SceneSettings

    frame_size = (int(width_by_height[1]), int(width_by_height[2]))
    settings = SceneSettings(frames, frame_size, fps, compass, seen_share, most_objects)
    with common.Counter("rooms") as counter:
        report = write_rooms(out, scenes, settings, seed, geometry, workers, counter.show)
    for number, reason in report.replaced.items():
        sys.stderr.write(f"spatial-mllm: warning: seed {number} gives no scene, a later one does instead: {reason}\n")
    sys.stdout.write(f"Wrote {out / VIDEOS} and {out / ANNOTATIONS}: {scenes} rooms, {frames} frames each.\n")
    if questions:
        asked = GenerationSettings.at_most(max_questions, wording="vsibench")
        count = write_questions(report.annotations, out / QUESTIONS, seed, asked)
        sys.stdout.write(f"Wrote {out / QUESTIONS}: {count} questions.\n")
