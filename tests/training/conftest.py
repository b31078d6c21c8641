"""A small course to train on, and recipes for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from spatial_mllm_hf.data.conversations import Conversation, write_conversations
from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room, write_clip
from spatial_mllm_hf.training.sft_recipe import SFTRecipe

QUESTIONS = "questions.jsonl"
PORTRAIT = (96, 128)


def ask(number: int, answer: str, task: str, video: str = "room.mp4") -> Conversation:
    """A question about a clip; its words differ, so that its answer can be learnt."""
    turns = (("human", f"<video>\nQuestion {number}: how many?"), ("gpt", f"<answer>{answer}</answer>"))
    return Conversation(f"q{number}", (video,), (), turns, {"question_type": task})


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory, room_clip: Path) -> Path:
    """A folder with two clips of different shape, two pictures, and conversations of every kind. Read only.

    `questions.jsonl`: eight questions on a clip in two tasks. `mixed.jsonl`: a video, two videos, a picture, two
    pictures and a video, text alone, and two turns.
    """
    folder = tmp_path_factory.mktemp("course")
    (folder / "room.mp4").write_bytes(room_clip.read_bytes())
    room = make_room(seed=3)
    extrinsics, intrinsics = camera_path(room, num_frames=10, size=PORTRAIT)
    frames = render(room, extrinsics, intrinsics, size=PORTRAIT).rgb
    write_clip(frames, folder / "hall.mp4", fps=8)
    for name, frame in (("first.png", frames[0]), ("last.png", frames[-1])):
        Image.fromarray(frame).save(folder / name)
    questions = [ask(number, str(number * 7 % 10), ("count", "size")[number % 2]) for number in range(8)]
    write_conversations(questions, folder / QUESTIONS)
    pictures = ("first.png", "last.png")
    turns = (("human", "<video>\nHow many?"), ("gpt", "4"), ("human", "Sure?"), ("gpt", "Yes, 4."))
    mixed = [
        ask(0, "3", "count"),
        Conversation("two", ("room.mp4", "hall.mp4"), (), (("human", "<video><video>\nSame?"), ("gpt", "no"))),
        Conversation("picture", (), pictures[:1], (("human", "<image>\nWhat is it?"), ("gpt", "a hall"))),
        Conversation(
            "both", ("hall.mp4",), pictures, (("human", "<image>\n<image>\n<video>\nWhich comes first?"), ("gpt", "B"))
        ),
        Conversation("text", (), (), (("human", "Say yes."), ("gpt", "yes"))),
        Conversation("turns", ("hall.mp4",), (), turns),
    ]
    write_conversations(mixed, folder / "mixed.jsonl")
    return folder


Values = dict[str, Any]


@pytest.fixture
def values(course: Path, tiny_checkpoint: Path, tmp_path: Path) -> Values:
    """A recipe's keys and values: six steps over the eight questions."""
    return {
        "model": str(tiny_checkpoint),
        "output_dir": str(tmp_path / "run"),
        "sources": [str(course / QUESTIONS)],
        "media_folder": str(course),
        "num_frames": 4,
        "min_pixels": 56 * 56,
        "max_pixels": 84 * 84,
        "trained_parts": {"connector": 1e-3, "language_model": 1e-3},
        "per_device_train_batch_size": 4,
        "num_train_epochs": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }


@pytest.fixture
def make_recipe(values: Values) -> Callable[..., SFTRecipe]:
    """The recipe with some values changed."""
    return lambda **changes: SFTRecipe(**(values | changes))


@pytest.fixture
def write_recipe(values: Values, tmp_path: Path) -> Callable[..., Path]:
    """The same as a file."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(json.loads(json.dumps(values | changes))))
        return path

    return write
