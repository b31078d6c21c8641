"""Trains the tiny model that comes along, from nothing, with the package's own commands and recipes.

    python examples/train_tiny.py [FOLDER] [--twin] [--seed 2]

Rooms, geometry, eight stages of fine-tuning, GRPO, one after the other; what FOLDER holds already is kept, and what
was cut off goes on. FOLDER/tiny-rooms is the fine-tuned model as it comes along; docs/tiny-rooms.md says what it can
do. `--twin` trains the same without geometry, another seed the last stage of fine-tuning once more, both without GRPO.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor
from spatial_mllm_hf.training.recipes import read_recipe

ROOMS = ("--size", "84x56", "--compass", "--seen-share", "0.004", "--geometry")
SPARSE = (*ROOMS, "--most-objects", "8")
WORKERS = ("--workers", "2")
FIRST_SEED: int = read_recipe("tiny_sft")["seed"]  # of the last stage
HELD_OUT, TEST = ("--seed", "1000000"), ("--seed", "2000000")  # no room is in two of the sets

SAMPLES = {
    "frames.jsonl": ("--frames", "3", "--questions", "2"),
    "walks.jsonl": ("--samples", "4", "--questions", "3"),
    "walks_offsets.jsonl": ("--samples", "3", "--questions", "6", "--offsets", "--seed", "1"),
    "letters_told.jsonl": ("--letters", "--told", "--questions", "1", "--samples", "12", "--seed", "2"),
    "letters.jsonl": ("--letters", "--questions", "12", "--seed", "2"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("tiny"))
    parser.add_argument("--twin", action="store_true", help="without geometry")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="of the last stage of fine-tuning")
    arguments = parser.parse_args()
    folder = arguments.folder

    def place(name: str) -> str:
        return str(folder / name)

    rooms("3000", 24, ROOMS, place("rooms"))
    rooms("100", 24, (*ROOMS, *HELD_OUT), place("rooms_held_out"))
    rooms("4000", 24, SPARSE, place("sparse"))
    rooms("200", 24, (*SPARSE, *HELD_OUT, "--questions", "--max-questions", "2"), place("sparse_held_out"))
    rooms("60", 64, (*SPARSE, *TEST, "--questions", "--max-questions", "1"), place("sparse_test"))
    for samples, options in SAMPLES.items():
        if not (folder / samples).is_file():
            command("data", "reasoned", place("sparse"), *options, *WORKERS, "--out", place(samples))
    if not (folder / "grpo.jsonl").is_file():
        caps = [f"--max-{name}=2" for name in ("absolute-distance", "relative-distance", "relative-direction", "other")]
        questions = ("--style", "grpo", "--wording", "vsibench", "--out", place("grpo.jsonl"))
        command("data", "generate", "--annotations", place("sparse_held_out/annotations.json"), *questions, *caps)

    if not (folder / "geometry" / "config.json").is_file():
        settings = ("--rooms", place("rooms"), "--held_out", place("rooms_held_out"), "--output_dir", place("geometry"))
        command("train", "geometry", "--config", "tiny_geometry", *settings)
    kind = "twin" if arguments.twin else "model"
    start, last = ("start_twin", f"twin_{arguments.seed}") if arguments.twin else ("start", f"sft_{arguments.seed}")
    if last == f"sft_{FIRST_SEED}":
        last = "sft"  # which GRPO begins with
    if not (folder / start / "config.json").is_file():
        without = ("--without-geometry",) if arguments.twin else ()
        command("make-tiny", place(start), "--vggt", place("geometry"), *without)
    cache = ("--feature_cache", "null" if arguments.twin else place("features"))
    walks, more, letters = place("sparse/videos"), place("walks_offsets.jsonl"), place("letters.jsonl")
    both = f"{letters}, {more}%40"
    frames, own = place("frames"), (*cache, "--seed", str(arguments.seed))
    train("sft", "tiny_frames", place(start), place(f"frames_{kind}"), f"{frames}.jsonl", frames)
    for recipe, before, after, samples, options in (
        ("tiny_walks", f"frames_{kind}", f"walks_{kind}", place("walks.jsonl"), cache),
        ("tiny_thoughts", f"walks_{kind}", f"thoughts_{kind}", more, cache),
        ("tiny_letters", f"thoughts_{kind}", f"letters_{kind}", place("letters_told.jsonl"), ()),
        ("tiny_together", f"letters_{kind}", f"together_{kind}", more, cache),
        ("tiny_mixed", f"together_{kind}", f"mixed_{kind}", both, cache),
        ("tiny_more", f"mixed_{kind}", f"more_{kind}", both, cache),
        ("tiny_sft", f"more_{kind}", last, both, own),
    ):
        train("sft", recipe, place(before), place(after), samples, walks, *options)
    if last == "sft":
        unseen = place("sparse_held_out/videos")
        train("grpo", "tiny_grpo", place("sft"), place("grpo"), place("grpo.jsonl"), unseen)
        slim(folder / "sft", folder / "tiny-rooms")


def rooms(number: str, frames: int, options: tuple[str, ...], out: str) -> None:
    """A folder of rooms; one that is complete is left as it is."""
    if not (Path(out) / "annotations.json").is_file():
        command("data", "rooms", "--scenes", number, "--frames", str(frames), *options, "--out", out)


def train(kind: str, recipe: str, model: str, out: str, samples: str, media: str, *options: str) -> None:
    """A stage of training that has not ended yet."""
    if not (Path(out) / "config.json").is_file():
        data = ("--sources", f"[{samples}]", "--media_folder", media)
        command("train", kind, "--config", recipe, "--model", model, "--output_dir", out, *data, *options)


def slim(checkpoint: Path, out: Path) -> None:
    """The checkpoint as it comes along: bfloat16, and without the code, which the package around it has."""
    SpatialMLLMForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(out)
    SpatialMLLMProcessor.from_pretrained(checkpoint).save_pretrained(out)
    for code in out.glob("*.py"):
        code.unlink()


def command(*arguments: str) -> None:
    """A command of the package, in this environment. At this size more threads than one are in each other's way."""
    print("spatial-mllm", *arguments, flush=True)
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    subprocess.run([sys.executable, "-m", "spatial_mllm_hf.cli.main", *arguments], check=True, env=environment)


if __name__ == "__main__":
    main()
