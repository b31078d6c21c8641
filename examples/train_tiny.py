"""Trains the tiny model that comes along, from nothing, with the package's own commands and recipes.

    python examples/train_tiny.py [FOLDER]

Rooms, geometry, seven stages of fine-tuning, GRPO, one after the other; what FOLDER holds already is kept, and what
was cut off goes on. The result is FOLDER/tiny-rooms; docs/tiny-rooms.md says what it can do.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor

ROOMS = ("--size", "84x56", "--compass", "--seen-share", "0.004", "--geometry")
SPARSE = (*ROOMS, "--most-objects", "8")
HELD_OUT, TEST = ("--seed", "1000000"), ("--seed", "2000000")  # no room is in two of the sets

SAMPLES = {
    "frames.jsonl": ("--frames", "3", "--questions", "2"),
    "walks.jsonl": ("--samples", "4", "--questions", "3"),
    "walks_offsets.jsonl": ("--samples", "3", "--questions", "6", "--offsets", "--seed", "1"),
    "letters_told.jsonl": ("--letters", "--told", "--questions", "1", "--samples", "12", "--seed", "2"),
    "letters.jsonl": ("--letters", "--questions", "12", "--seed", "2"),
}


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tiny")

    def place(name: str) -> str:
        return str(folder / name)

    rooms("3000", 24, ROOMS, place("rooms"))
    rooms("100", 24, (*ROOMS, *HELD_OUT), place("rooms_held_out"))
    rooms("4000", 24, SPARSE, place("sparse"))
    rooms("200", 24, (*SPARSE, *HELD_OUT, "--questions", "--max-questions", "2"), place("sparse_held_out"))
    rooms("60", 64, (*SPARSE, *TEST, "--questions", "--max-questions", "1"), place("sparse_test"))
    for samples, options in SAMPLES.items():
        if not (folder / samples).is_file():
            command("data", "reasoned", place("sparse"), *options, "--out", place(samples))
    if not (folder / "grpo.jsonl").is_file():
        caps = [f"--max-{name}=2" for name in ("absolute-distance", "relative-distance", "relative-direction", "other")]
        questions = ("--style", "grpo", "--wording", "vsibench", "--out", place("grpo.jsonl"))
        command("data", "generate", "--annotations", place("sparse_held_out/annotations.json"), *questions, *caps)

    if not (folder / "geometry" / "config.json").is_file():
        settings = ("--rooms", place("rooms"), "--held_out", place("rooms_held_out"), "--output_dir", place("geometry"))
        command("train", "geometry", "--config", "tiny_geometry", *settings)
    if not (folder / "start" / "config.json").is_file():
        command("make-tiny", place("start"), "--vggt", place("geometry"))
    train("sft", "tiny_frames", place("start"), place("frames_model"), place("frames.jsonl"), place("frames"))
    cache = ("--feature_cache", place("features"))
    walks = place("sparse/videos")
    more, letters, told = place("walks_offsets.jsonl"), place("letters.jsonl"), place("letters_told.jsonl")
    train("sft", "tiny_walks", place("frames_model"), place("walks_model"), place("walks.jsonl"), walks, *cache)
    train("sft", "tiny_thoughts", place("walks_model"), place("thoughts_model"), more, walks, *cache)
    train("sft", "tiny_letters", place("thoughts_model"), place("letters_model"), told, walks)
    train("sft", "tiny_together", place("letters_model"), place("together_model"), more, walks, *cache)
    both = f"{letters}, {more}%40"
    train("sft", "tiny_mixed", place("together_model"), place("mixed_model"), both, walks, *cache)
    train("sft", "tiny_sft", place("mixed_model"), place("sft"), both, walks, *cache)
    unseen = place("sparse_held_out/videos")
    train("grpo", "tiny_grpo", place("sft"), place("grpo"), place("grpo.jsonl"), unseen)
    slim(folder / "grpo", folder / "tiny-rooms")


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
