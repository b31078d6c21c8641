"""`spatial-mllm data scannet | scanqa | sqa3d`: published data sets in the forms that the other commands read."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from . import common

if TYPE_CHECKING:
    from ..data.conversations import Conversation
    from ..data.scene_annotations import SceneAnnotation

SCENES = typer.Option(None, "--scenes", help="Only these scenes: a text file of names, such as scannetv2_train.txt.")
EXCLUDE = typer.Option(
    [],
    "--exclude",
    help="Scenes to leave out: .txt with a name a line, annotations, or VSI-Bench's questions. Repeatable.",
)
CONVERSATIONS = typer.Option(..., "--out", "-o", help="File to write, .jsonl or .parquet.")
SPLIT = typer.Option(
    "train", "--split", help="train: a conversation for each answer or situation; val: one for each question."
)
STYLE = typer.Option(
    "sft", "--style", help="sft, grpo: the paper's prompts, answers in <answer>; plain: as evaluation asks."
)

Split = Literal["train", "val"]
Style = Literal["sft", "grpo", "plain"]


def scannet(
    scans: Path = typer.Argument(help="ScanNet's folder of scans, with a folder sceneNNNN_NN for each."),
    labels: Path = typer.Option(..., "--labels", help="scannetv2-labels.combined.tsv, of the same release."),
    out: Path = typer.Option(..., "--out", "-o", help="File of scene annotations to write, .json or .jsonl."),
    scenes: Path | None = SCENES,
    exclude: list[Path] = EXCLUDE,
    frames: bool = typer.Option(
        False, "--frames", help="Read from the 2D instance masks when each category is first seen."
    ),
    min_pixels: int | None = typer.Option(
        None, "--min-pixels", min=1, help="Of a category where it counts as seen. [default: 1255, 1/1000 of a frame]"
    ),
) -> None:
    """Make scene annotations out of ScanNet's own files. Scans that cannot be read are named and left out."""
    if min_pixels is not None and not frames:
        raise ValueError("--min-pixels says what counts as seen in the masks, which only --frames reads: add it.")
    from ..data.scannet_files import read_label_map
    from ..data.scannet_scenes import FEWEST_PIXELS, find_scans, read_scannet_scenes
    from ..data.scene_annotations import write_scene_annotations

    label_map = read_label_map(labels)
    names = find_scans(scans, None if scenes is None else _names(scenes), _excluded(exclude))
    objects: Counter[str] = Counter()

    def good_scenes() -> "Iterator[SceneAnnotation]":
        none_yet = True
        with common.Counter("scans") as counter:
            results = read_scannet_scenes(scans, names, label_map, frames, min_pixels or FEWEST_PIXELS)
            for done, scene in enumerate(results, 1):
                if isinstance(scene, ValueError):
                    sys.stderr.write(f"spatial-mllm: warning: skipped: {scene}\n")
                else:
                    none_yet = False
                    objects.update(scene.object_counts)
                    yield scene
                counter.show(done, len(names))
        if none_yet:
            raise ValueError(f"None of the {len(names)} scans in {scans} could be read; each is named above.")

    count = write_scene_annotations(good_scenes(), out)
    _report(
        f"Wrote {out}: {count:,} scenes, {objects.total():,} objects of {len(objects)} categories; "
        f"{len(names) - count:,} skipped."
    )


def scanqa(
    file: Path = typer.Argument(help="ScanQA_v1.0_train.json or ScanQA_v1.0_val.json."),
    out: Path = CONVERSATIONS,
    split: Split = SPLIT,
    style: Style = STYLE,
    exclude: list[Path] = EXCLUDE,
) -> None:
    """Make conversations for training out of ScanQA."""
    from ..data.scanqa import read_scanqa, scanqa_conversations

    _write(scanqa_conversations(read_scanqa(file), split, style, _excluded(exclude)), out)


def sqa3d(
    questions: Path = typer.Argument(help="v1_balanced_questions_train_scannetv2.json, or of another split."),
    annotations: Path = typer.Argument(help="v1_balanced_sqa_annotations_train_scannetv2.json, of the same split."),
    out: Path = CONVERSATIONS,
    split: Split = SPLIT,
    style: Style = STYLE,
    exclude: list[Path] = EXCLUDE,
) -> None:
    """Make conversations for training out of SQA3D."""
    from ..data.sqa3d import read_sqa3d, sqa3d_conversations

    _write(sqa3d_conversations(read_sqa3d(questions, annotations), split, style, _excluded(exclude)), out)


def _names(path: Path) -> list[str]:
    """The names in a text file, one a line."""
    names = path.read_text(encoding="utf-8").split()
    if not names:
        raise ValueError(f"--scenes {path} holds no names of scenes; expected one a line.")
    return names


def _excluded(paths: list[Path]) -> frozenset[str]:
    from ..data.scene_exclusion import read_excluded_scenes

    return frozenset().union(*map(read_excluded_scenes, paths))


def _write(conversations: "Iterable[Conversation]", out: Path) -> None:
    from ..data.conversations import write_conversations

    scenes: set[str] = set()

    def noting_scenes() -> "Iterator[Conversation]":
        for conversation in conversations:
            scenes.add(conversation.metadata["scene_name"])
            yield conversation
        if not scenes:
            raise ValueError("No question is left; are all scenes excluded?")

    count = write_conversations(noting_scenes(), out)
    _report(f"Wrote {out}: {count:,} conversations on {len(scenes):,} scenes.")


def _report(line: str) -> None:
    sys.stdout.write(line + "\n")
