"""Training samples with true trains of thought (`reasoned_answers.py`) out of a folder of synthetic rooms.

About walks, or about single frames of them: a frame shows a few things at a few places, so a model learns to find them
there long before it finds a room's furniture in a walk. What is drawn for a room follows from the seed and the room's
name, so that rooms can be shared among processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image
from safetensors import safe_open

from ..processing.video_decoding_spatial_mllm import decode_frames
from .conversations import Conversation
from .question_generation import GENERATED_TYPES, GenerationSettings, generate_questions
from .reasoned_answers import ReasonedAnswers, reasoned_conversation, reasoned_form
from .scene_annotations import SceneAnnotation, read_scene_annotations
from .scene_answers import SceneAnswers
from .shared_work import share
from .spatial_questions import SpatialQuestion
from .synthetic_data_set import ANNOTATIONS, GEOMETRY, VIDEOS, read_rooms_settings
from .synthetic_rooms import make_room
from .synthetic_scenes import SceneSettings, room_annotation, scene_seed
from .training_prompts import question_prompt

_CANDIDATES = 30  # of each task and room, to draw from
_PLAIN_EVERY = 4  # samples of a room, of which the last has questions without instructions
_Room = tuple[SceneAnnotation, Path]  # and the file of its geometry
_SETTINGS = GenerationSettings.at_most(_CANDIDATES, wording="vsibench")


def reasoned_rooms(
    folder: Path, num_questions: int, num_samples: int = 1, seed: int = 0, offsets: bool = False, workers: int = 1
) -> Iterator[Conversation]:
    """Samples of each room, one room after the other.

    Args:
        folder: of rooms with geometry, out of which the first camera comes.
        num_questions: of a sample; the tasks that a room supports get as many each as can be, the others by lot.
        num_samples: of a room, each with questions drawn anew.
        seed: of the questions.
        offsets: as of `ReasonedAnswers`.
        workers: processes.

    Raises:
        ValueError: for a number below 1, a folder without annotations or geometry, or damaged annotations.
    """
    _check(num_questions=num_questions, num_samples=num_samples, workers=workers)
    yield from _of_each_room(partial(_walk_samples, num_questions, num_samples, seed, offsets), folder, workers)


def reasoned_frames(
    folder: Path, pictures: Path, num_questions: int, num_frames: int = 1, seed: int = 0, workers: int = 1
) -> Iterator[Conversation]:
    """Samples about single frames, `num_frames` of each room drawn from its walk.

    Only what the frame shows is in its map and its questions; places are those seen from its own camera. A frame that
    shows nothing to ask about is left out.

    Args:
        pictures: folder that the frames are written to, as PNG; samples name them relative to it.
        num_questions, seed, workers: as for `reasoned_rooms`.

    Raises:
        ValueError: as `reasoned_rooms`, or for more frames than a walk has.
    """
    _check(num_questions=num_questions, num_frames=num_frames, workers=workers)
    rooms = read_rooms_settings(folder)
    pictures.mkdir(parents=True, exist_ok=True)
    make = partial(_frame_samples, rooms, folder / VIDEOS, pictures, num_questions, num_frames, seed)
    yield from _of_each_room(make, folder, workers)


def option_letters(
    folder: Path, num_questions: int, num_samples: int = 1, seed: int = 0, told: bool = False, workers: int = 1
) -> Iterator[Conversation]:
    """Samples of text alone: questions with options, the words of one by lot as thoughts, its letter as the answer.

    How an option's words lead to its letter is one token in dozens of a reasoned answer, so that small models hardly
    learn it there; here it is all that there is to learn.

    Args:
        num_questions: of a sample.
        num_samples: of a room; its last ones are shorter or missing if it has fewer questions.
        seed: of the questions and of the lot.
        told: the words also end the question, so that nothing has to be guessed: a smaller step to learn first.
        workers: processes.

    Raises:
        ValueError: as `reasoned_rooms`.
    """
    _check(num_questions=num_questions, num_samples=num_samples, workers=workers)
    yield from _of_each_room(partial(_letter_samples, num_questions, num_samples, seed, told), folder, workers)


def _walk_samples(num_questions: int, num_samples: int, seed: int, offsets: bool, room: _Room) -> list[Conversation]:
    scene, geometry = room
    with safe_open(geometry, framework="numpy") as file:
        extrinsics = file.get_slice("extrinsics")[0]
    reasoned = ReasonedAnswers(SceneAnswers(scene), extrinsics, offsets)
    questions = generate_questions(scene, seed, _SETTINGS)
    samples = []
    for number in range(num_samples):
        rng = np.random.default_rng([seed, number, crc32(scene.name.encode())])  # another order in each room
        chosen = _even_share(questions, num_questions, rng)
        if chosen:
            is_plain = number % _PLAIN_EVERY == _PLAIN_EVERY - 1
            samples.append(reasoned_conversation(f"{scene.name}-{number}", reasoned, chosen, is_plain))
    return samples


def _frame_samples(
    rooms: SceneSettings,
    videos: Path,
    pictures: Path,
    num_questions: int,
    num_frames: int,
    seed: int,
    room: _Room,
) -> list[Conversation]:
    scene, geometry = room
    with safe_open(geometry, framework="numpy") as file:
        extrinsics, seen_pixels = file.get_tensor("extrinsics"), file.get_tensor("seen_pixels")
    if num_frames > len(extrinsics):
        raise ValueError(f"num_frames={num_frames}, but the walk of {scene.name} has {len(extrinsics)} frames")
    furnished = make_room(scene_seed(scene.name), compass=rooms.compass, most_objects=rooms.most_objects)
    rng = np.random.default_rng([seed, crc32(scene.name.encode())])
    chosen = np.sort(rng.choice(len(extrinsics), num_frames, replace=False)).tolist()
    frames = decode_frames(videos / f"{scene.name}.mp4", chosen, num_threads=1).frames
    shares = seen_pixels / (rooms.size[0] * rooms.size[1])
    samples = []
    for number, frame in zip(chosen, frames, strict=True):
        name = f"{scene.name}-{number}"
        seen = room_annotation(furnished, shares[number : number + 1], 1.0, name, min_share=rooms.seen_share)
        questions = _even_share(generate_questions(seen, seed, _SETTINGS), num_questions, rng)
        if questions:
            Image.fromarray(frame).save(pictures / f"{name}.png")
            reasoned = ReasonedAnswers(SceneAnswers(seen), extrinsics[number])
            samples.append(reasoned_conversation(name, reasoned, questions, image=f"{name}.png"))
    return samples


def _letter_samples(num_questions: int, num_samples: int, seed: int, told: bool, room: _Room) -> list[Conversation]:
    scene, _ = room
    rng = np.random.default_rng([seed, crc32(scene.name.encode())])
    questions = [asked for asked in generate_questions(scene, seed, _SETTINGS) if asked.options is not None]
    turns: list[tuple[str, str]] = []
    for question in _even_share(questions, num_questions * num_samples, rng):
        letter, words = str(rng.choice(question.options or ())).split(". ", 1)
        asked = question_prompt(question, "grpo") + (f"\n{words}" if told else "")
        turns += [("human", asked), ("gpt", reasoned_form(words, letter))]
    metadata = {"scene_name": scene.name, "question_type": "option_letters"}
    parts = [tuple(turns[first : first + 2 * num_questions]) for first in range(0, len(turns), 2 * num_questions)]
    return [
        Conversation(id=f"{scene.name}-{number}", videos=(), images=(), turns=part, metadata=metadata)
        for number, part in enumerate(parts)
    ]


def _of_each_room(make: Callable[[_Room], list[Conversation]], folder: Path, workers: int) -> Iterator[Conversation]:
    """What is made of the rooms, in their order, however many processes make it."""
    for samples in share(make, _scenes(folder), workers):
        yield from samples


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _scenes(folder: Path) -> Iterator[_Room]:
    """Scenes of a folder of rooms, and the files of their geometry."""
    if not (folder / ANNOTATIONS).is_file():
        raise ValueError(f"{folder} has no {ANNOTATIONS}: it is not a folder of `spatial-mllm data rooms`.")
    for scene in read_scene_annotations(folder / ANNOTATIONS):
        if isinstance(scene, ValueError):
            raise scene
        path = folder / GEOMETRY / f"{scene.name}.safetensors"
        if not path.is_file():
            raise ValueError(f"{path} is not there: make the rooms with --geometry.")
        yield scene, path


def _even_share(questions: list[SpatialQuestion], count: int, rng: np.random.Generator) -> list[SpatialQuestion]:
    """Questions of as many tasks as there are, as evenly as can be, in random order."""
    tasks = [[question for question in questions if question.question_type == task] for task in GENERATED_TYPES]
    queues = [[task[place] for place in rng.permutation(len(task))] for task in tasks if task]
    rounds: list[SpatialQuestion] = []
    while queues and len(rounds) < count:
        rounds += [queues[place].pop() for place in rng.permutation(len(queues))]
        queues = [queue for queue in queues if queue]
    chosen = rounds[:count]
    return [chosen[place] for place in rng.permutation(len(chosen))]
