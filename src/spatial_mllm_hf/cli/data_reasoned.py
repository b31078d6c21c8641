"""`spatial-mllm data reasoned`: questions on synthetic rooms with trains of thought that are true."""

import sys
from pathlib import Path

import typer


def reasoned(
    folder: Path = typer.Argument(help="Of rooms that `data rooms --geometry` made."),
    out: Path = typer.Option(..., "--out", "-o", help="File of conversations to write, .jsonl or .parquet."),
    questions: int = typer.Option(10, "--questions", min=1, help="Of a sample, turn by turn."),
    samples: int = typer.Option(1, "--samples", min=1, help="Of a room, each with other questions."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the questions."),
) -> None:
    """Write training samples whose answers draw a map of the room first and reason on it."""
    from ..data.conversations import write_conversations
    from ..data.reasoned_rooms import reasoned_rooms

    count = 0

    def counted():  # type: ignore[no-untyped-def]
        nonlocal count
        for conversation in reasoned_rooms(folder, questions, samples, seed):
            count += len(conversation.turns) // 2
            yield conversation

    write_conversations(counted(), out)
    sys.stdout.write(f"Wrote {out}: {count:,} questions.\n")
