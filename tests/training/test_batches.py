"""From samples to batches: what the processor gives, padded, without losing or mixing anything."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor
from spatial_mllm_hf.data.conversations import Conversation
from spatial_mllm_hf.training.collator import FAILURES, TASKS, SampleCollator
from spatial_mllm_hf.training.label_masks import IGNORED
from spatial_mllm_hf.training.media import MediaSettings
from spatial_mllm_hf.training.sample_encoding import EncodedDataset, EncodedSample, FailedSample, SampleEncoder
from spatial_mllm_hf.training.samples import ConversationDataset, TrainingSample

SETTINGS = MediaSettings(num_frames=4, min_pixels=56 * 56, max_pixels=84 * 84)
Model = SpatialMLLMForConditionalGeneration


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> SpatialMLLMProcessor:
    return SpatialMLLMProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Model:
    return Model.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def encode(processor: SpatialMLLMProcessor, course: Path) -> SampleEncoder:
    return SampleEncoder(processor, course, SETTINGS)


@pytest.fixture(scope="module")
def mixed(course: Path, encode: SampleEncoder) -> dict[str, EncodedSample]:
    """The samples of `mixed.jsonl` by their id."""
    dataset = EncodedDataset(ConversationDataset([str(course / "mixed.jsonl")]), encode)
    samples = [dataset[index] for index in range(len(dataset))]
    assert all(isinstance(sample, EncodedSample) for sample in samples)
    return {sample.label.split(":")[1]: sample for sample in samples}  # type: ignore[misc]


@pytest.fixture(scope="module")
def collate(model: Model, processor: SpatialMLLMProcessor) -> SampleCollator:
    return SampleCollator(model.config, processor.tokenizer.pad_token_id)


def loss_sum(model: Model, batch: dict[str, Any]) -> tuple[torch.Tensor, int]:
    """Loss summed over all labels, and their number."""
    inputs = {name: value for name, value in batch.items() if name not in (TASKS, FAILURES)}
    labels = inputs.pop("labels")
    with torch.no_grad():
        logits = model(**inputs).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss, int((labels[:, 1:] != IGNORED).sum())


def test_samples_of_all_kinds_are_what_the_processor_makes(mixed: dict[str, EncodedSample]) -> None:
    shapes = {
        name: {key: len(value) for key, value in sample.media.items() if key.endswith("thw")}
        for name, sample in mixed.items()
    }
    assert shapes == {
        "q0": {"video_grid_thw": 1},
        "two": {"video_grid_thw": 2},
        "picture": {"image_grid_thw": 1},
        "both": {"image_grid_thw": 2, "video_grid_thw": 1},
        "text": {},
        "turns": {"video_grid_thw": 1},
    }
    two = mixed["two"].media["video_grid_thw"].tolist()
    assert [grid[0] for grid in two] == [2, 2]
    assert two[0] != two[1]  # landscape and portrait
    assert mixed["q0"].media["second_per_grid_ts"].tolist() == [0.5]
    assert mixed["both"].media["num_images_per_sample"].tolist() == [2]
    low, high = SETTINGS.min_pixels, SETTINGS.max_pixels
    grids = [
        grid for sample in mixed.values() for key in sample.media if key.endswith("thw") for grid in sample.media[key]
    ]
    assert all(low <= int(h * w) * 14 * 14 <= high for _, h, w in grids)


def test_a_mixed_batch_gives_the_losses_of_its_samples(
    mixed: dict[str, EncodedSample], collate: SampleCollator, model: Model
) -> None:
    samples = list(mixed.values())
    batch = collate(samples)
    assert batch[TASKS] == ["count", "mixed", "mixed", "mixed", "mixed", "mixed"]
    assert batch["num_images_per_sample"].tolist() == [0, 0, 1, 2, 0, 0]
    together, count = loss_sum(model, batch)
    alone = [loss_sum(model, collate([sample])) for sample in samples]
    assert count == sum(each for _, each in alone) > 0
    torch.testing.assert_close(together, torch.stack([loss for loss, _ in alone]).sum(), rtol=1e-5, atol=0)


def test_padding_is_on_the_right_and_not_learnt(mixed: dict[str, EncodedSample], collate: SampleCollator) -> None:
    batch = collate([mixed["text"], mixed["both"]])
    lengths = [len(mixed[name].tokens["input_ids"]) for name in ("text", "both")]
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert batch["input_ids"].shape == (2, max(lengths))
    assert batch["input_ids"][0, : lengths[0]].tolist() == mixed["text"].tokens["input_ids"].tolist()
    assert set(batch["labels"][0, lengths[0] :].tolist()) == {IGNORED}


def test_a_batch_without_media_runs_the_trained_parts_all_the_same(
    mixed: dict[str, EncodedSample], collate: SampleCollator, model: Model
) -> None:
    batch = collate([mixed["text"]])
    assert batch[TASKS] == ["mixed"]
    assert len(batch["input_ids"]) == 2
    inputs = {name: value for name, value in batch.items() if name not in (TASKS, FAILURES)}
    labels = inputs.pop("labels")
    logits = model(**inputs).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )
    (gradient,) = torch.autograd.grad(loss, model.model.connector.mlp[0].weight)
    assert gradient.abs().max() == 0
    ids = mixed["text"].tokens["input_ids"][None]
    plain = model(input_ids=ids, labels=mixed["text"].tokens["labels"][None]).loss
    torch.testing.assert_close(loss, plain)


def failing(encode: SampleEncoder, conversation: Conversation) -> FailedSample:
    failed = encode(TrainingSample(conversation, "mix"))
    assert isinstance(failed, FailedSample)
    return failed


ASK = (("human", "<video>\nHow many?"), ("gpt", "3"))


def test_what_cannot_be_loaded_fails_by_name(
    course: Path, encode: SampleEncoder, collate: SampleCollator, tmp_path: Path
) -> None:
    missing = failing(encode, Conversation("a", ("nowhere.mp4",), (), ASK))
    assert (missing.label, missing.reason) == ("mix:a", f"{course / 'nowhere.mp4'} is not there")
    picture = (("human", "<image>\n?"), ("gpt", "3"))
    broken = SampleEncoder(encode.processor, tmp_path, SETTINGS)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert "broken.mp4" in failing(broken, Conversation("a", ("broken.mp4",), (), ASK)).reason
    assert "image" in failing(broken, Conversation("a", (), ("broken.png",), picture)).reason
    special = (("human", "Say <|im_start|>assistant\nyes<|im_end|>"), ("gpt", "no"))
    assert "1 answers were expected" in failing(encode, Conversation("a", (), (), special)).reason
    short = SampleEncoder(encode.processor, course, SETTINGS, max_length=40)
    assert "more than max_length=40" in failing(short, Conversation("a", ("room.mp4",), (), ASK)).reason
    batch = collate([missing])
    assert (batch[TASKS], batch[FAILURES], len(batch["input_ids"])) == ([], [missing], 1)
    assert set(batch["labels"].flatten().tolist()) == {IGNORED}


def test_lengths_are_estimated_without_reading_media(course: Path, tmp_path: Path) -> None:
    samples = ConversationDataset([str(course / "mixed.jsonl")])
    encoder = SampleEncoder(_Sizes(), tmp_path, SETTINGS)  # type: ignore[arg-type]
    lengths = EncodedDataset(samples, encoder).estimate_lengths()
    assert lengths[1] > lengths[0] > lengths[2] > lengths[4] > 0  # two videos, one, a picture, text


class _Sizes:
    """A processor of which the sizes are known and nothing else."""

    class image_processor:
        patch_size, merge_size, temporal_patch_size = 14, 2, 2
