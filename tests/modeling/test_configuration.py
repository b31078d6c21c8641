"""Configurations: public files in and out, defaults, and what is refused."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, Qwen2_5_VLConfig

from spatial_mllm_hf import SpatialConnectorConfig, SpatialMLLMConfig, VGGTConfig


def values(config: dict) -> dict:
    """What a public configuration says, whether it is flat or nested, under one set of names."""
    config = {**config.pop("text_config", {}), **config}
    rope = config.pop("rope_parameters", None) or {
        **config.pop("rope_scaling"),
        "rope_theta": config.pop("rope_theta"),
    }
    config["mrope_section"], config["rope_theta"] = rope["mrope_section"], rope["rope_theta"]
    return config


def test_a_public_config_survives_a_round_trip(reference: Path, tmp_path: Path) -> None:
    public = json.loads((reference / "official_v11_tiny" / "config.json").read_text())
    SpatialMLLMConfig.from_pretrained(reference / "official_v11_tiny").save_pretrained(tmp_path)
    written = values(json.loads((tmp_path / "config.json").read_text()))
    public = values(public)
    for name in ("rope_scaling", "torch_dtype", "transformers_version", "in_chans"):
        public.pop(name, None)
    for part in ("vision_config", "spatial_config", "connector_config"):
        wanted = public.pop(part)
        wanted.pop("in_chans", None)
        assert {name: written[part][name] for name in wanted} == wanted
    sliding = {"sliding_window", "max_window_layers", "use_sliding_window"}
    assert {name: written.get(name) for name in public if name not in sliding} == {
        name: value for name, value in public.items() if name not in sliding
    }
    again = SpatialMLLMConfig.from_pretrained(tmp_path)
    assert again.to_dict() == SpatialMLLMConfig.from_pretrained(tmp_path).to_dict()
    assert again.text_config.hidden_size == public["hidden_size"]


def test_a_v1_0_config_gets_its_connector_and_the_default_vggt(reference: Path) -> None:
    config = SpatialMLLMConfig.from_pretrained(reference / "official_v10_tiny")
    assert config.model_type == "spatial-mllm"
    assert config.connector_config.connector_type == "merger"
    assert config.spatial_config.to_dict() == VGGTConfig().to_dict()
    assert config.spatial_config.embed_dim == 1024


def test_a_saved_v1_0_config_keeps_its_connector(reference: Path, tmp_path: Path) -> None:
    config = SpatialMLLMConfig.from_pretrained(reference / "official_v10_tiny")
    config.architectures = ["SpatialMLLMForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    assert SpatialMLLMConfig.from_pretrained(tmp_path).connector_config.connector_type == "merger"


def test_parts_can_be_given_as_dictionaries_or_objects() -> None:
    spatial = VGGTConfig(embed_dim=512, num_attention_heads=8)
    as_object = SpatialMLLMConfig(spatial_config=spatial, connector_config=SpatialConnectorConfig())
    as_dict = SpatialMLLMConfig(spatial_config=spatial.to_dict(), connector_config={"connector_type": "mlp_add"})
    assert as_object.to_dict() == as_dict.to_dict()
    assert as_object.spatial_config.hidden_size == 1024


def test_vggt_config_is_read_out_of_a_whole_one(reference: Path) -> None:
    config = VGGTConfig.from_pretrained(reference / "official_v11_tiny")
    assert (config.img_size, config.embed_dim, config.num_hidden_layers) == (56, 32, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"connector_config": {"connector_type": "q_former"}}, "unknown connector_type 'q_former', expected one of"),
        ({"connector_config": {"spatial_embeds_layer_idx": 24}}, "spatial_embeds_layer_idx=24 does not exist"),
        ({"connector_config": {"spatial_embeds_layer_idx": -25}}, "does not exist in a VGGT of 24 layers"),
        ({"connector_config": "mlp_add"}, "connector_config must be a dictionary or an object, got 'mlp_add'"),
        ({"spatial_fusion_scale": float("nan")}, "spatial_fusion_scale must be finite, got nan"),
        ({"image_std": [0.0, 1.0, 1.0]}, "image_std positive ones"),
        ({"image_mean": [0.5]}, "need three values each"),
        ({"vision_config": {"temporal_patch_size": 3}}, "merge 1 or 2 frames, but vision_config.temporal_patch_size=3"),
        ({"spatial_config": {"patch_size": 16, "img_size": 512}}, "both branches see the same patches"),
    ],
)
def test_what_cannot_be_fused_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpatialMLLMConfig(**settings)


def test_a_config_file_with_an_unknown_connector_is_refused(reference: Path, tmp_path: Path) -> None:
    config = json.loads((reference / "official_v11_tiny" / "config.json").read_text())
    config["connector_config"]["connector_type"] = "cross_attention"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="unknown connector_type 'cross_attention'"):
        AutoConfig.from_pretrained(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match=r"holds a 'llama' model; SpatialMLLMConfig reads"):
        SpatialMLLMConfig.from_pretrained(tmp_path)


def test_a_field_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(Exception, match="'embed_dim' expected int, got str"):
        VGGTConfig(embed_dim="wide")


def test_qwens_own_config_knows_nothing_of_us() -> None:
    SpatialMLLMConfig()
    assert set(Qwen2_5_VLConfig.sub_configs) == {"vision_config", "text_config"}
    assert not hasattr(Qwen2_5_VLConfig(), "spatial_config")
    assert type(AutoConfig.for_model("qwen2_5_vl")) is Qwen2_5_VLConfig
