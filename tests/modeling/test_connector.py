"""Which frames a token of either connector is made of."""

import pytest
import torch

from spatial_mllm_hf.hub.tiny_checkpoint import byte_tokenizer, tiny_config
from spatial_mllm_hf.modeling.configuration_spatial_mllm import CONNECTOR_TYPES, SpatialMLLMConfig
from spatial_mllm_hf.modeling.connector_spatial_mllm import build_connector

FRAMES, HEIGHT, WIDTH = 6, 2, 4


def config_of(kind: str, frames_merged: int) -> SpatialMLLMConfig:
    values = tiny_config(byte_tokenizer()).to_dict()
    values["connector_config"]["connector_type"] = kind
    values["vision_config"]["temporal_patch_size"] = frames_merged
    return SpatialMLLMConfig.from_dict(values)


@pytest.mark.parametrize("frames_merged", [1, 2])
@pytest.mark.parametrize("kind", CONNECTOR_TYPES)
def test_tokens_are_of_as_many_frames_as_the_configuration_says(kind: str, frames_merged: int) -> None:
    torch.manual_seed(0)
    config = config_of(kind, frames_merged)
    connector = build_connector(config)
    patch_tokens = torch.randn(1, FRAMES, HEIGHT, WIDTH, config.spatial_config.hidden_size)
    with torch.no_grad():
        whole = connector(patch_tokens)
        alone = [connector(part) for part in patch_tokens.split(frames_merged, dim=1)]
        patch_tokens[:, 3] += 1
        changed = connector(patch_tokens)
    tokens = HEIGHT * WIDTH // 4
    assert whole.shape == (1, FRAMES // frames_merged * tokens, config.text_config.hidden_size)
    torch.testing.assert_close(torch.cat(alone, dim=1), whole)
    differs = (changed != whole).any(-1)[0].view(-1, tokens).all(-1)
    assert differs.nonzero().flatten().tolist() == [3 // frames_merged]
