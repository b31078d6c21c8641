"""The public code's tiny models and their inputs and outputs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration


@dataclass(frozen=True)
class Case:
    """One reference run: where the checkpoint is, what went in, what came out."""

    folder: Path
    options: dict[str, Any]  # of from_pretrained
    inputs: dict[str, torch.Tensor]
    frames: list[torch.Tensor]  # uint8, as they were before patching
    outputs: dict[str, torch.Tensor]

    def load(self, **options: Any) -> SpatialMLLMForConditionalGeneration:
        """The model, with default `from_pretrained` but for what is named."""
        return SpatialMLLMForConditionalGeneration.from_pretrained(self.folder, **{**self.options, **options})

    @property
    def kept(self) -> torch.Tensor:
        """Which tokens are no padding."""
        return self.inputs["attention_mask"].bool()


def make_case(folder: Path, suffix: str = "", **options: Any) -> Case:
    inputs = load_file(folder / f"inputs{suffix}.safetensors")
    frames = [inputs.pop(name) for name in sorted(inputs) if "uint8" in name]
    if suffix == "_images":
        inputs["num_images_per_sample"] = torch.tensor([3, 1])
    return Case(folder, options, inputs, frames, load_file(folder / f"outputs{suffix}.safetensors"))


@pytest.fixture(scope="session")
def cases(reference: Path) -> dict[str, Case]:
    """The three runs: v1.1 on videos, v1.1 on images, v1.0 on videos."""
    v1_0 = reference / "official_v10_tiny"
    spatial_config = json.loads((v1_0 / "spatial_config.json").read_text())  # too small to be the default
    return {
        "v1.1": make_case(reference / "official_v11_tiny"),
        "v1.1 images": make_case(reference / "official_v11_tiny", "_images"),
        "v1.0": make_case(v1_0, spatial_config=spatial_config),
    }
