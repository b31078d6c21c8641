"""`transformers.pipeline("video-question-answering")` on the tiny checkpoint, used as a user would use it."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLVideoProcessor,
    TextStreamer,
    pipeline,
)

from spatial_mllm_hf import SpatialMLLMProcessor, VideoQuestionAnsweringPipeline

TASK = "video-question-answering"
QUESTION = "How many chairs are in this room?"
# Small enough for a call to take a tenth of a second.
FEW: dict[str, Any] = {"num_frames": 4, "num_candidate_frames": 6, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint: Path) -> VideoQuestionAnsweringPipeline:
    return pipeline(TASK, model=str(tiny_checkpoint))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Four pictures of noise, each different."""
    noise = np.random.default_rng(3)
    return [Image.fromarray(noise.integers(0, 256, (60, 80, 3), dtype=np.uint8)) for _ in range(4)]


@pytest.fixture(scope="module")
def mixed_inputs(room_clip: Path, pictures: list[Image.Image]) -> list[Any]:
    """A video, a text, images, two videos, a chat and frames: all of different lengths."""
    return [
        {"video": room_clip, "question": QUESTION},
        {"question": "Where?"},
        {"images": pictures[:3], "question": "Which colours are there?"},
        {"videos": [room_clip, pictures], "question": "Same place?"},
        [{"role": "system", "content": "Be short."}, *chat(room_clip, "And how many tables are there, if any?")],
        {"frames": pictures, "question": "What?"},
    ]


@pytest.fixture
def generate_calls(pipe: VideoQuestionAnsweringPipeline, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `generate` is called with; it answers as always."""
    calls: list[dict[str, Any]] = []
    generate = pipe.model.generate

    def record(**inputs: Any) -> Any:
        calls.append(inputs)
        return generate(**inputs)

    monkeypatch.setattr(pipe.model, "generate", record)
    return calls


def chat(video: Any, question: str) -> list[dict[str, Any]]:
    content = [{"type": "video", "video": video}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def decode(path: Path, indices: list[int]) -> list[np.ndarray]:
    """Frames of a clip by a plain sequential decode, without any of our code."""
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]
    return [frames[index] for index in indices]


def indices_of(answer: dict[str, Any], video: int = 0) -> list[int]:
    return [frame["index"] for frame in answer["frames"][video]]


class RecordingStreamer:
    """What a streamer is to `generate`: put and end."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


class KnownGeometry:
    """Stands in for predict_geometry: only the candidates `telling` see anything that others do not."""

    def __init__(self, telling: list[int]) -> None:
        self.telling = telling
        self.shapes: list[torch.Size] = []

    def __call__(self, frames: torch.Tensor) -> SimpleNamespace:
        self.shapes.append(frames.shape)
        S, _, H, W = frames.shape
        points = torch.zeros(S, H, W, 3)
        for place, number in enumerate(self.telling):
            slab = torch.rand(H, W, 3, generator=torch.Generator().manual_seed(number))
            points[number] = slab + torch.tensor([float(place), 0.0, 0.0])
        return SimpleNamespace(points=points, confidence=torch.ones(S, H, W))


# ---------------------------------------------------------------------------------------------- forms of input


def test_all_forms_of_one_question_give_one_answer(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> None:
    answer = pipe({"video": room_clip, "question": QUESTION}, **FEW)
    assert set(answer) == {"generated_text"}
    assert answer["generated_text"]
    assert pipe(video=room_clip, question=QUESTION, **FEW) == answer
    assert pipe(str(room_clip), QUESTION, **FEW) == answer
    assert pipe(videos=[room_clip], question=QUESTION, **FEW) == answer
    assert pipe(chat(room_clip, QUESTION), **FEW) == answer
    assert pipe([{"video": room_clip, "question": QUESTION}], **FEW) == [answer]


def test_video_and_question_change_the_answer(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, pictures: list[Image.Image]
) -> None:
    answers = [pipe(room_clip, QUESTION, **FEW), pipe(room_clip, "Where?", **FEW), pipe(pictures, QUESTION, **FEW)]
    assert len({answer["generated_text"] for answer in answers}) == 3


def test_a_batch_answers_as_its_members_alone(pipe: VideoQuestionAnsweringPipeline, mixed_inputs: list[Any]) -> None:
    alone = [pipe(item, **FEW) for item in mixed_inputs]
    assert len({answer["generated_text"] for answer in alone}) == len(mixed_inputs)
    assert pipe(mixed_inputs, batch_size=1, **FEW) == alone
    assert pipe(mixed_inputs, batch_size=3, **FEW) == alone
    assert pipe(tuple(mixed_inputs), batch_size=len(mixed_inputs), **FEW) == alone


def test_an_empty_list_has_no_answers(pipe: VideoQuestionAnsweringPipeline) -> None:
    assert pipe([]) == []


def test_a_generator_is_read_no_more_than_a_batch_ahead(pipe: VideoQuestionAnsweringPipeline) -> None:
    read: list[str] = []

    def questions() -> Iterator[dict[str, str]]:
        for number in range(6):
            read.append(f"Question {number}?")
            yield {"question": read[-1]}

    answers = pipe(questions(), batch_size=2, max_new_tokens=4)
    assert read == []
    received = []
    for answer in answers:
        received.append(answer)
        assert len(read) <= len(received) + 2
    assert received == pipe([{"question": question} for question in read], max_new_tokens=4)
    assert len(received) == 6


def test_a_dataset_is_streamed(pipe: VideoQuestionAnsweringPipeline) -> None:
    class Questions(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.read: list[int] = []

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> dict[str, str]:
            self.read.append(index)
            return {"question": f"Question {index}?"}

    dataset = Questions()
    answers = pipe(dataset, max_new_tokens=4)
    first = next(answers)
    assert dataset.read == [0]
    expected = pipe([{"question": f"Question {index}?"} for index in range(3)], max_new_tokens=4)
    assert [first, *answers] == expected


def test_several_videos_are_seen_in_their_order(
    pipe: VideoQuestionAnsweringPipeline,
    room_clip: Path,
    pictures: list[Image.Image],
    generate_calls: list[dict[str, Any]],
) -> None:
    answer = pipe(videos=[room_clip, pictures], question=QUESTION, return_frames=True, **FEW)
    assert [len(frames) for frames in answer["frames"]] == [4, 4]
    assert [frame["image"] for frame in answer["frames"][1]] == pictures
    pipe(videos=[pictures, room_clip], question=QUESTION, **FEW)
    first, second = (call["video_grid_thw"].tolist() for call in generate_calls)
    assert first == second[::-1]
    assert first[0] != first[1]
    # Paths of videos under "video" are several videos too; a list of pictures is one.
    assert pipe([{"video": [room_clip, room_clip], "question": QUESTION}], return_frames=True, **FEW)[0]["frames"][1]
    assert len(pipe(video=pictures, question=QUESTION, return_frames=True, **FEW)["frames"]) == 1


@pytest.mark.parametrize("form", ["path", "str", "array", "one array", "tensor"])
def test_frames_are_one_video_in_whatever_form(
    pipe: VideoQuestionAnsweringPipeline, pictures: list[Image.Image], tmp_path: Path, form: str
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures):
        picture.save(path)
    arrays = [np.array(picture) for picture in pictures]
    frames = {
        "path": paths,
        "str": [str(path) for path in paths],
        "array": arrays,
        "one array": np.stack(arrays),
        "tensor": torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2),
    }[form]
    answer = pipe(frames=pictures, question=QUESTION, return_frames=True, **FEW)
    assert pipe(frames=frames, question=QUESTION, return_frames=True, **FEW) == answer
    assert pipe(video=frames, question=QUESTION, return_frames=True, **FEW) == answer
    assert indices_of(answer) == [0, 1, 2, 3]
    assert [frame["timestamp"] for frame in answer["frames"][0]] == [None] * 4


def test_images_are_not_a_video(pipe: VideoQuestionAnsweringPipeline, pictures: list[Image.Image]) -> None:
    answer = pipe(images=pictures, question=QUESTION, return_frames=True, **FEW)
    assert answer["frames"] == []
    assert answer["generated_text"] != pipe(frames=pictures, question=QUESTION, **FEW)["generated_text"]
    content = [*({"type": "image", "image": picture} for picture in pictures), {"type": "text", "text": QUESTION}]
    in_chat = pipe([{"role": "user", "content": content}], **FEW)
    assert in_chat["generated_text"] == answer["generated_text"]
    one = pipe(image=pictures[0], question=QUESTION, **FEW)
    assert one == pipe(images=pictures[:1], question=QUESTION, **FEW)


# ---------------------------------------------------------------------------------------------- frames and sampling


def test_return_frames_gives_what_the_model_saw(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> None:
    answer = pipe(room_clip, QUESTION, return_frames=True, **FEW)
    (frames,) = answer["frames"]
    indices = indices_of(answer)
    assert len(indices) == 4
    assert indices == sorted(set(indices))
    assert [frame["timestamp"] for frame in frames] == pytest.approx([index / 8 for index in indices])
    for frame, expected in zip(frames, decode(room_clip, indices), strict=True):
        assert isinstance(frame["image"], Image.Image)
        assert np.array_equal(np.asarray(frame["image"]), expected)


def test_the_default_is_space_aware_with_the_models_own_geometry(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = KnownGeometry(telling=[2, 5, 11, 19])
    monkeypatch.setattr(pipe.model, "predict_geometry", geometry)
    answer = pipe(room_clip, QUESTION, num_frames=4, max_new_tokens=1, return_frames=True)
    assert [shape[0] for shape in geometry.shapes] == [24]  # all frames: fewer than candidates are wanted
    assert indices_of(answer) == [2, 5, 11, 19]


def test_the_default_chooses_as_the_processor_does(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, tiny_checkpoint: Path
) -> None:
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    processor.bind_geometry(pipe.model)
    pixels, metadata = processor.video_processor.choose_frames(
        room_clip, frame_sampling="space_aware", num_frames=4, num_candidate_frames=10
    )
    answer = pipe(room_clip, QUESTION, num_frames=4, num_candidate_frames=10, max_new_tokens=1, return_frames=True)
    assert indices_of(answer) == metadata.frames_indices
    pictures = [np.asarray(frame["image"]) for frame in answer["frames"][0]]
    assert np.array_equal(pictures, pixels.permute(0, 2, 3, 1).numpy())


def test_uniform_sampling_needs_no_geometry(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("geometry was asked for")

    monkeypatch.setattr(pipe.model, "predict_geometry", fail)
    answer = pipe(room_clip, QUESTION, frame_sampling="uniform", num_frames=4, max_new_tokens=1, return_frames=True)
    assert indices_of(answer) == [0, 8, 15, 23]
    with pytest.raises(AssertionError, match="geometry was asked for"):
        pipe(room_clip, QUESTION, num_frames=4)


def test_sampling_options_reach_the_sampler(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, generate_calls: list[dict[str, Any]]
) -> None:
    by_rate = pipe(room_clip, QUESTION, frame_sampling="uniform", fps=2, max_new_tokens=1, return_frames=True)
    assert len(indices_of(by_rate)) == 6  # three seconds
    pipe(room_clip, QUESTION, second_per_grid=0.5, **FEW)
    assert [list(call["second_per_grid_ts"]) for call in generate_calls] == [[1.0], [0.5]]


def test_depth_can_be_the_geometry(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = []
    predict = pipe.model.predict_geometry

    def record(frames: torch.Tensor, source: str = "points") -> Any:
        sources.append((source, max(frames.shape[-2:])))
        return predict(frames, source)

    monkeypatch.setattr(pipe.model, "predict_geometry", record)
    pipe(room_clip, QUESTION, geometry_source="depth", candidate_size=56, **FEW)
    pipe(room_clip, QUESTION, candidate_size=84, **FEW)
    assert sources == [("depth", 56), ("points", 84)]


def test_options_hold_from_construction_until_a_call_says_otherwise(tiny_checkpoint: Path, room_clip: Path) -> None:
    pipe = pipeline(
        TASK,
        model=str(tiny_checkpoint),
        num_frames=4,
        frame_sampling="uniform",
        return_frames=True,
        max_new_tokens=3,
        batch_size=2,
    )
    answer = pipe(room_clip, QUESTION)
    assert indices_of(answer) == [0, 8, 15, 23]
    assert len(answer["generated_text"]) <= 3
    assert len(indices_of(pipe(room_clip, QUESTION, num_frames=6))) == 6
    assert "frames" not in pipe(room_clip, QUESTION, return_frames=False)
    assert len(pipe(room_clip, QUESTION, max_new_tokens=8)["generated_text"]) > 3
    assert pipe(room_clip, QUESTION) == answer


def test_the_checkpoint_says_how_many_frames(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> None:
    answer = pipe(room_clip, QUESTION, frame_sampling="uniform", max_new_tokens=1, return_frames=True)
    assert len(indices_of(answer)) == 16  # the paper's


def test_progress_tells_the_stages_in_order(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, pictures: list[Image.Image]
) -> None:
    def stages(inputs: dict[str, Any], **options: Any) -> list[str]:
        begun: list[str] = []
        pipe({**inputs, "question": QUESTION}, progress=begun.append, **{**FEW, "max_new_tokens": 1}, **options)
        return begun

    assert stages({"video": room_clip}) == ["decode", "geometry", "encode"]
    assert stages({"video": room_clip}, frame_sampling="uniform") == ["decode", "encode"]
    assert stages({"videos": [room_clip] * 2}) == ["decode", "geometry"] * 2 + ["encode"]
    assert stages({"images": pictures}) == ["encode"]


# ---------------------------------------------------------------------------------------------- generation


def test_the_answer_is_that_of_processor_and_model(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, tiny_checkpoint: Path
) -> None:
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    processor.bind_geometry(model)
    inputs = processor.apply_chat_template(
        chat(str(room_clip), QUESTION),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"frame_sampling": "space_aware", "num_frames": 4, "num_candidate_frames": 6},
    )
    tokens = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    expected = processor.decode(tokens, skip_special_tokens=True).strip()
    assert pipe(room_clip, QUESTION, **FEW)["generated_text"] == expected


def test_several_answers_to_a_question(pipe: VideoQuestionAnsweringPipeline, mixed_inputs: list[Any]) -> None:
    beams = {"num_beams": 2, "num_return_sequences": 2, **FEW}
    answers = pipe(mixed_inputs[:3], batch_size=3, **beams)
    assert [len(answer) for answer in answers] == [2, 2, 2]
    assert answers == [pipe(item, **beams) for item in mixed_inputs[:3]]
    assert answers[0][0]["generated_text"] != answers[0][1]["generated_text"]
    with_frames = pipe(mixed_inputs[0], return_frames=True, **beams)
    assert indices_of(with_frames[0]) == indices_of(with_frames[1])


def test_a_text_streamer_prints_the_answer(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streamer = TextStreamer(pipe.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    answer = pipe(room_clip, QUESTION, streamer=streamer, **FEW)
    assert capsys.readouterr().out.strip() == answer["generated_text"]


def test_a_streamer_gets_the_tokens_of_the_answer(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> None:
    streamer = RecordingStreamer()
    answer = pipe(room_clip, QUESTION, streamer=streamer, **FEW)
    assert streamer.ended
    text = pipe.processor.decode(streamer.tokens, skip_special_tokens=True)
    assert text.removesuffix(answer["generated_text"]).endswith("assistant\n")


def test_generate_options_come_by_name_or_in_a_dictionary(pipe: VideoQuestionAnsweringPipeline) -> None:
    short = pipe(question="Where?", max_new_tokens=3)
    assert len(short["generated_text"]) == 3
    assert pipe(question="Where?", generate_kwargs={"max_new_tokens": 3}) == short
    with pytest.raises(ValueError, match="temprature"):
        pipe(question="Where?", temprature=0.5)


def test_an_answer_has_room_where_a_checkpoint_sets_no_limit(tiny_checkpoint: Path) -> None:
    """transformers would end it after 20 tokens, the prompt included."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    model.generation_config.max_new_tokens = None
    model.generation_config.suppress_tokens += [model.generation_config.eos_token_id]  # never ends by itself
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    pipe = pipeline(TASK, model=model, processor=processor)
    assert len(pipe(question="Where?")["generated_text"]) > 100
    assert len(pipe(question="Where?", max_new_tokens=5)["generated_text"]) == 5


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("question", ["", "  \n", None, 7])
def test_an_empty_question_is_refused(pipe: VideoQuestionAnsweringPipeline, room_clip: Path, question: Any) -> None:
    with pytest.raises(ValueError, match="question is empty"):
        pipe({"video": room_clip, "question": question})


def test_a_chat_without_text_is_refused(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> None:
    with pytest.raises(ValueError, match="question is empty"):
        pipe([{"role": "user", "content": [{"type": "video", "video": room_clip}]}])


def test_an_unknown_key_is_named(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown keys \['vidoe'\]"):
        pipe({"vidoe": room_clip, "question": QUESTION})


@pytest.mark.parametrize("inputs", ["room.mp4", 5, None])
def test_a_question_has_to_come_along(pipe: VideoQuestionAnsweringPipeline, inputs: Any) -> None:
    with pytest.raises(ValueError, match=r'Pass \{"video"'):
        pipe(inputs)


def test_a_member_of_a_list_has_to_be_a_question(pipe: VideoQuestionAnsweringPipeline) -> None:
    with pytest.raises(ValueError, match=r"Each input must be .* got 'room\.mp4'"):
        pipe(["room.mp4"])


def test_a_missing_file_is_named(pipe: VideoQuestionAnsweringPipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no video file at .*gone\.mp4"):
        pipe(tmp_path / "gone.mp4", QUESTION)
    with pytest.raises(ValueError, match=r"no image file .*gone\.png"):
        pipe(frames=[str(tmp_path / "gone.png")], question=QUESTION)


@pytest.mark.parametrize("num_frames", [3, 0, -2])
def test_an_odd_or_senseless_number_of_frames_is_refused(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, num_frames: int
) -> None:
    with pytest.raises(ValueError, match=f"num_frames must be a positive even number.* got {num_frames}"):
        pipe(room_clip, QUESTION, num_frames=num_frames)


def test_an_unknown_sampling_is_refused(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> None:
    with pytest.raises(ValueError, match=r"frame_sampling must be .* got 'random'"):
        pipe(room_clip, QUESTION, frame_sampling="random")


def test_a_plain_qwen_is_refused_with_the_way_out(tiny_checkpoint: Path) -> None:
    settings = json.loads((tiny_checkpoint / "config.json").read_text())
    plain = {key: settings[key] for key in ("text_config", "vision_config", "tie_word_embeddings")}
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**plain))
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    with pytest.raises(ValueError, match=r"got Qwen2_5_VL.*SpatialMLLMForConditionalGeneration\.from_pretrained"):
        pipeline(TASK, model=model, processor=processor)


def test_a_plain_qwen_processor_becomes_ours(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> None:
    own = pipe.processor
    plain = Qwen2_5_VLProcessor(
        own.image_processor,
        copy.deepcopy(own.tokenizer),
        Qwen2VLVideoProcessor(image_mean=own.video_processor.image_mean),
        chat_template=own.chat_template,
    )
    adopted = pipeline(TASK, model=pipe.model, processor=plain)
    assert type(adopted.processor) is SpatialMLLMProcessor
    # The public checkpoints' processor knows no limits of ours; with the tiny ones it has to answer the same.
    adopted.processor.video_processor.size = own.video_processor.size
    adopted.processor.video_processor.candidate_size = own.video_processor.candidate_size
    assert adopted(room_clip, QUESTION, **FEW) == pipe(room_clip, QUESTION, **FEW)


def test_a_saved_pipeline_answers_the_same(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)
    assert pipeline(TASK, model=str(tmp_path))(room_clip, QUESTION, **FEW) == pipe(room_clip, QUESTION, **FEW)


# ---------------------------------------------------------------------------------------------- real clips


def test_real_clips_are_answered(pipe: VideoQuestionAnsweringPipeline, media: Path) -> None:
    kitchen, robot = media / "47334096.mp4", media / "robot_unitree.mp4"
    answer = pipe(kitchen, "How many chair(s) are in this room?", return_frames=True, max_new_tokens=8)
    assert answer["generated_text"]
    assert len(indices_of(answer)) == 16
    assert {frame["image"].size for frame in answer["frames"][0]} == {(480, 640)}
    uniform = pipe(robot, QUESTION, frame_sampling="uniform", num_frames=2, max_new_tokens=1, return_frames=True)
    assert indices_of(uniform) == [0, 173]


@pytest.mark.parametrize("key", ["video", "videos", "frames", "image", "images"])
@pytest.mark.parametrize("nothing", [None, []])
def test_nothing_to_look_at_is_no_answer(pipe: VideoQuestionAnsweringPipeline, key: str, nothing: Any) -> None:
    with pytest.raises(ValueError, match=f"'{key}' is empty: pass what the question is about"):
        pipe({key: nothing, "question": "How many chairs are there?"})
