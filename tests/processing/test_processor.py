"""From messages to the model's inputs: placeholders, token types, images of a sample, time between frames, geometry.

On the tiny checkpoint, whose frames have at most 140 x 140 pixels.
"""

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import write_clip
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoVideoProcessor,
    BatchFeature,
    Qwen2VLVideoProcessor,
)

from spatial_mllm_hf import SpatialMLLMProcessor, SpatialMLLMVideoProcessor, VGGTModel

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QUESTION = {"type": "text", "text": "How many chairs?"}
NUM_FRAMES = 20


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> Any:
    """Not to be bound to anything."""
    return AutoProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", NUM_FRAMES, size=(84, 56), fps=10))


def picture(seed: int, size: tuple[int, int] = (84, 56)) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def ask(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*content, QUESTION]}]


def encode(processor: Any, messages: list, **options: Any) -> BatchFeature:
    return processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, **options},
    )


def mixed_batch(clip: str) -> list[list[dict[str, Any]]]:
    """A video, two images, and words alone."""
    images = [{"type": "image", "image": picture(seed)} for seed in range(2)]
    return [ask({"type": "video", "video": clip}), ask(*images), ask()]


def assert_same(inputs: BatchFeature, expected: BatchFeature) -> None:
    assert inputs.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(inputs[name], value), name


def test_auto_class_gives_ours(processor: Any) -> None:
    assert type(processor) is SpatialMLLMProcessor
    assert type(processor.video_processor) is SpatialMLLMVideoProcessor


def test_chat_with_video_image_and_text(processor: Any, clip: str) -> None:
    messages = ask({"type": "video", "video": clip}, {"type": "image", "image": picture(0)})
    inputs = encode(processor, messages)
    prompt = processor.tokenizer.decode(inputs["input_ids"][0])
    start, end = prompt.split("<|video_pad|>")[0], prompt.split("<|image_pad|>")[-1]
    assert start.endswith("<|im_start|>user\n<|vision_start|>")
    assert end == "<|vision_end|>How many chairs?<|im_end|>\n<|im_start|>assistant\n"
    assert inputs["video_grid_thw"].tolist() == [[8, 4, 6]]
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 6]]
    assert len(inputs["pixel_values_videos"]) == 8 * 4 * 6
    assert inputs["num_images_per_sample"].tolist() == [1]
    assert set(inputs) <= set(processor.model_input_names)


def test_chat_is_the_call_with_its_prompt(processor: Any, clip: str) -> None:
    messages = ask({"type": "video", "video": clip}, {"type": "image", "image": picture(0)})
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt.count("<|video_pad|>") == prompt.count("<|image_pad|>") == 1
    called = processor(text=prompt, videos=clip, images=picture(0), return_tensors="pt")
    assert_same(encode(processor, messages), called)


@pytest.mark.parametrize("key", ["video", "url", "path"])
def test_chat_names_the_video_in_any_way(processor: Any, clip: str, key: str) -> None:
    expected = processor(text=VIDEO, videos=clip, return_tensors="pt")
    inputs = encode(processor, ask({"type": "video", key: clip}))
    assert torch.equal(inputs["pixel_values_videos"], expected["pixel_values_videos"])


def test_chat_with_frames_for_videos(processor: Any) -> None:
    frames = [picture(seed) for seed in range(4)]
    several = {"type": "video", "video": frames}
    array = {"type": "video", "video": np.stack([np.array(frame) for frame in frames[:2]])}
    inputs = encode(processor, [ask(several, array), ask(), ask(array)])
    assert inputs["video_grid_thw"].tolist() == [[2, 4, 6], [1, 4, 6], [1, 4, 6]]
    per_sample = (inputs["input_ids"] == processor.video_token_id).sum(-1)
    assert per_sample.tolist() == [2 * 6 + 6, 0, 6]


def test_mixed_batch_is_padded_on_the_left(processor: Any, clip: str) -> None:
    batch = mixed_batch(clip)
    inputs = encode(processor, batch)
    mask = inputs["attention_mask"]
    assert inputs["input_ids"].shape[0] == 3
    assert mask[:, -1].tolist() == [1, 1, 1]
    assert (mask.diff(dim=-1) >= 0).all()
    assert mask.sum(-1).tolist() == sorted(mask.sum(-1).tolist(), reverse=True)
    for row, messages in enumerate(batch):
        alone = encode(processor, [messages])
        assert torch.equal(inputs["input_ids"][row][mask[row] == 1], alone["input_ids"][0])
        assert torch.equal(inputs["mm_token_type_ids"][row][mask[row] == 1], alone["mm_token_type_ids"][0])
    assert (inputs["input_ids"][mask == 0] == processor.tokenizer.pad_token_id).all()


def test_mixed_batch_holds_what_its_samples_hold(processor: Any, clip: str) -> None:
    batch = mixed_batch(clip)
    inputs, video, images = (encode(processor, messages) for messages in (batch, [batch[0]], [batch[1]]))
    assert torch.equal(inputs["pixel_values_videos"], video["pixel_values_videos"])
    assert torch.equal(inputs["pixel_values"], images["pixel_values"])
    assert inputs["num_images_per_sample"].tolist() == [0, 2, 0]
    assert inputs["second_per_grid_ts"].tolist() == [1.0]


@pytest.mark.parametrize("num_frames", [2, 6, 16])
def test_a_placeholder_for_each_merged_patch(processor: Any, clip: str, num_frames: int) -> None:
    images = [picture(0), picture(1, (56, 56))]
    inputs = processor(text=VIDEO + IMAGE * 2, videos=clip, images=images, num_frames=num_frames, return_tensors="pt")
    ids, types = inputs["input_ids"], inputs["mm_token_type_ids"]
    assert (ids == processor.video_token_id).sum() == inputs["video_grid_thw"].prod() // 4 == num_frames // 2 * 6
    assert (ids == processor.image_token_id).sum() == inputs["image_grid_thw"].prod(-1).sum() // 4 == 6 + 4
    assert torch.equal(types == 2, ids == processor.video_token_id)
    assert torch.equal(types == 1, ids == processor.image_token_id)
    assert set(types.unique().tolist()) == {0, 1, 2}


def test_number_of_images_of_each_sample(processor: Any) -> None:
    images = [picture(seed) for seed in range(4)]
    texts = [IMAGE * 3 + "a", "b", IMAGE + "c"]
    for form in (images, [images[:3], [], images[3:]]):
        inputs = processor(text=texts, images=form, padding=True, return_tensors="pt")
        assert inputs["num_images_per_sample"].tolist() == [3, 0, 1]
        assert inputs["num_images_per_sample"].dtype == torch.long
    single = processor(text=IMAGE, images=images[0], return_tensors="pt")
    assert single["num_images_per_sample"].tolist() == [1]


def test_no_number_of_images_without_images(processor: Any, clip: str) -> None:
    assert "num_images_per_sample" not in processor(text=VIDEO, videos=clip, return_tensors="pt")
    assert "num_images_per_sample" not in processor(text="b", return_tensors="pt")
    assert "num_images_per_sample" not in processor(images=picture(0), return_tensors="pt")
    assert "num_images_per_sample" in processor.model_input_names


def test_numpy_tensors_all_through(processor: Any, clip: str) -> None:
    inputs = processor(text=IMAGE + VIDEO, images=picture(0), videos=clip, return_tensors="np")
    assert {name: type(value) for name, value in inputs.items()} == dict.fromkeys(inputs, np.ndarray)


@pytest.mark.parametrize("images", [[], [[]], [[], []]])
def test_empty_list_of_images_is_no_image(processor: Any, images: list) -> None:
    text = ["How many?"] * max(1, len(images))
    inputs = processor(text=text, images=images, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask", "mm_token_type_ids"}


@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "batch_channels_first", "batch_channels_last"])
def test_images_as_arrays(processor: Any, layout: str) -> None:
    pictures = [picture(seed) for seed in range(2)]
    arrays = np.stack([np.array(image) for image in pictures])
    arrays = arrays if layout.endswith("last") else np.moveaxis(arrays, -1, 1).copy()
    images = torch.from_numpy(arrays) if layout.startswith("batch") else list(arrays)
    inputs = processor(text=IMAGE * 2, images=images, return_tensors="pt")
    assert_same(inputs, processor(text=IMAGE * 2, images=pictures, return_tensors="pt"))


@pytest.mark.parametrize("fps", [2, 30])
def test_time_between_frames_does_not_follow_the_clip(processor: Any, tmp_path: Path, fps: int) -> None:
    path = write_clip(tmp_path / "clip.mp4", 8, size=(84, 56), fps=fps)
    inputs = processor(text=VIDEO * 2, videos=[path, [picture(0)] * 2], return_tensors="pt")
    assert inputs["second_per_grid_ts"].tolist() == [1.0, 1.0]
    assert inputs["second_per_grid_ts"].dtype == torch.float32


@pytest.mark.parametrize("seconds", [0.5, 2])
def test_time_between_frames_is_a_setting(
    processor: Any, clip: str, tmp_path: Path, tiny_checkpoint: Path, seconds: float
) -> None:
    called = processor(text=VIDEO, videos=clip, second_per_grid=seconds, return_tensors="pt")
    assert called["second_per_grid_ts"].tolist() == [seconds]
    assert encode(processor, ask({"type": "video", "video": clip}), second_per_grid=seconds)[
        "second_per_grid_ts"
    ].tolist() == [seconds]
    own = AutoProcessor.from_pretrained(tiny_checkpoint)
    own.video_processor.second_per_grid = seconds
    own.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded(text=VIDEO, videos=clip, return_tensors="pt")["second_per_grid_ts"].tolist() == [seconds]
    once = loaded(text=VIDEO, videos=clip, second_per_grid=1.0, return_tensors="pt")
    assert once["second_per_grid_ts"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("placeholders", "videos", "message"),
    [
        (1, 2, "Found 1 .*video_pad.* tokens in the text but 2 videos"),
        (2, 1, "Found 2 .*video_pad.* tokens in the text but 1 videos"),
        (0, 1, "Found 0 .*video_pad.* tokens in the text but 1 videos"),
        (3, 0, "Found 3 .*video_pad.* tokens in the text but no videos"),
    ],
)
@pytest.mark.parametrize("as_frames", [False, True])
def test_placeholders_that_do_not_match_the_videos(
    processor: Any, clip: str, placeholders: int, videos: int, message: str, as_frames: bool
) -> None:
    video = np.zeros((2, 56, 84, 3), np.uint8) if as_frames else clip
    with pytest.raises(ValueError, match=message):
        processor(text=VIDEO * placeholders, videos=[video] * videos if videos else None)


@pytest.mark.parametrize(
    ("placeholders", "images", "message"),
    [
        (1, 2, "Found 1 .*image_pad.* tokens in the text but 2 images"),
        (2, 1, "Found 2 .*image_pad.* tokens in the text but 1 images"),
        (2, 0, "Found 2 .*image_pad.* tokens in the text but no images"),
    ],
)
def test_placeholders_that_do_not_match_the_images(
    processor: Any, placeholders: int, images: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        processor(text=IMAGE * placeholders, images=[picture(0)] * images if images else None)


@pytest.mark.parametrize("size", [(13, 40), (40, 13), (5, 5)])
@pytest.mark.parametrize(
    "as_input", [lambda image: image, lambda image: [[image]], np.array], ids=["image", "nested", "array"]
)
def test_image_below_one_patch(processor: Any, size: tuple[int, int], as_input: Callable[[Any], Any]) -> None:
    width, height = size
    message = f"images: an image of {width}x{height} pixels is smaller than one patch of 14x14"
    with pytest.raises(ValueError, match=message):
        processor(text=IMAGE, images=as_input(picture(0, size)))
    with pytest.raises(ValueError, match=message):
        encode(processor, ask({"type": "image", "image": picture(0, size)}))


def test_image_of_one_patch_does(processor: Any) -> None:
    inputs = processor(text=IMAGE, images=picture(0, (14, 14)), return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 4]]


def test_video_errors_come_through(processor: Any, clip: str) -> None:
    with pytest.raises(ValueError, match="num_frames must be a positive even number"):
        encode(processor, ask({"type": "video", "video": clip}), num_frames=3)
    with pytest.raises(ValueError, match=r"no video file at .*missing\.mp4"):
        encode(processor, ask({"type": "video", "video": "missing.mp4"}))
    with pytest.raises(ValueError, match="videos: cannot make a video of 3"):
        processor(text=VIDEO, videos=[3])


def test_metadata_on_request(processor: Any, clip: str) -> None:
    inputs = encode(processor, mixed_batch(clip), num_frames=4, return_metadata=True)
    (metadata,) = inputs["video_metadata"]
    assert metadata.frames_indices == [0, 6, 13, 19]
    assert metadata.timestamps == pytest.approx([0, 0.6, 1.3, 1.9])
    assert "video_metadata" not in encode(processor, mixed_batch(clip), num_frames=4)


# ---- geometry ----


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> tuple[Any, VGGTModel]:
    """A processor that has read its geometry, and that geometry."""
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    return processor, processor.load_geometry()


@pytest.mark.parametrize("source", ["points", "depth"])
def test_load_geometry_reads_vggt_alone(loaded: tuple[Any, VGGTModel], tiny_checkpoint: Path, source: str) -> None:
    _, geometry = loaded
    whole = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    assert type(geometry) is VGGTModel
    assert not geometry.training
    spatial = whole.model.spatial_encoder.state_dict()
    assert geometry.state_dict().keys() == spatial.keys()
    frames = torch.rand(3, 3, 56, 84, generator=torch.Generator().manual_seed(0))
    expected, found = whole.predict_geometry(frames, source), geometry.predict_geometry(frames, source)
    torch.testing.assert_close(found.points, expected.points, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.confidence, expected.confidence, atol=1e-5, rtol=1e-5)


def test_loaded_geometry_chooses_the_frames(
    processor: Any, loaded: tuple[Any, VGGTModel], tiny_checkpoint: Path, clip: str
) -> None:
    messages = ask({"type": "video", "video": clip})
    options = {"frame_sampling": "space_aware", "num_frames": 4, "return_metadata": True}
    inputs = encode(loaded[0], messages, **options)
    (metadata,) = inputs["video_metadata"]
    assert metadata.frame_sampling == "space_aware"
    assert len(set(metadata.frames_indices)) == 4
    assert 0 < metadata.covered_voxels <= metadata.total_voxels
    assert inputs["video_grid_thw"].tolist() == [[2, 4, 6]]
    bound = AutoProcessor.from_pretrained(tiny_checkpoint)
    bound.bind_geometry(AutoModelForImageTextToText.from_pretrained(tiny_checkpoint))
    assert encode(bound, messages, **options)["video_metadata"] == [metadata]
    with pytest.raises(ValueError, match="needs geometry"):
        encode(processor, messages, **options)


def test_load_geometry_in_another_dtype(tiny_checkpoint: Path, clip: str) -> None:
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    geometry = processor.load_geometry(device="cpu", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in geometry.parameters()} == {torch.bfloat16}
    inputs = processor(text=VIDEO, videos=clip, frame_sampling="space_aware", num_frames=2, return_tensors="pt")
    assert inputs["video_grid_thw"].tolist() == [[1, 4, 6]]


def test_load_geometry_needs_from_pretrained(processor: Any) -> None:
    parts = processor.image_processor, processor.tokenizer, SpatialMLLMVideoProcessor()
    with pytest.raises(ValueError, match=r"load_geometry needs to know the checkpoint: .*from_pretrained"):
        SpatialMLLMProcessor(*parts, chat_template=processor.chat_template).load_geometry()


def test_geometry_stays_behind(loaded: tuple[Any, VGGTModel], tmp_path: Path, clip: str) -> None:
    processor, _ = loaded
    processor.save_pretrained(tmp_path)
    twins = [copy.deepcopy(processor), pickle.loads(pickle.dumps(processor)), AutoProcessor.from_pretrained(tmp_path)]
    assert len(pickle.dumps(processor)) < 100_000
    for twin in twins:
        with pytest.raises(ValueError, match="needs geometry"):
            twin(text=VIDEO, videos=clip, frame_sampling="space_aware")
    assert not list(tmp_path.glob("*.safetensors"))
    geometry = [twin.load_geometry() for twin in twins[:2]]  # copies still know their checkpoint
    assert [type(model) for model in geometry] == [VGGTModel, VGGTModel]


# ---- loading and saving ----


def test_plain_video_processor_becomes_ours(processor: Any) -> None:
    plain = Qwen2VLVideoProcessor(
        size={"shortest_edge": 3136, "longest_edge": 12_845_056}, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    ours = SpatialMLLMProcessor(processor.image_processor, processor.tokenizer, plain).video_processor
    assert type(ours) is SpatialMLLMVideoProcessor
    assert ours.to_dict()["size"] == {"shortest_edge": 100_352, "longest_edge": 602_112}
    assert (list(ours.image_mean), list(ours.image_std)) == ([0.5] * 3, [0.25] * 3)
    assert (ours.num_frames, ours.do_sample_frames) == (16, True)
    kept = SpatialMLLMVideoProcessor(num_frames=4)
    assert SpatialMLLMProcessor(processor.image_processor, processor.tokenizer, kept).video_processor is kept


def test_folder_of_the_public_checkpoints_layout(tiny_checkpoint: Path, tmp_path: Path, clip: str) -> None:
    """A preprocessor_config.json of Qwen2.5-VL, and no word of our classes."""
    shutil.copytree(tiny_checkpoint, tmp_path / "public", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "public" / "processor_config.json").unlink()
    public = {
        "min_pixels": 3136,
        "max_pixels": 12_845_056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    (tmp_path / "public" / "preprocessor_config.json").write_text(json.dumps(public))
    tokenizer_config = tmp_path / "public" / "tokenizer_config.json"
    settings = json.loads(tokenizer_config.read_text())
    tokenizer_config.write_text(json.dumps({**settings, "processor_class": "Qwen2_5_VLProcessor"}))
    processor = SpatialMLLMProcessor.from_pretrained(tmp_path / "public")
    assert type(processor.video_processor) is SpatialMLLMVideoProcessor
    assert processor.video_processor.to_dict()["size"] == {"shortest_edge": 100_352, "longest_edge": 602_112}
    inputs = processor(text=VIDEO, videos=clip, return_tensors="pt")
    assert inputs["second_per_grid_ts"].tolist() == [1.0]
    assert len(inputs["pixel_values_videos"]) * 14 * 14 >= 16 * 100_352 // 2


def without_auto_map(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings but for the names of their classes, which transformers puts onto a processor as it saves it."""
    kept = {name: value for name, value in settings.items() if name != "auto_map"}
    return {name: without_auto_map(value) if isinstance(value, dict) else value for name, value in kept.items()}


def test_round_trip_gives_identical_inputs(processor: Any, tmp_path: Path, clip: str) -> None:
    processor.save_pretrained(tmp_path)
    assert type(AutoVideoProcessor.from_pretrained(tmp_path)) is SpatialMLLMVideoProcessor
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is SpatialMLLMProcessor
    assert without_auto_map(again.to_dict()) == without_auto_map(processor.to_dict())
    assert again.chat_template == processor.chat_template
    assert_same(encode(again, mixed_batch(clip)), encode(processor, mixed_batch(clip)))


def test_options_of_loading_reach_the_video_processor(tiny_checkpoint: Path, clip: str) -> None:
    processor = AutoProcessor.from_pretrained(tiny_checkpoint, num_frames=4, second_per_grid=0.5)
    inputs = processor(text=VIDEO, videos=clip, return_tensors="pt")
    assert inputs["video_grid_thw"].tolist() == [[2, 4, 6]]
    assert inputs["second_per_grid_ts"].tolist() == [0.5]


def test_nested_images_have_to_be_those_of_their_text(processor: SpatialMLLMProcessor) -> None:
    picture = Image.new("RGB", (56, 56))
    text = ["<|image_pad|>", "<|image_pad|>"]
    with pytest.raises(ValueError, match=r"the texts have \[1, 1\] image placeholders, but the samples hold \[2, 0\]"):
        processor(text=text, images=[[picture, picture], []])


def test_scenes_come_in_the_tensors_asked_for_in_nested_options(processor: SpatialMLLMProcessor) -> None:
    picture = Image.new("RGB", (56, 56))
    inputs = processor(text="<|image_pad|>", images=picture, common_kwargs={"return_tensors": "pt"})
    assert torch.equal(inputs["num_images_per_sample"], torch.tensor([1]))


def test_a_public_checkpoints_processor_becomes_ours(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Public folders hold `preprocessor_config.json` and name Qwen2.5-VL's processor, as transformers 4 wrote them."""
    tiny = AutoProcessor.from_pretrained(tiny_checkpoint)
    tiny.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(tiny.chat_template)
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": tiny.video_processor.image_mean,
        "image_std": tiny.video_processor.image_std,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    ours = SpatialMLLMProcessor.from_pretrained(tmp_path)
    assert type(ours.video_processor) is SpatialMLLMVideoProcessor
    assert (ours.video_processor.size.shortest_edge, ours.video_processor.size.longest_edge) == (100352, 602112)
    assert ours.image_processor.size.longest_edge == 12845056


def test_geometry_on_a_device_that_is_not_there(tiny_checkpoint: Path) -> None:
    processor = SpatialMLLMProcessor.from_pretrained(tiny_checkpoint)
    with pytest.raises(ValueError, match="device='nowhere' is not there"):
        processor.load_geometry(device="nowhere")
