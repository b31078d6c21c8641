"""The public formats go in as they are, and public v1.1 names come out."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import rename_source_key

from spatial_mllm_hf import (
    SpatialMLLMConfig,
    SpatialMLLMForConditionalGeneration,
    SpatialMLLMModel,
    VGGTConfig,
    VGGTModel,
)
from spatial_mllm_hf.modeling.key_mapping_spatial_mllm import DROPPED_KEYS

from .conftest import Case

# What the public files of Qwen2.5-VL-3B and of both Spatial-MLLM releases say of their sizes.
PUBLIC_3B = json.loads((Path(__file__).parents[1] / "reference" / "public_3b_config.json").read_text())


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("name", ["v1.1", "v1.0"])
def test_every_weight_of_a_public_checkpoint_is_taken(cases: dict[str, Case], name: str) -> None:
    model, info = cases[name].load(output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert model.config.connector_config.connector_type == {"v1.1": "mlp_add", "v1.0": "merger"}[name]


def test_v1_1_round_trip_keeps_public_names_and_values(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["v1.1"]
    case.load().save_pretrained(tmp_path)
    written, read = weights_of(tmp_path), weights_of(case.folder)
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in read)


def test_v1_0_is_saved_under_v1_1_names_and_reads_back(cases: dict[str, Case], tmp_path: Path) -> None:
    model = cases["v1.0"].load()
    model.save_pretrained(tmp_path)
    prefixes = {name.split(".")[0] for name in weights_of(tmp_path)}
    assert prefixes == {"model", "visual", "spatial_encoder", "connector"}
    assert same_weights(SpatialMLLMForConditionalGeneration.from_pretrained(tmp_path), model)


def test_a_model_made_from_a_config_is_saved_under_public_names_too(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["v1.1"]
    fresh = SpatialMLLMForConditionalGeneration(SpatialMLLMConfig.from_pretrained(case.folder))
    fresh.save_pretrained(tmp_path)
    assert weights_of(tmp_path).keys() == weights_of(case.folder).keys()


def test_backbone_and_generator_read_each_others_checkpoints(cases: dict[str, Case], tmp_path: Path) -> None:
    whole = cases["v1.1"].load()
    backbone = SpatialMLLMModel.from_pretrained(cases["v1.1"].folder)
    assert same_weights(backbone, whole.model)
    backbone.save_pretrained(tmp_path)
    assert same_weights(SpatialMLLMForConditionalGeneration.from_pretrained(tmp_path), whole)


@pytest.mark.parametrize("name", ["v1.1", "v1.0"])
def test_vggt_is_read_out_of_a_whole_checkpoint(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    options = {"config": case.load().config.spatial_config} if name == "v1.0" else {}
    vggt, info = VGGTModel.from_pretrained(case.folder, output_loading_info=True, **options)
    assert same_weights(vggt, case.load().model.spatial_encoder)
    assert not info["unexpected_keys"]


def test_vggt_of_a_v1_0_file_has_vggt_1bs_sizes_and_not_qwens(cases: dict[str, Case]) -> None:
    config = VGGTConfig.from_pretrained(cases["v1.0"].folder)
    assert (config.num_hidden_layers, config.num_attention_heads, config.embed_dim) == (24, 16, 1024)


def test_vggt_is_read_in_the_precision_of_the_whole(cases: dict[str, Case], tmp_path: Path) -> None:
    cases["v1.1"].load().to(torch.bfloat16).save_pretrained(tmp_path)
    assert VGGTModel.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_config_may_be_a_path_of_its_own(cases: dict[str, Case]) -> None:
    folder = cases["v1.1"].folder
    model = SpatialMLLMForConditionalGeneration.from_pretrained(folder, config=str(folder))
    assert same_weights(model, cases["v1.1"].load())


def test_auto_class_reads_v1_1_with_its_geometry(cases: dict[str, Case]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(cases["v1.1"].folder)
    assert type(model) is SpatialMLLMForConditionalGeneration
    assert same_weights(model, cases["v1.1"].load())


@pytest.mark.parametrize("part", ["connector.", "spatial_encoder."])
def test_missing_geometry_is_an_error(cases: dict[str, Case], tmp_path: Path, part: str) -> None:
    case = cases["v1.1"]
    kept = {name: tensor for name, tensor in weights_of(case.folder).items() if not name.startswith(part)}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((case.folder / "config.json").read_text())
    with pytest.raises(
        ValueError, match=r"lacks \d+ weights, such as \S+, of the geometry branch.*allow_missing_spatial=True"
    ):
        SpatialMLLMForConditionalGeneration.from_pretrained(tmp_path)
    model = SpatialMLLMForConditionalGeneration.from_pretrained(tmp_path, allow_missing_spatial=True)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_an_unknown_weight_is_reported_and_the_track_head_is_not(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["v1.1"]
    alien = {"connector.alien": torch.ones(1), "spatial_encoder.vggt_model.track_head.a": torch.ones(1)}
    save_file({**weights_of(case.folder), **alien}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((case.folder / "config.json").read_text())
    _, info = SpatialMLLMForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert info["unexpected_keys"] == {"model.connector.alien"}


@pytest.fixture(scope="module")
def qwen(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Qwen2.5-VL checkpoint of the reference's size."""
    config = json.loads((cases["v1.1"].folder / "config.json").read_text())
    for name in ("spatial_config", "connector_config", "architectures", "model_type"):
        del config[name]
    folder = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config)).save_pretrained(folder)
    return folder


def test_a_merge_starts_from_a_plain_qwen(cases: dict[str, Case], qwen: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a complete Spatial-MLLM checkpoint"):
        SpatialMLLMForConditionalGeneration.from_pretrained(
            qwen, spatial_config=cases["v1.0"].options["spatial_config"]
        )
    model = SpatialMLLMForConditionalGeneration.from_pretrained(
        qwen,
        spatial_config=cases["v1.0"].options["spatial_config"],
        allow_missing_spatial=True,
        spatial_fusion_scale=0.0,
    )
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen)
    assert torch.equal(model.lm_head.weight, plain.lm_head.weight)
    inputs = cases["v1.1"].inputs
    with torch.no_grad():
        types = model.model.token_types(inputs["input_ids"])
        ours, theirs = model(**inputs).logits, plain(**inputs, mm_token_type_ids=types).logits
    kept = cases["v1.1"].kept
    torch.testing.assert_close(ours[kept], theirs[kept])
    model.save_pretrained(tmp_path)
    assert weights_of(tmp_path).keys() == weights_of(cases["v1.1"].folder).keys()


# --- full size, on the meta device ---


@pytest.mark.parametrize(
    ("manifest", "architecture", "may_be_new"),
    [
        ("official_v11", "SpatialMLLMForConditionalGeneration", ()),
        ("official_v10", "Qwen2_5_VL_VGGTForConditionalGeneration", ()),
        ("qwen2_5_vl_3b", "Qwen2_5_VLForConditionalGeneration", ("model.spatial_encoder.", "model.connector.")),
    ],
)
def test_full_size_names_and_shapes(
    reference: Path, manifest: str, architecture: str, may_be_new: tuple[str, ...]
) -> None:
    with torch.device("meta"):
        model = SpatialMLLMForConditionalGeneration(SpatialMLLMConfig(**PUBLIC_3B, architectures=[architecture]))
    ours = model.state_dict()
    renamings = get_model_conversion_mapping(model)
    public = json.loads((reference / "manifests" / f"{manifest}.json").read_text())
    unfilled = set(ours)
    for name, shape in public.items():
        renamed, _ = rename_source_key(name, renamings, [], model.base_model_prefix, ours)
        if renamed not in ours:
            assert any(re.search(pattern, renamed) for pattern in DROPPED_KEYS), f"{name} is neither taken nor dropped"
            continue
        assert list(ours[renamed].shape) == shape, name
        unfilled.discard(renamed)
    unfilled.discard("lm_head.weight")  # tied to the embeddings
    assert [name for name in unfilled if not name.startswith(may_be_new or ("nothing",))] == []
    assert bool(unfilled) == bool(may_be_new)


def test_every_dropped_name_has_a_reason() -> None:
    assert all(len(reason) > 20 for reason in DROPPED_KEYS.values())
