"""`pipe.open_scene` and `scene.ask`: a video seen once answers as if it were seen for every question.

What is expected comes from the pipeline's own call, which sees the video anew, or from the whole prompt in one forward.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CompileConfig,
    GenerationConfig,
    TextStreamer,
    pipeline,
)

from spatial_mllm_hf import VideoQuestionAnsweringPipeline

from .conftest import FEW, LONG_QUESTION, QUESTION, SHORT, TASK, Counts

QUESTIONS = ["Where?", QUESTION, LONG_QUESTION]
SUBJECTS = ["video", "videos", "frames", "image", "images", "images of several sizes", "video and images"]


@pytest.fixture(scope="module")
def subjects(room_clip: Path, pictures: list[Image.Image]) -> dict[str, dict[str, Any]]:
    """What can be looked at, as arguments of a call."""
    return {
        "video": {"video": room_clip},
        "videos": {"videos": [room_clip, pictures]},
        "frames": {"frames": pictures},
        "image": {"image": pictures[1]},
        "images": {"images": pictures[:3]},
        "images of several sizes": {"images": [pictures[0], pictures[1].resize((112, 60)), pictures[2]]},
        "video and images": {"video": room_clip, "images": pictures[:2]},
    }


@pytest.fixture(scope="module")
def scenes(pipe: VideoQuestionAnsweringPipeline, subjects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each of them opened, for all tests to ask: no question may leave a trace."""
    return {name: pipe.open_scene(**media, **FEW) for name, media in subjects.items()}


@pytest.fixture(scope="module")
def ask_apart(
    pipe: VideoQuestionAnsweringPipeline, subjects: dict[str, dict[str, Any]]
) -> Callable[[str, str], dict[str, str]]:
    """Answers of the pipeline's own call, each asked for once."""
    return lru_cache(lambda name, question: pipe(**subjects[name], question=question, **FEW, **SHORT))


class EnoughError(Exception):
    """Stands for whatever ends an answer before its time."""


class InterruptingStreamer:
    """Lets the prompt and a few tokens pass, then raises."""

    def __init__(self, error: type[BaseException], tokens: int = 3) -> None:
        self.error = error
        self.left = tokens + 1

    def put(self, _value: torch.Tensor) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error

    def end(self) -> None:
        raise AssertionError("the answer was not interrupted")


class KeepingStreamer:
    """Keeps what it is given, token by token."""

    def __init__(self) -> None:
        self.given: list[list[int]] = []

    def put(self, value: torch.Tensor) -> None:
        self.given.append(value.flatten().tolist())

    def end(self) -> None:
        self.given.append([])


@contextmanager
def recorded_forwards(pipe: VideoQuestionAnsweringPipeline) -> Iterator[list[dict[str, torch.Tensor]]]:
    """Input ids, positions, and logits of every token, of each forward of the language model."""
    forwards: list[dict[str, torch.Tensor]] = []

    def before(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        forwards.append({"input_ids": kwargs["input_ids"]})

    def after(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        forwards[-1]["logits"] = pipe.model.lm_head(output.last_hidden_state)

    handles = [
        pipe.model.register_forward_pre_hook(before, with_kwargs=True),
        pipe.model.model.language_model.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield forwards
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def whole_prompt(
    pipe: VideoQuestionAnsweringPipeline, media: list[dict[str, Any]], question: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids `[L]` of a prompt with what it shows, and the logits `[L, vocabulary]` of one forward of all of it."""
    inputs = pipe.processor.apply_chat_template(
        [{"role": "user", "content": [*media, {"type": "text", "text": question}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"frame_sampling": "space_aware", **FEW} if media[0]["type"] == "video" else {},
    )
    return inputs["input_ids"][0], pipe.model(**inputs).logits[0]


# ---------------------------------------------------------------------------------------------- the same answers


@pytest.mark.parametrize("name", SUBJECTS)
def test_answers_are_those_of_separate_calls(
    ask_apart: Callable[[str, str], Any], scenes: dict[str, Any], name: str
) -> None:
    expected = [ask_apart(name, question) for question in QUESTIONS]
    assert len({answer["generated_text"] for answer in expected}) > 1  # a tiny model repeats itself now and then
    assert [scenes[name].ask(question, **SHORT) for question in QUESTIONS] == expected
    assert [scenes[name].ask(question, **SHORT) for question in QUESTIONS[::-1]] == expected[::-1]


def test_every_subject_gives_another_answer(scenes: dict[str, Any]) -> None:
    """Or the tests here could not tell one from another."""
    answers = [tuple(answer["generated_text"] for answer in scene.ask(QUESTIONS, **SHORT)) for scene in scenes.values()]
    assert len(set(answers)) == len(SUBJECTS)


@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "static"},
        {"cache_implementation": "dynamic"},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 3, "cache_implementation": "static"},
        {"do_sample": True, "temperature": 2.0},
        {"do_sample": True, "temperature": 2.0, "num_return_sequences": 3},
        {"do_sample": True, "temperature": 2.0, "num_return_sequences": 2, "cache_implementation": "static"},
        {"repetition_penalty": 3.0},
        {"max_new_tokens": 1},
        {"max_new_tokens": 12, "min_new_tokens": 12},
        {"max_length": 150, "max_new_tokens": None, "cache_implementation": "static"},
        {"prefill_chunk_size": 4},
        {"use_cache": False},
        {"generation_config": GenerationConfig(max_new_tokens=5, pad_token_id=0)},
        {"generation_config": GenerationConfig(max_new_tokens=5, pad_token_id=0, cache_implementation="static")},
    ],
    ids=str,
)
def test_generation_is_that_of_a_separate_call(
    pipe: VideoQuestionAnsweringPipeline, scenes: dict[str, Any], room_clip: Path, options: dict[str, Any]
) -> None:
    options = {**({} if "generation_config" in options else SHORT), **options}
    torch.manual_seed(5)
    expected = pipe(room_clip, QUESTION, **FEW, **copy.deepcopy(options))
    torch.manual_seed(5)
    assert scenes["video"].ask(QUESTION, **options) == expected


@pytest.mark.parametrize("cache", [None, "static"])
def test_a_longest_length_counts_the_scene(tiny_checkpoint: Path, room_clip: Path, cache: str | None) -> None:
    """Where the checkpoint sets no number of new tokens, which would come first."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    model.generation_config.max_new_tokens = None
    own = pipeline(TASK, model=model, processor=AutoProcessor.from_pretrained(tiny_checkpoint))
    scene = own.open_scene(room_clip, **FEW)
    rest = own.processor.tokenizer.encode(f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n")
    length = len(scene.prefix) + len(rest) + 6
    options = {"max_length": length, "min_length": length, "cache_implementation": cache}
    answer = scene.ask(QUESTION, **options)
    assert answer == own(room_clip, QUESTION, **FEW, **options)
    assert len(answer["generated_text"]) == 6


def test_sampling_goes_by_the_seed(scenes: dict[str, Any]) -> None:
    def sample(seed: int) -> str:
        torch.manual_seed(seed)
        return scenes["video"].ask(QUESTION, do_sample=True, temperature=2.0, **SHORT)["generated_text"]

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_a_streamer_gets_what_it_gets_of_a_separate_call(
    pipe: VideoQuestionAnsweringPipeline, scenes: dict[str, Any], room_clip: Path
) -> None:
    apart, asked = KeepingStreamer(), KeepingStreamer()
    pipe(room_clip, QUESTION, streamer=apart, **FEW, **SHORT)
    scenes["video"].ask(QUESTION, streamer=asked, **SHORT)
    assert asked.given == apart.given
    assert len(asked.given) == 1 + 8 + 1  # the prompt, the tokens, the end


def test_a_text_streamer_prints_the_answer_alone(
    pipe: VideoQuestionAnsweringPipeline, scenes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    streamer = TextStreamer(pipe.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    answer = scenes["video"].ask(QUESTION, streamer=streamer, **SHORT)
    assert capsys.readouterr().out.strip() == answer["generated_text"] != ""


@pytest.mark.parametrize("name", ["video", "videos", "images of several sizes"])
@pytest.mark.parametrize("question", [QUESTIONS[0], LONG_QUESTION], ids=["short", "long"])
def test_logits_are_those_of_the_whole_prompt(
    pipe: VideoQuestionAnsweringPipeline, subjects: dict[str, Any], scenes: dict[str, Any], name: str, question: str
) -> None:
    kind = "image" if "images" in subjects[name] else "video"
    media = subjects[name].get("images") or subjects[name].get("videos") or [subjects[name]["video"]]
    media = [str(item) if isinstance(item, Path) else item for item in media]
    ids, expected = whole_prompt(pipe, [{"type": kind, kind: item} for item in media], question)
    pipe.open_scene(**subjects["frames"], **FEW)  # leaves positions of its own behind
    with recorded_forwards(pipe) as forwards:
        scenes[name].ask(question, max_new_tokens=1)
    (forward,) = forwards
    length = forward["input_ids"].shape[1]
    assert len(scenes[name].prefix) + length == len(ids)
    assert torch.equal(torch.cat([scenes[name].prefix.input_ids, forward["input_ids"][0]]), ids)
    torch.testing.assert_close(forward["logits"][0], expected[-length:], rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------------------------- no trace


def ask_another_question(pipe: Any, scenes: dict[str, Any], _clip: Path) -> None:
    scenes["video"].ask(LONG_QUESTION, max_new_tokens=12)


def ask_another_scene(pipe: Any, scenes: dict[str, Any], _clip: Path) -> None:
    scenes["videos"].ask(QUESTION, **SHORT)


def open_another_scene(pipe: Any, scenes: dict[str, Any], clip: Path) -> None:
    pipe.open_scene(clip, frame_sampling="uniform", num_frames=10)


def ask_the_pipeline(pipe: Any, scenes: dict[str, Any], clip: Path) -> None:
    pipe(clip, LONG_QUESTION, frame_sampling="uniform", num_frames=8, **SHORT)


def ask_without_a_video(pipe: Any, scenes: dict[str, Any], _clip: Path) -> None:
    pipe(question=LONG_QUESTION, **SHORT)


def ask_a_batch(pipe: Any, scenes: dict[str, Any], _clip: Path) -> None:
    pipe.ask_scenes([(scenes["image"], QUESTION), (scenes["video"], LONG_QUESTION)], num_beams=2, **SHORT)


def use_the_model(pipe: Any, scenes: dict[str, Any], _clip: Path) -> None:
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    pipe.model(input_ids=ids, labels=ids).loss.backward()
    pipe.model.zero_grad()


def spoil_what_a_call_leaves_behind(pipe: Any, scenes: dict[str, Any], _clip: Path) -> None:
    pipe.model.model.rope_deltas = torch.tensor([[-1234]])


@pytest.mark.parametrize(
    "disturb",
    [
        ask_another_question,
        ask_another_scene,
        open_another_scene,
        ask_the_pipeline,
        ask_without_a_video,
        ask_a_batch,
        use_the_model,
        spoil_what_a_call_leaves_behind,
    ],
)
def test_what_happens_in_between_does_not_show(
    pipe: VideoQuestionAnsweringPipeline,
    scenes: dict[str, Any],
    ask_apart: Callable[[str, str], Any],
    room_clip: Path,
    disturb: Callable[..., None],
) -> None:
    alone = ask_apart("video", QUESTION)
    assert scenes["video"].ask(QUESTION, **SHORT) == alone
    disturb(pipe, scenes, room_clip)
    assert scenes["video"].ask(QUESTION, **SHORT) == alone


@pytest.mark.parametrize("error", [EnoughError, KeyboardInterrupt])
@pytest.mark.parametrize("cache", [None, "static"])
def test_an_interrupted_answer_leaves_no_trace(
    pipe: VideoQuestionAnsweringPipeline,
    scenes: dict[str, Any],
    ask_apart: Callable[[str, str], Any],
    room_clip: Path,
    error: type[BaseException],
    cache: str | None,
) -> None:
    scene = scenes["video"]
    with pytest.raises(error):
        scene.ask(LONG_QUESTION, streamer=InterruptingStreamer(error), cache_implementation=cache, **SHORT)
    with pytest.raises(error):
        pipe(room_clip, "Where?", streamer=InterruptingStreamer(error), num_frames=2, **SHORT)
    assert scene.ask(QUESTION, **SHORT) == ask_apart("video", QUESTION)


def test_what_is_kept_never_changes(
    pipe: VideoQuestionAnsweringPipeline, subjects: dict[str, Any], scenes: dict[str, Any]
) -> None:
    scene = pipe.open_scene(**subjects["videos"], **FEW)
    prefix = scene.prefix
    kept = [prefix.input_ids, prefix.token_types, *prefix.descriptions.values()]
    kept += [tensor for layer in prefix.layers for tensor in layer]
    before = [tensor.clone() for tensor in kept]
    for question in QUESTIONS:
        scene.ask(question, **SHORT)
        scene.ask(question, cache_implementation="static", num_beams=2, **SHORT)
    scene.ask(QUESTIONS, do_sample=True, num_return_sequences=2, **SHORT)
    pipe.ask_scenes([(scene, "Where?"), (scenes["image"], QUESTION), (scene, LONG_QUESTION)], **SHORT)
    with pytest.raises(EnoughError):
        scene.ask(QUESTION, streamer=InterruptingStreamer(EnoughError), **SHORT)
    assert all(torch.equal(tensor, copied) for tensor, copied in zip(kept, before, strict=True))
    assert len(prefix.layers) == pipe.model.config.text_config.num_hidden_layers
    assert {tensor.shape[2] for layer in prefix.layers for tensor in layer} == {len(prefix)}


# ---------------------------------------------------------------------------------------------- together


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"num_beams": 2}], ids=str)
def test_questions_together_are_answered_as_alone(scenes: dict[str, Any], options: dict[str, Any]) -> None:
    scene = scenes["video"]
    alone = [scene.ask(question, **SHORT, **options) for question in QUESTIONS]
    assert scene.ask(QUESTIONS, **SHORT, **options) == alone
    assert scene.ask(tuple(QUESTIONS[::-1]), **SHORT, **options) == alone[::-1]
    assert scene.ask([QUESTION], **SHORT, **options) == [alone[1]]


@pytest.mark.parametrize(
    "options",
    [{}, {"cache_implementation": "static"}, {"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}],
    ids=str,
)
def test_scenes_together_are_answered_as_alone(
    pipe: VideoQuestionAnsweringPipeline, scenes: dict[str, Any], options: dict[str, Any]
) -> None:
    order = ["image", "video", "images of several sizes", "videos", "video and images", "frames", "video"]
    assert len({len(scenes[name].prefix) for name in order}) > 4
    pairs = [(scenes[name], QUESTIONS[number % len(QUESTIONS)]) for number, name in enumerate(order)]
    alone = [scene.ask(question, **SHORT, **options) for scene, question in pairs]
    assert pipe.ask_scenes(pairs, **SHORT, **options) == alone
    assert pipe.ask_scenes(tuple(pairs[::-1]), **SHORT, **options) == alone[::-1]


def test_logits_of_scenes_together_are_those_of_each_alone(
    pipe: VideoQuestionAnsweringPipeline, scenes: dict[str, Any]
) -> None:
    pairs = [(scenes["image"], LONG_QUESTION), (scenes["videos"], "Where?"), (scenes["video and images"], QUESTION)]
    alone = []
    for scene, question in pairs:
        with recorded_forwards(pipe) as forwards:
            scene.ask(question, max_new_tokens=1)
        alone.append(forwards[0]["logits"][0])
    with recorded_forwards(pipe) as forwards:
        pipe.ask_scenes(pairs, max_new_tokens=1)
    assert len(forwards) == 1
    for together, expected in zip(forwards[0]["logits"], alone, strict=True):
        torch.testing.assert_close(together[-len(expected) :], expected, rtol=0, atol=1e-4)


def test_several_sequences_for_each_question(scenes: dict[str, Any]) -> None:
    beams = {"num_beams": 3, "num_return_sequences": 2, **SHORT}
    answers = scenes["video"].ask(QUESTIONS[:3], **beams)
    assert [len(sequences) for sequences in answers] == [2, 2, 2]
    assert all(first != second for first, second in answers)


# ---------------------------------------------------------------------------------------------- seen once


@pytest.mark.parametrize("name", ["video", "images"])
def test_a_scene_is_seen_once(
    pipe: VideoQuestionAnsweringPipeline, subjects: dict[str, Any], ran: Counts, name: str
) -> None:
    scene = pipe.open_scene(**subjects[name], **FEW)
    # VGGT looks twice at a video: at the candidates to choose of them, and at the frames that were chosen.
    videos = {"choose_frames": 1, "predict_geometry": 1, "VGGT": 2} if name == "video" else {"VGGT": 1}
    seen = {**videos, "vision tower": 1, "connector": 1, "visual prompts": 1}
    assert ran == seen
    for question in QUESTIONS:
        scene.ask(question, **SHORT)
    scene.ask(QUESTIONS, cache_implementation="static", **SHORT)
    pipe.ask_scenes([(scene, QUESTION)] * 2, num_beams=2, **SHORT)
    assert ran == seen
    pipe(**subjects[name], question=QUESTION, **FEW, max_new_tokens=1)
    assert ran == {part: 2 * times for part, times in seen.items()}


def test_a_question_costs_its_own_tokens(pipe: VideoQuestionAnsweringPipeline, scenes: dict[str, Any]) -> None:
    """And what the chat template puts after it."""
    for question in QUESTIONS:
        with recorded_forwards(pipe) as forwards:
            scenes["video"].ask(question, max_new_tokens=4, min_new_tokens=4)
        first, *others = (forward["input_ids"] for forward in forwards)
        assert pipe.processor.decode(first[0]) == f"{question}<|im_end|>\n<|im_start|>assistant\n"
        assert [ids.shape for ids in others] == [(1, 1)] * 3


def test_what_is_kept_ends_with_the_scene(
    pipe: VideoQuestionAnsweringPipeline, scenes: dict[str, Any], subjects: dict[str, Any]
) -> None:
    text = pipe.processor.decode(scenes["video and images"].prefix.input_ids)
    assert text.endswith("<|image_pad|><|vision_end|>")
    assert text.count("<|vision_end|>") == 3
    assert scenes["video and images"].prefix.kinds == ["video", "image", "image"]
    assert scenes["videos"].prefix.kinds == ["video", "video"]


def test_progress_tells_the_stages_of_opening(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> None:
    begun: list[str] = []
    scene = pipe.open_scene(room_clip, progress=begun.append, **FEW)
    assert begun == ["decode", "geometry", "encode"]
    scene.ask(QUESTION, max_new_tokens=1)
    assert len(begun) == 3
    pipe.open_scene(room_clip, progress=begun.append, frame_sampling="uniform", num_frames=2)
    assert begun[3:] == ["decode", "encode"]


# ---------------------------------------------------------------------------------------------- options and frames


@pytest.mark.parametrize("form", ["by name", "in a dictionary"])
def test_options_of_the_pipeline_hold(tiny_checkpoint: Path, room_clip: Path, form: str) -> None:
    lengths = {"max_new_tokens": 3, "min_new_tokens": 3}
    generation = lengths if form == "by name" else {"generate_kwargs": lengths}
    own = pipeline(TASK, model=str(tiny_checkpoint), num_frames=4, frame_sampling="uniform", **generation)
    scene = own.open_scene(room_clip)
    assert [frame["index"] for frame in scene.frames[0]] == [0, 8, 15, 23]
    assert scene.ask(QUESTION) == own(room_clip, QUESTION)
    assert len(scene.ask(QUESTION)["generated_text"]) == 3
    assert len(scene.ask(QUESTION, max_new_tokens=7, min_new_tokens=7)["generated_text"]) == 7
    assert own.ask_scenes([(scene, QUESTION)]) == [scene.ask(QUESTION)]
    assert len(own.open_scene(room_clip, num_frames=6).frames[0]) == 6


def test_the_checkpoint_says_how_many_frames(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> None:
    assert len(pipe.open_scene(room_clip, frame_sampling="uniform").frames[0]) == 16  # the paper's


@pytest.mark.parametrize("name", ["video", "videos", "frames", "images"])
def test_a_scene_shows_the_frames_of_a_separate_call(
    pipe: VideoQuestionAnsweringPipeline, subjects: dict[str, Any], scenes: dict[str, Any], name: str
) -> None:
    answer = pipe(**subjects[name], question=QUESTION, return_frames=True, max_new_tokens=1, **FEW)
    assert scenes[name].frames == answer["frames"]
    assert len(scenes[name].frames) == {"video": 1, "videos": 2, "frames": 1, "images": 0}[name]


def test_seconds_and_sampling_reach_the_scene(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, ask_apart: Callable[[str, str], Any]
) -> None:
    options = {"second_per_grid": 4.0, "geometry_source": "depth", "candidate_size": 56, **FEW}
    answer = pipe.open_scene(room_clip, **options).ask(LONG_QUESTION, **SHORT)
    assert answer == pipe(room_clip, LONG_QUESTION, **options, **SHORT)
    assert answer != ask_apart("video", LONG_QUESTION)
    by_rate = pipe.open_scene(room_clip, frame_sampling="uniform", fps=2)
    assert len(by_rate.frames[0]) == 6  # three seconds


def test_a_scene_says_what_it_is(scenes: dict[str, Any]) -> None:
    for name, counts in {"video": "4", "videos": "4, 4", "images": "no"}.items():
        kept = sum(tensor.nbytes for layer in scenes[name].prefix.layers for tensor in layer) / 2**20
        tokens = scenes[name].prefix.layers[0][0].shape[2]
        assert repr(scenes[name]) == f"Scene({counts} frames, {tokens} tokens, {kept:.1f} MiB kept)"


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("question", ["", " \n", None, 7, ["Where?", ""], [None]])
def test_an_empty_question_is_refused(scenes: dict[str, Any], question: Any) -> None:
    with pytest.raises(ValueError, match="question is empty: pass a text to answer"):
        scenes["video"].ask(question)


def test_no_questions_are_refused(pipe: VideoQuestionAnsweringPipeline, scenes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least one pair of a scene and a question"):
        scenes["video"].ask([])
    with pytest.raises(ValueError, match="at least one pair of a scene and a question"):
        pipe.ask_scenes([])


@pytest.mark.parametrize(
    "placeholder", ["<|video_pad|>", "<|image_pad|>", "<|vision_start|><|video_pad|><|vision_end|>"]
)
def test_a_question_shows_nothing_itself(scenes: dict[str, Any], placeholder: str) -> None:
    """What stands before the placeholder would be lost, as if it belonged to the scene."""
    with pytest.raises(ValueError, match=r"placeholder of a video or image: it has to be text alone, got 'Is .* here"):
        scenes["video"].ask(f"Is {placeholder} here?", **SHORT)


@pytest.mark.parametrize("media", [{}, {"video": None}], ids=["nothing", "None"])
def test_a_scene_needs_something_to_see(pipe: VideoQuestionAnsweringPipeline, media: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"open_scene needs a video or images: open_scene\(video\)"):
        pipe.open_scene(**media)


@pytest.mark.parametrize("key", ["video", "videos", "frames", "images"])
def test_an_empty_list_is_named(pipe: VideoQuestionAnsweringPipeline, key: str) -> None:
    with pytest.raises(ValueError, match=f"'{key}' is empty"):
        pipe.open_scene(**{key: []})


@pytest.mark.parametrize("name", ["max_new_tokens", "question", "num_frame", "streamer"])
def test_what_opening_does_not_know_is_named(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, ran: Counts, name: str
) -> None:
    with pytest.raises(ValueError, match=rf"open_scene does not know \['{name}'\].* goes to scene\.ask"):
        pipe.open_scene(room_clip, **{name: 3})
    assert not ran


@pytest.mark.parametrize("name", ["num_frames", "temprature"])
def test_what_generation_does_not_know_is_named(scenes: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        scenes["video"].ask(QUESTION, **{name: 4})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cache_implementation": "quantized"}, "cache_implementation='quantized' cannot take over a scene"),
        ({"prompt_lookup_num_tokens": 2}, r"Assisted generation .* cannot continue a scene"),
        ({"assistant_model": object()}, r"Assisted generation .* cannot continue a scene"),
    ],
)
def test_generation_that_starts_from_the_beginning_is_refused(
    scenes: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        scenes["video"].ask(QUESTION, **SHORT, **options)


def test_a_scene_belongs_to_its_pipeline(
    pipe: VideoQuestionAnsweringPipeline, scenes: dict[str, Any], tiny_checkpoint: Path
) -> None:
    other = pipeline(TASK, model=pipe.model, processor=pipe.processor)
    with pytest.raises(ValueError, match=r"Scene\(4 frames, .* was opened by another pipeline: ask it there"):
        other.ask_scenes([(scenes["video"], QUESTION)])


def test_mistakes_about_the_video_are_those_of_a_call(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> None:
    with pytest.raises(ValueError, match=r"no video file at .*gone\.mp4"):
        pipe.open_scene(room_clip.with_name("gone.mp4"))
    with pytest.raises(ValueError, match=r"num_frames must be a positive even number.* got 3"):
        pipe.open_scene(room_clip, num_frames=3)
    with pytest.raises(ValueError, match=r"frame_sampling must be .* got 'random'"):
        pipe.open_scene(room_clip, frame_sampling="random")


def test_one_place_to_keep_a_scene(pipe: VideoQuestionAnsweringPipeline, room_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"saved= \(one file\) or cache_dir= \(a folder of them\), not both"):
        pipe.open_scene(room_clip, saved=tmp_path / "scene", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------- generate with a past


@pytest.mark.parametrize("given", ["all", "no token types", "no mask"])
def test_a_second_turn_continues_from_the_first(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, pictures: list[Image.Image], given: str
) -> None:
    """`generate` alone, with the ids of the whole chat, its grids, and the cache of the first turn."""
    model, processor = pipe.model, pipe.processor
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video", "video": str(room_clip)}, {"type": "text", "text": QUESTION}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"frame_sampling": "uniform", "num_frames": 4},
    )
    first = model.generate(**inputs, return_dict_in_generate=True, max_new_tokens=6)
    turn = f"<|im_end|>\n<|im_start|>user\n{LONG_QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    turn_ids = processor.tokenizer(turn, return_tensors="pt", add_special_tokens=False)["input_ids"]
    ids = torch.cat([first.sequences, turn_ids], dim=1)
    types = torch.zeros_like(ids, dtype=inputs["mm_token_type_ids"].dtype)
    types[:, : inputs["mm_token_type_ids"].shape[1]] = inputs["mm_token_type_ids"]
    described = {name: inputs[name] for name in ("video_grid_thw", "second_per_grid_ts")}
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types}
    expected = model.generate(**text, **described, pixel_values_videos=inputs["pixel_values_videos"], max_new_tokens=8)
    pipe(frames=pictures, question="Where?", **FEW, max_new_tokens=1)  # leaves other positions behind
    for name in {"all": [], "no token types": ["mm_token_type_ids"], "no mask": ["attention_mask"]}[given]:
        del text[name]
    with recorded_forwards(pipe) as forwards:
        continued = model.generate(
            **text, **described, **{model.cache_name: copy.deepcopy(first[model.cache_name])}, max_new_tokens=8
        )
    assert torch.equal(continued, expected)
    assert forwards[0]["input_ids"].shape[1] == turn_ids.shape[1] + 1  # the first turn's last token was not read


# ---------------------------------------------------------------------------------------------- compiled


@pytest.mark.slow
def test_a_compiled_decode_gives_the_same_tokens(tiny_checkpoint: Path, room_clip: Path) -> None:
    own = pipeline(TASK, model=str(tiny_checkpoint))
    expected = [own(room_clip, question, **FEW, **SHORT) for question in QUESTIONS]
    compile_config = CompileConfig(mode="default")
    compile_config._compile_all_devices = True  # on a CPU too
    options = {"cache_implementation": "static", "compile_config": compile_config, **SHORT}
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    for asked in (
        lambda question: own(room_clip, question, **FEW, **options),
        lambda question: own.open_scene(room_clip, **FEW).ask(question, **options),
    ):
        counters.clear()
        assert [asked(question) for question in QUESTIONS] == expected
        assert counters["stats"]["unique_graphs"] > 0  # or it would be no test of compiled code
        torch._dynamo.reset()
