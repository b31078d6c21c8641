"""Trains the tiny model that comes along, from nothing, with the package's own commands and recipes.

    python examples/train_tiny.py [FOLDER]

Rooms, geometry, fine-tuning and GRPO, one after the other; what FOLDER holds already is kept, and what was cut off goes
on. The result is FOLDER/grpo; docs/tiny-rooms.md says what it can do.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOMS = ("--size", "84x56", "--compass", "--seen-share", "0.004", "--geometry")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tiny")

    def place(name: str) -> str:
        return str(folder / name)

    train, held_out, test = (place(f"rooms{suffix}") for suffix in ("", "_held_out", "_test"))
    few = ("--questions", "--max-questions", "2")
    command("data", "rooms", "--scenes", "3000", "--frames", "24", *ROOMS, "--out", train)
    command(*("data", "rooms", "--scenes", "100", "--seed", "1000000", "--frames", "24"), *ROOMS, *few, "--out", held_out)
    command("data", "rooms", "--scenes", "100", "--seed", "2000000", "--frames", "64", *ROOMS, *few, "--out", test)
    if not (folder / "geometry" / "config.json").is_file():
        settings = ("--rooms", train, "--held_out", held_out, "--output_dir", place("geometry"))
        command("train", "geometry", "--config", "tiny_geometry", *settings)
    if not (folder / "reasoned.jsonl").is_file():
        command("data", "reasoned", train, "--out", place("reasoned.jsonl"), "--questions", "6", "--samples", "4")
    if not (folder / "start" / "config.json").is_file():
        command("make-tiny", place("start"), "--vggt", place("geometry"))
    if not (folder / "sft" / "config.json").is_file():
        data = ("--sources", f"[{place('reasoned.jsonl')}]", "--media_folder", place("rooms/videos"))
        folders = ("--model", place("start"), "--output_dir", place("sft"), "--feature_cache", place("features"))
        command("train", "sft", "--config", "tiny_sft", *folders, *data)
    if not (folder / "grpo.jsonl").is_file():
        caps = [f"--max-{name}=2" for name in ("absolute-distance", "relative-distance", "relative-direction", "other")]
        questions = ("--style", "grpo", "--wording", "vsibench", "--out", place("grpo.jsonl"))
        command("data", "generate", "--annotations", place("rooms_held_out/annotations.json"), *questions, *caps)
    if not (folder / "grpo" / "config.json").is_file():
        data = ("--sources", f"[{place('grpo.jsonl')}]", "--media_folder", place("rooms_held_out/videos"))
        command("train", "grpo", "--config", "tiny_grpo", "--model", place("sft"), "--output_dir", place("grpo"), *data)


def command(*arguments: str) -> None:
    """A command of the package, in this environment. At this size more threads than one only get in each other's way."""
    print("spatial-mllm", *arguments, flush=True)
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    subprocess.run([sys.executable, "-m", "spatial_mllm_hf.cli.main", *arguments], check=True, env=environment)


if __name__ == "__main__":
    main()
