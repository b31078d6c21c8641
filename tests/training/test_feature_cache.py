"""The feature cache: equal losses, equal tokens, nothing stale, nothing damaged."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor
from spatial_mllm_hf.training import sft
from spatial_mllm_hf.training.cached_encoders import (
    attach_cached_features,
    digest_encoders,
    encode_media,
    fuse_cached,
    window_order,
)
from spatial_mllm_hf.training.collator import SampleCollator
from spatial_mllm_hf.training.feature_cache import CachedFeatures, FeatureCache
from spatial_mllm_hf.training.media import MediaSettings
from spatial_mllm_hf.training.sample_encoding import EncodedSample, FailedSample, SampleEncoder
from spatial_mllm_hf.training.samples import ConversationDataset
from spatial_mllm_hf.training.sft import fill_feature_cache, make_trainer
from spatial_mllm_hf.training.sft_recipe import SFTRecipe

from .conftest import Values

MakeRecipe = Callable[..., SFTRecipe]
SETTINGS = MediaSettings(num_frames=4, min_pixels=56 * 56, max_pixels=140 * 140)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> SpatialMLLMForConditionalGeneration:
    return SpatialMLLMForConditionalGeneration.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> SpatialMLLMProcessor:
    return SpatialMLLMProcessor.from_pretrained(tiny_checkpoint)


def train_with(recipe: SFTRecipe) -> Any:
    trainer = make_trainer(recipe)
    if trainer.train_dataset.encode.cache is not None:
        fill_feature_cache(trainer, trainer.train_dataset.encode)
    trainer.train()
    return trainer


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# --- the same training ---


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cached_parts": ["vggt"]},
        {"cached_parts": ["vggt"], "trained_parts": {"vision_tower": 1e-3, "vision_merger": 1e-3, "connector": 1e-3}},
        {"bf16": True},
        {"lora_rank": 4},
    ],
    ids=["both", "vggt", "tower trained", "bfloat16", "adapters"],
)
def test_losses_are_those_without_a_cache(
    make_recipe: MakeRecipe, course: Path, tmp_path: Path, changes: Values
) -> None:
    """Over videos, pictures, several of each, and text."""
    changes = {"sources": [str(course / "mixed.jsonl")], "max_steps": 4, "per_device_train_batch_size": 2, **changes}
    cached_parts = changes.pop("cached_parts", ["vggt", "vision_tower"])
    plain = train_with(make_recipe(**changes))
    cached = train_with(make_recipe(**changes, feature_cache=str(tmp_path / "cache"), cached_parts=cached_parts))
    assert len(losses(plain)) == 4
    if plain.args.bf16:  # a clip is encoded alone for the cache, in a batch otherwise, which rounds otherwise
        assert losses(cached) == pytest.approx(losses(plain), abs=1e-2)
        return
    assert losses(cached) == pytest.approx(losses(plain), abs=1e-5)
    for (name, weight), (_, other) in zip(plain.model.named_parameters(), cached.model.named_parameters(), strict=True):
        torch.testing.assert_close(weight, other, atol=2e-4, rtol=1e-3, msg=name)


def test_the_frozen_encoders_do_not_run(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(max_steps=2, feature_cache=str(tmp_path / "cache"))
    trainer = make_trainer(recipe)
    assert fill_feature_cache(trainer, trainer.train_dataset.encode) == 1  # eight questions on one clip
    assert fill_feature_cache(trainer, trainer.train_dataset.encode) == 0
    ran = []
    trainer.model.model.spatial_encoder.aggregator.register_forward_hook(lambda *_: ran.append("vggt"))
    trainer.model.model.visual.blocks[0].register_forward_hook(lambda *_: ran.append("vision tower"))
    trainer.train()
    assert ran == []


def test_tokens_and_grids_are_the_processors(course: Path, tmp_path: Path, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(sources=[str(course / "mixed.jsonl")], feature_cache=str(tmp_path / "cache"))
    trainer = make_trainer(recipe)
    with_cache = trainer.train_dataset.encode
    fill_feature_cache(trainer, with_cache)
    without = SampleEncoder(with_cache.processor, with_cache.folder, with_cache.settings)
    samples = ConversationDataset([str(course / "mixed.jsonl")])
    for index in range(len(samples)):
        cached, plain = with_cache(samples[index]), without(samples[index])
        assert isinstance(cached, EncodedSample)
        assert isinstance(plain, EncodedSample)
        assert cached.tokens.keys() == plain.tokens.keys()
        for name, expected in plain.tokens.items():
            assert cached.tokens[name].tolist() == expected.tolist(), name
        names = {name for name in plain.media if not name.startswith("pixel_values")}
        assert {name for name in cached.media if not name.startswith("cached")} == names
        for name in names:
            assert cached.media[name].tolist() == plain.media[name].tolist(), name


@pytest.mark.parametrize(("kind", "paths"), [("video", ["hall.mp4"]), ("image", ["first.png", "last.png"])])
def test_cached_features_fuse_to_what_the_model_gives(
    model: SpatialMLLMForConditionalGeneration,
    processor: SpatialMLLMProcessor,
    course: Path,
    kind: str,
    paths: list[str],
) -> None:
    files = [str(course / path) for path in paths]
    features = encode_media(model.model, processor, SETTINGS, kind, files, True)  # type: ignore[arg-type]
    content = [{"type": kind, kind: path} for path in files]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=SETTINGS.processor_kwargs(),
    )
    with torch.no_grad():
        fused = fuse_cached(model.model, features.grid_thw, features.geometry, features.vision, None)
        if kind == "video":
            expected = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
        else:
            scenes = inputs["num_images_per_sample"]
            expected = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], scenes)
    assert len(fused) == len(paths)
    for found, wanted in zip(fused, expected.pooler_output, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_windows_are_walked_as_the_vision_tower_does() -> None:
    """A grid of 2 x 3 merged patches in windows of 2 x 2, then another clip."""
    order = window_order(torch.tensor([[1, 4, 6], [1, 2, 2]]), merge_size=2, window=4)
    assert order.tolist() == [0, 1, 3, 4, 2, 5, 6]


def test_without_fusion_geometry_is_left_out(
    model: SpatialMLLMForConditionalGeneration, processor: SpatialMLLMProcessor, course: Path
) -> None:
    features = encode_media(model.model, processor, SETTINGS, "video", [str(course / "hall.mp4")], True)
    model.config.spatial_fusion_scale = 0
    try:
        with torch.no_grad():
            (plain,) = fuse_cached(model.model, features.grid_thw, features.geometry, features.vision, None)
            (other,) = fuse_cached(model.model, features.grid_thw, features.geometry + 1, features.vision, None)
    finally:
        model.config.spatial_fusion_scale = 1.0
    assert torch.equal(plain, other)


def test_the_hook_comes_off(model: SpatialMLLMForConditionalGeneration, processor: SpatialMLLMProcessor) -> None:
    placeholder = SampleCollator(model.config, processor.tokenizer.pad_token_id, ("vggt", "vision_tower"))([])
    inputs = {name: placeholder[name] for name in placeholder if isinstance(placeholder[name], torch.Tensor)}
    labels = inputs.pop("labels")
    inputs["cached_video_geometry"] = inputs["cached_video_geometry"] + 1
    handle = attach_cached_features(model.model)
    with torch.no_grad():
        first = model(**inputs).logits
        inputs["cached_video_geometry"] = inputs["cached_video_geometry"] * torch.arange(1, 5)[:, None].repeat(2, 1)
        second = model(**inputs).logits
        handle.remove()
        without = model(**inputs).logits
    assert first.shape[:2] == labels.shape
    assert not torch.allclose(first, second)
    assert not torch.allclose(without, first)
    assert not torch.allclose(without, second)


# --- what a file depends on ---


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path, {"weights": "a"}, has_vision_tower=True)


def some_features() -> CachedFeatures:
    return CachedFeatures(torch.tensor([[1, 2, 2]]), torch.rand(8, 6), torch.rand(4, 3))


def test_features_come_back_as_they_were(cache: FeatureCache, course: Path) -> None:
    paths, features = [str(course / "hall.mp4")], some_features()
    assert cache.find("video", paths) is None
    cache.write("video", paths, features)
    for reader in (cache, pickle.loads(pickle.dumps(cache))):
        found = reader.find("video", paths)
        assert found is not None
        assert found.vision is not None
        assert torch.equal(found.geometry, features.geometry)
        assert torch.equal(found.vision, features.vision)
        assert found.grid_thw.tolist() == [[1, 2, 2]]
    assert not list(cache.folder.glob("*.part"))


def test_a_file_is_known_by_content_not_by_name(cache: FeatureCache, course: Path, tmp_path: Path) -> None:
    first, second = course / "first.png", course / "last.png"
    copy = tmp_path / "other_name.png"
    shutil.copy(first, copy)
    assert cache.path_of("image", [str(copy)]) == cache.path_of("image", [str(first)])
    assert cache.path_of("image", [str(first)]) != cache.path_of("image", [str(second)])
    assert cache.path_of("image", [str(first), str(second)]) != cache.path_of("image", [str(second), str(first)])
    assert cache.path_of("image", [str(first)]) != cache.path_of("video", [str(first)])
    before = cache.path_of("image", [str(copy)])
    copy.write_bytes(second.read_bytes())
    assert cache.path_of("image", [str(copy)]) != before


def test_another_encoder_or_choice_of_frames_has_a_folder_of_its_own(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    def folder(**changes: Any) -> Path:
        cache = make_trainer(make_recipe(feature_cache=str(tmp_path / "cache"), **changes)).train_dataset.encode.cache
        assert cache is not None
        return cache.folder

    first = folder()
    assert folder(trained_parts={"connector": 1e-3}, second_per_grid=1.0) == first
    others = [folder(num_frames=2), folder(max_pixels=56 * 56), folder(bf16=True), folder(cached_parts=["vggt"])]
    assert len({first, *others}) == 5


def test_digests_follow_the_frozen_weights_and_no_others(tiny_checkpoint: Path) -> None:
    model = SpatialMLLMForConditionalGeneration.from_pretrained(tiny_checkpoint).model
    first = digest_encoders(model, True)
    with torch.no_grad():
        model.visual.merger.mlp[0].weight += 1
        model.connector.mlp[0].weight += 1
        assert digest_encoders(model, True) == first
        model.visual.blocks[0].mlp.up_proj.weight[0, 0] += 1
        assert digest_encoders(model, True)["vision_tower"] != first["vision_tower"]
        assert digest_encoders(model, False) == {"vggt": first["vggt"]}
        model.spatial_encoder.aggregator.camera_token[0, 0, 0, 0] += 1
    assert digest_encoders(model, True)["vggt"] != first["vggt"]


# --- what may go wrong ---


def test_damaged_and_missing_files_fail_their_samples(make_recipe: MakeRecipe, course: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_recipe(feature_cache=str(tmp_path / "cache")))
    encode, samples = trainer.train_dataset.encode, trainer.train_dataset.samples
    failed = encode(samples[0])
    assert isinstance(failed, FailedSample)
    assert "its media are not in the feature cache" in failed.reason
    fill_feature_cache(trainer, encode)
    assert isinstance(encode(samples[0]), EncodedSample)
    assert encode.cache is not None
    path = encode.cache.path_of("video", [str(course / "room.mp4")])
    path.write_bytes(path.read_bytes()[:-100])
    failed = encode(samples[0])
    assert isinstance(failed, FailedSample)
    assert "is damaged" in failed.reason
    assert "delete it" in failed.reason


def test_processes_without_whole_encoders_cannot_fill_a_cache(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(feature_cache=str(tmp_path / "cache"))
    with monkeypatch.context() as patched:
        patched.setattr(sft, "is_deepspeed_zero3_enabled", lambda: True)
        with pytest.raises(ValueError, match="under DeepSpeed ZeRO-3 no process holds a whole encoder"):
            make_trainer(recipe)
    monkeypatch.setattr(sft, "is_fsdp_enabled", lambda: True)
    with pytest.raises(ValueError, match="only the first process reads the weights"):
        make_trainer(recipe)
