"""The start of the model that learns rooms: phrases as tokens, a checkpoint around a trained VGGT, its size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from minute_vggt import MINUTE
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor, VGGTModel
from spatial_mllm_hf.data.conversations import IMAGE_TAG, Conversation
from spatial_mllm_hf.data.question_generation import GENERATED_TYPES, GenerationSettings, generate_questions
from spatial_mllm_hf.data.question_templates import Wording
from spatial_mllm_hf.data.reasoned_answers import ReasonedAnswers
from spatial_mllm_hf.data.reasoned_rooms import reasoned_frames
from spatial_mllm_hf.data.scene_answers import SceneAnswers
from spatial_mllm_hf.data.synthetic_data_set import write_rooms
from spatial_mllm_hf.data.synthetic_scenes import SceneSettings, SyntheticScene, make_scene
from spatial_mllm_hf.data.training_prompts import grpo_prompt, question_with_options, sft_prompt
from spatial_mllm_hf.hub.tiny_checkpoint import SPECIAL_TOKENS, byte_tokenizer
from spatial_mllm_hf.training.geometry import new_vggt
from spatial_mllm_hf.training.recipes import read_recipe
from spatial_mllm_hf.training.tiny_rooms import MOST_NEW_TOKENS, phrase_tokenizer, phrases, room_processor, write_start

WIDTH, HEIGHT = 84, 56
MESSAGES = [
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "\nHow many chair(s) are in this room?"}]}
]


# ---------- phrases
@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return phrase_tokenizer()


@pytest.fixture(scope="module")
def scene() -> SyntheticScene:
    return make_scene(3, SceneSettings(24, (40, 30), compass=True))


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """What each token says."""
    return [tokenizer.decode([token]) for token in tokenizer.encode(text, add_special_tokens=False)]


def test_each_phrase_is_there_once_and_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    found = phrases()
    assert len(set(found)) == len(found) > 300
    assert min(map(len, found)) > 1
    assert not set(found) & set(SPECIAL_TOKENS)
    assert [pieces(tokenizer, phrase) for phrase in found] == [[phrase] for phrase in found]
    assert len(tokenizer) == len(byte_tokenizer()) + len(found)


@pytest.mark.parametrize(
    "text",
    [
        "Wie viele Stühle, 椅子 🪑 … are\tin this\r\n\r\nroom?",
        "bedroom stools beds  -0.5.5 15°° 20.1 -10.1 90° , , . and to  left-front <answer><answer </think>\n\n<answer>",
        "x" * 300,
        " " * 9,
        "",
    ],
)
def test_any_text_is_read_back(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_any_bytes_are_read_back(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = np.random.default_rng(0)
    alphabet = [chr(code) for code in (*range(1, 0x250), *range(0x4E00, 0x4E40), 0x1F6CB)] + phrases()
    for _ in range(200):
        text = "".join(rng.choice(alphabet, 12).tolist())
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_word_that_is_no_phrase_is_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer, "wok") == ["w", "o", "k"]
    assert len(tokenizer.encode("椅子", add_special_tokens=False)) == len("椅子".encode())


@pytest.mark.parametrize("wording", ["vsibench", "vlm3r"])
def test_questions_prompts_and_thoughts_of_a_room_are_made_of_phrases(
    wording: Wording, tokenizer: PreTrainedTokenizerFast, scene: SyntheticScene
) -> None:
    known = {*phrases(), "\n", "?", ".", *"0123456789", *"ABCD"}
    reasoned = ReasonedAnswers(SceneAnswers(scene.annotation), scene.extrinsics[0])
    questions = generate_questions(scene.annotation, 0, GenerationSettings(wording=wording))
    assert {question.question_type for question in questions} == set(GENERATED_TYPES)
    for question in questions:
        text, kind = question_with_options(question), "number" if question.is_numerical else "multiple_choice"
        for said in (grpo_prompt(text, kind), sft_prompt(text, kind), reasoned.answer(question, with_map=True)):
            found = pieces(tokenizer, said)
            assert "".join(found) == said
            assert set(found) <= known, set(found) - known
            letters_alone = sum(piece in set("ABCD") for piece in found)
            assert letters_alone <= 1  # of the answer; those of options are phrases


def test_questions_are_short(tokenizer: PreTrainedTokenizerFast, scene: SyntheticScene) -> None:
    longest: dict[str, int] = {}
    for question in generate_questions(scene.annotation, 0, GenerationSettings(wording="vsibench")):
        prompt = grpo_prompt(question_with_options(question), "number" if question.is_numerical else "multiple_choice")
        length = len(tokenizer.encode(prompt, add_special_tokens=False))
        assert len(prompt.encode()) > 500
        longest[question.question_type] = max(length, longest.get(question.question_type, 0))
    assert longest["object_rel_direction_easy"] < 25
    assert longest["object_rel_direction_hard"] < 30
    assert longest["object_counting"] < 10
    assert max(longest.values()) < 70  # the order of appearance, which names each of four categories five times


def test_an_answer_by_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    thoughts = "chair 0.5 -1.0 and 1.5 2.0; trash bin -3.5 0.0. tv 15°, bed 90°, turn 75°, left"
    assert pieces(tokenizer, f"<think>{thoughts}</think>\n<answer>A</answer>") == [
        *("<think>", "chair", " 0.5", " -1.0", " and", " 1.5", " 2.0", "; ", "trash bin", " -3.5", " 0.0", ". "),
        *("tv", " 15°", ", ", "bed", " 90°", ", turn", " 75°", ", ", "left"),
        *("</think>\n<answer>", "A", "</answer>"),
    ]


def test_places_distances_and_times_of_rooms_are_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    places, distances, times = np.arange(-9, 9.1, 0.5), np.arange(0, 13, 0.1), np.arange(0, 20.1, 0.5)
    for number in (*places, *distances, *times):  # rooms end at 9 m, walks at 20 s
        text = f" {number + 0.0:.1f}".replace("-0.0", "0.0")
        assert pieces(tokenizer, text) == [text]


def test_a_conversation_by_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    text = room_processor().apply_chat_template(MESSAGES, add_generation_prompt=True)
    assert pieces(tokenizer, text) == [
        *("<|im_start|>", "system\nYou are a helpful assistant.", "<|im_end|>", "\n", "<|im_start|>", "user\n"),
        *("<|vision_start|>", "<|video_pad|>", "<|vision_end|>", "\n", "How many ", "chair", "(s) are in this room?"),
        *("<|im_end|>", "\n", "<|im_start|>", "assistant\n"),
    ]


# ---------- the checkpoint
@pytest.fixture(scope="module")
def vggt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VGGT as training leaves it, but untrained. Read only."""
    folder = tmp_path_factory.mktemp("geometry") / "vggt"
    torch.manual_seed(1)
    new_vggt({**MINUTE, "img_size": WIDTH}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def start(vggt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return write_start(tmp_path_factory.mktemp("starts") / "start", vggt)


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    """Names of weights that are equal."""
    assert one.keys() == other.keys()
    return {name for name in one if torch.equal(one[name], other[name])}


def inputs_of(processor: Any, frames: np.ndarray) -> dict[str, Any]:
    text = processor.apply_chat_template(MESSAGES, add_generation_prompt=True)
    return processor(text=text, videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)], return_tensors="pt")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Eight frames of a walk."""
    return make_scene(1, SceneSettings(8, (WIDTH, HEIGHT), compass=True)).frames.rgb


def test_the_checkpoint_loads_with_vggts_weights_bit_for_bit(vggt: Path, start: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(start)
    assert type(model) is SpatialMLLMForConditionalGeneration
    trained, kept = VGGTModel.from_pretrained(vggt).state_dict(), model.model.spatial_encoder.state_dict()
    assert same_bits(trained, kept) == set(trained)
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert model.config.spatial_config.embed_dim == MINUTE["embed_dim"]
    assert model.config.spatial_fusion_scale == 1
    assert model.generation_config.max_new_tokens == MOST_NEW_TOKENS
    assert model.generation_config.do_sample is False
    processor = AutoProcessor.from_pretrained(start)
    assert type(processor) is SpatialMLLMProcessor
    text = "A. trash bin\nB. 椅子 -3.5 </think>\n<answer>"
    assert processor.tokenizer.encode(text) == phrase_tokenizer().encode(text)
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for name in ("image_pad", "video_pad", "vision_start", "vision_end"):
        token = getattr(model.config, f"{name.removesuffix('_pad')}_token_id")
        assert processor.tokenizer.convert_ids_to_tokens(token) == f"<|{name}|>"


def test_the_seed_decides_all_weights_but_vggts(vggt: Path, start: Path, tmp_path: Path) -> None:
    first, again, other = (
        load_file(folder / "model.safetensors")
        for folder in (start, write_start(tmp_path / "again", vggt, 0), write_start(tmp_path / "other", vggt, 1))
    )
    assert same_bits(first, again) == set(first)
    of_vggt = {name for name in first if ".spatial_encoder." in name or name.startswith("spatial_encoder.")}
    assert len(of_vggt) > 100
    same = same_bits(first, other)
    assert of_vggt <= same
    drawn = {name for name in set(first) - of_vggt if first[name].std() > 0}  # not biases and norms, which begin alike
    assert len(drawn) > 30
    assert not drawn & same


def test_writing_leaves_torchs_generator_alone(vggt: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    write_start(tmp_path / "start", vggt, 7)
    assert torch.equal(torch.rand(3), expected)


def test_the_twin_without_geometry_differs_in_its_use_alone(
    vggt: Path, start: Path, clip: np.ndarray, tmp_path: Path
) -> None:
    twin = write_start(tmp_path / "twin", vggt, without_geometry=True)
    weights = load_file(start / "model.safetensors")
    assert same_bits(weights, load_file(twin / "model.safetensors")) == set(weights)
    inputs = inputs_of(SpatialMLLMProcessor.from_pretrained(start), clip)
    logits = []
    for folder in (start, twin):
        model = SpatialMLLMForConditionalGeneration.from_pretrained(folder).eval()
        before = model(**inputs).logits
        with torch.no_grad():
            for weight in model.model.spatial_encoder.aggregator.parameters():
                weight.mul_(1.5)
        logits.append((before, model(**inputs).logits))
    assert not torch.equal(*logits[0])
    assert torch.equal(*logits[1])


def test_no_file_says_where_vggt_lay(vggt: Path, start: Path, tmp_path: Path) -> None:
    SpatialMLLMForConditionalGeneration.from_pretrained(start).save_pretrained(tmp_path)  # as training does later
    for folder in (start, tmp_path):
        for path in folder.iterdir():
            if path.suffix != ".safetensors":
                assert str(vggt.parent) not in path.read_text(encoding="utf-8"), path.name


def test_the_recipes_model_is_small(tmp_path: Path) -> None:
    new_vggt(read_recipe("tiny_geometry")["vggt"]).save_pretrained(tmp_path / "vggt")
    model = SpatialMLLMForConditionalGeneration.from_pretrained(write_start(tmp_path / "start", tmp_path / "vggt"))
    assert sum(weight.numel() for weight in model.parameters()) <= 10_000_000
    model.to(torch.bfloat16).save_pretrained(tmp_path / "small")
    room_processor().save_pretrained(tmp_path / "small")
    assert sum(path.stat().st_size for path in (tmp_path / "small").iterdir()) <= 15_000_000


# ---------- the processor
def test_a_clip_gives_6_by_4_patches_for_each_frame_that_are_not_merged(start: Path, clip: np.ndarray) -> None:
    processor = SpatialMLLMProcessor.from_pretrained(start)
    inputs = inputs_of(processor, clip)
    assert inputs["video_grid_thw"].tolist() == [[8, 4, 6]]
    assert (inputs["input_ids"] == processor.video_token_id).sum() == 8 * 4 * 6
    assert inputs["pixel_values_videos"].shape == (8 * 4 * 6, 3 * 14 * 14)
    for recipe in ("tiny_walks", "tiny_sft", "tiny_grpo"):
        assert inputs["second_per_grid_ts"].tolist() == [read_recipe(recipe)["second_per_grid"]]


def test_a_picture_is_a_walk_of_one_frame_to_the_encoders(start: Path, clip: np.ndarray) -> None:
    """What is learnt on single frames holds for the frames of walks, without a change of weights."""
    processor = SpatialMLLMProcessor.from_pretrained(start)
    model = SpatialMLLMForConditionalGeneration.from_pretrained(start).eval().model
    picture = processor.image_processor(Image.fromarray(clip[0]), return_tensors="pt")
    walk = inputs_of(processor, clip)
    patches = picture["pixel_values"]
    torch.testing.assert_close(walk["pixel_values_videos"][: len(patches)], patches)
    with torch.no_grad():
        as_picture = model.get_image_features(patches, picture["image_grid_thw"]).pooler_output[0]
        as_walk = model.get_video_features(patches, picture["image_grid_thw"]).pooler_output[0]
    assert as_picture.shape == (4 * 6, model.config.text_config.hidden_size)
    torch.testing.assert_close(as_picture, as_walk)


@pytest.mark.parametrize(("size", "grid"), [((168, 112), [8, 4, 6]), ((56, 84), [8, 6, 4]), ((640, 480), [8, 4, 5])])
def test_other_clips_are_made_as_small(size: tuple[int, int], grid: list[int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (8, size[1], size[0], 3), dtype=np.uint8)
    assert inputs_of(room_processor(), frames)["video_grid_thw"].tolist() == [grid]


def test_the_start_answers_something(start: Path, clip: np.ndarray) -> None:
    processor = SpatialMLLMProcessor.from_pretrained(start)
    model = SpatialMLLMForConditionalGeneration.from_pretrained(start).eval()
    inputs = inputs_of(processor, clip)
    said = model.generate(**inputs, max_new_tokens=4)
    assert said.shape == (1, inputs["input_ids"].shape[1] + 4)
    assert torch.equal(said, model.generate(**inputs, max_new_tokens=4))


def test_samples_of_frames_fit_the_length_that_the_recipe_allows(tmp_path: Path) -> None:
    write_rooms(tmp_path / "rooms", 3, SceneSettings(12, (40, 30), compass=True, seen_share=2e-3), geometry=True)
    tokenizer, most = phrase_tokenizer(), read_recipe("tiny_frames")["max_length"]
    samples = list(reasoned_frames(tmp_path / "rooms", tmp_path / "frames", 2, 2))
    assert samples
    for sample in samples:
        assert length_of(sample, tokenizer) < 500 < most


def length_of(sample: Conversation, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens of all turns, with those of a frame."""
    texts = [text.removeprefix(f"{IMAGE_TAG}\n") for _, text in sample.turns]
    return 4 * 6 + sum(len(tokenizer.encode(text, add_special_tokens=False)) + 4 for text in texts)


# ---------- errors
def test_a_folder_that_holds_something_is_left_as_it_is(vggt: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ValueError, match=r"exists and is not an empty folder; name a new one\."):
            write_start(taken, vggt)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_without_a_vggt_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "nothing", tmp_path / "empty"):
        with pytest.raises(OSError, match=str(nothing)):
            write_start(tmp_path / "start", nothing)
    assert not (tmp_path / "start").exists()
