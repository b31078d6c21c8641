"""Names of weights: there and back in each format, and as transformers renames them."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from checkpoint_files import weights_of
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import rename_source_key

from spatial_mllm_hf import SpatialMLLMConfig, SpatialMLLMForConditionalGeneration, VGGTModel
from spatial_mllm_hf.conversion.key_tables import (
    PREFIXES,
    Format,
    detect_format,
    from_module_name,
    part_of,
    to_module_name,
)

FORMAT_OF: dict[str, Format] = {
    "official_v11": "v1.1",
    "official_v10": "v1.0",
    "vggt_1b": "vggt",
    "qwen2_5_vl_3b": "qwen2.5-vl",
}
TINY: dict[str, Format] = {"official_v11_tiny": "v1.1", "official_v10_tiny": "v1.0", "vggt_tiny": "vggt"}


def manifest(reference: Path, name: str) -> dict[str, list[int]]:
    return json.loads((reference / "manifests" / f"{name}.json").read_text())


@cache
def tiny_model(folder: Path) -> SpatialMLLMForConditionalGeneration:
    """On the meta device: its names are what is asked for. Depth makes no difference to them but for numbers."""
    spatial = folder / "spatial_config.json"
    options = {"spatial_config": json.loads(spatial.read_text())} if spatial.exists() else {}
    with torch.device("meta"):
        return SpatialMLLMForConditionalGeneration(SpatialMLLMConfig.from_pretrained(folder, **options))


@pytest.mark.parametrize("name", FORMAT_OF)
def test_names_go_to_ours_and_back(reference: Path, name: str) -> None:
    layout, names = FORMAT_OF[name], manifest(reference, name)
    ours = [to_module_name(public, layout) for public in names]
    assert [from_module_name(module, layout) for module in ours] == list(names)
    assert len(set(ours)) == len(names)
    assert {part_of(module) for module in ours} <= {"vision", "spatial", "connector", "language", "head"}
    assert [to_module_name(module, "transformers") for module in ours] == ours


@pytest.mark.parametrize(("folder", "layout"), [("official_v11_tiny", "v1.1"), ("official_v10_tiny", "v1.0")])
def test_our_models_names_go_to_a_public_format_and_back(reference: Path, folder: str, layout: Format) -> None:
    ours = list(tiny_model(reference / folder).state_dict())
    public = [from_module_name(name, layout) for name in ours]
    assert [to_module_name(name, layout) for name in public] == ours
    assert set(public) - {"lm_head.weight"} == set(weights_of(reference / folder))  # tied, so not in the file


@pytest.mark.parametrize("name", ["official_v11", "official_v10", "qwen2_5_vl_3b"])
def test_transformers_renames_the_same_way_at_loading(reference: Path, name: str) -> None:
    """`from_pretrained` has its own table (`modeling/key_mapping_spatial_mllm.py`)."""
    folder = "official_v10_tiny" if name == "official_v10" else "official_v11_tiny"
    model = tiny_model(reference / folder)
    renamings, ours = get_model_conversion_mapping(model), model.state_dict()
    names = manifest(reference, name)
    renamed = {public: rename_source_key(public, renamings, [], model.base_model_prefix, ours)[0] for public in names}
    assert renamed == {public: to_module_name(public, FORMAT_OF[name]) for public in names}


def test_vggts_own_names_are_those_of_our_vggt(reference: Path) -> None:
    names = weights_of(reference / "vggt_tiny")
    model = VGGTModel.from_pretrained(reference / "vggt_tiny")
    assert {f"model.spatial_encoder.{name}" for name in model.state_dict()} == {
        to_module_name(name, "vggt") for name in names
    }


@pytest.mark.parametrize(
    ("name", "layout", "ours"),
    [
        ("visual.merger.ln_q.weight", "v1.1", "model.visual.merger.ln_q.weight"),
        ("model.layers.0.mlp.up_proj.weight", "v1.1", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("spatial_encoder.vggt_model.camera_head.a", "v1.1", "model.spatial_encoder.camera_head.a"),
        ("connector.mlp.0.bias", "v1.1", "model.connector.mlp.0.bias"),
        ("vggt.aggregator.camera_token", "v1.0", "model.spatial_encoder.aggregator.camera_token"),
        ("vggt_embedding_merger.token_merge_mlp.0.bias", "v1.0", "model.connector.token_merge_mlp.0.bias"),
        ("aggregator.camera_token", "vggt", "model.spatial_encoder.aggregator.camera_token"),
        ("model.norm.weight", "qwen2.5-vl", "model.language_model.norm.weight"),
        ("lm_head.weight", "qwen2.5-vl", "lm_head.weight"),
        ("model.language_model.norm.weight", "transformers", "model.language_model.norm.weight"),
    ],
)
def test_known_names(name: str, layout: Format, ours: str) -> None:
    assert to_module_name(name, layout) == ours
    assert from_module_name(ours, layout) == name


@pytest.mark.parametrize("name", FORMAT_OF)
def test_formats_of_full_size_names_are_told(reference: Path, name: str) -> None:
    names = manifest(reference, name)
    assert detect_format(names) == FORMAT_OF[name]
    assert detect_format(list(reversed(names))) == FORMAT_OF[name]


@pytest.mark.parametrize("name", TINY)
def test_formats_of_tiny_checkpoints_are_told(reference: Path, name: str) -> None:
    names = list(weights_of(reference / name))
    assert detect_format(names) == TINY[name]
    if TINY[name] != "vggt":
        assert detect_format([to_module_name(public, TINY[name]) for public in names]) == "transformers"


def test_every_format_is_told_by_some_test() -> None:
    assert {*FORMAT_OF.values(), "transformers"} == set(PREFIXES)


@pytest.mark.parametrize("names", [["encoder.layer.0.weight", "bert.pooler"], ["visual.a"], ["model.a"], []])
def test_an_unknown_format_is_an_error_with_its_names(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"format is not known: its \d weights begin with.*Expected the names of"):
        detect_format(names)
