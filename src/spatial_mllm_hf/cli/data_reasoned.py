"""`spatial-mllm data reasoned`: questions on synthetic rooms with trains of thought that are true."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..data.conversations import Conversation


def reasoned(
    folder: Path = typer.Argument(help="Of rooms that `data rooms --geometry` made."),
    out: Path = typer.Option(..., "--out", "-o", help="File of conversations to write, .jsonl or .parquet."),
    questions: int = typer.Option(10, "--questions", min=1, help="Of a sample, turn by turn."),
    samples: int = typer.Option(1, "--samples", min=1, help="Of a room, each with questions drawn anew."),
    frames: int | None = typer.Option(
        None, "--frames", min=1, help="Ask about single frames, so many of each room; they go to a folder beside --out."
    ),
    offsets: bool = typer.Option(
        False, "--offsets", help="Write how far apart things are before bearings and distances: smaller steps."
    ),
    letters: bool = typer.Option(
        False, "--letters", help="Text alone, without videos: from the words of an option to its letter."
    ),
    told: bool = typer.Option(False, "--told", help="With --letters: the words also end the question."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the questions."),
    workers: int = typer.Option(1, "--workers", min=1, help="Processes."),
) -> None:
    """Write training samples whose answers draw a map of the room first and reason on it."""
    from ..data.conversations import write_conversations
    from ..data.reasoned_rooms import option_letters, reasoned_frames, reasoned_rooms

    if letters:
        if frames is not None or offsets:
            raise ValueError("--letters is of text alone: --frames and --offsets are of samples with pictures.")
        conversations = option_letters(folder, questions, samples, seed, told, workers)
    elif told:
        raise ValueError("--told goes with --letters.")
    elif frames is None:
        conversations = reasoned_rooms(folder, questions, samples, seed, offsets, workers)
    elif samples > 1 or offsets:
        name = "--samples" if samples > 1 else "--offsets"
        raise ValueError(f"{name} is of walks: a frame is one sample, --frames says how many of each room.")
    else:
        conversations = reasoned_frames(folder, out.with_suffix(""), questions, frames, seed, workers)
    counts: Counter[str] = Counter()
    written = write_conversations(_counted(conversations, counts), out)
    kind = "rooms" if frames is None else "frames"
    sys.stdout.write(f"Wrote {out}: {counts.total():,} questions in {written:,} samples on {len(counts):,} {kind}.\n")


def _counted(conversations: "Iterator[Conversation]", counts: Counter[str]) -> "Iterator[Conversation]":
    """Counts each room's questions as they pass; no question at all is an error, before a file is written."""
    for conversation in conversations:
        counts[conversation.metadata["scene_name"]] += len(conversation.turns) // 2
        yield conversation
    if not counts:
        raise ValueError("None of the rooms has a question to ask; are they too bare, or is too little of them seen?")
