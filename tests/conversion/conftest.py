"""The two backbones, the two public formats and what is merged of them, all tiny."""

from pathlib import Path

import pytest
import torch
from checkpoint_files import video_batch, write_plain_qwen, write_public_v1_1

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration
from spatial_mllm_hf.conversion.checkpoint_reading import Checkpoint
from spatial_mllm_hf.conversion.coverage import CoverageReport
from spatial_mllm_hf.hub.checkpoint_folders import merge


@pytest.fixture(scope="session")
def plain_qwen(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete Qwen2.5-VL folder. Read only, as are all below."""
    return write_plain_qwen(tmp_path_factory.mktemp("backbones") / "qwen", reference)


@pytest.fixture(scope="session")
def untied_qwen(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a head of its own, as Qwen2.5-VL-7B has."""
    return write_plain_qwen(tmp_path_factory.mktemp("backbones") / "untied_qwen", reference, tied=False)


@pytest.fixture(scope="session")
def vggt(reference: Path) -> Path:
    """VGGT in VGGT-1B's layout."""
    return reference / "vggt_tiny"


@pytest.fixture(scope="session")
def v1_1(reference: Path) -> Path:
    """Public v1.1: weights and config.json alone."""
    return reference / "official_v11_tiny"


@pytest.fixture(scope="session")
def v1_0(reference: Path) -> Path:
    """Public v1.0, likewise; what config.json leaves out of VGGT's sizes in spatial_config.json."""
    return reference / "official_v10_tiny"


@pytest.fixture(scope="session")
def public_v1_1(reference: Path, plain_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Public v1.1 with the tokenizer and processor files of transformers 4.51."""
    return write_public_v1_1(tmp_path_factory.mktemp("public") / "v1_1", reference, plain_qwen)


@pytest.fixture(scope="session")
def batch(reference: Path) -> dict[str, torch.Tensor]:
    """A left-padded batch of two videos, of tokens that `plain_qwen` knows."""
    return video_batch(reference)


@pytest.fixture(scope="session")
def merged(plain_qwen: Path, vggt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both backbones in float32, with the v1.1 connector."""
    folder = tmp_path_factory.mktemp("merged") / "model"
    merge(Checkpoint(plain_qwen), Checkpoint(vggt), folder, dtype=torch.float32)
    return folder


def sources_of(report: CoverageReport) -> list[str]:
    """Names that a report accounts for, in its order, with repetitions."""
    return [row.source for row in report.rows if row.source is not None]


@torch.no_grad()
def logits_of(folder: Path, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model in a folder makes of a batch, loaded as a user loads it."""
    return SpatialMLLMForConditionalGeneration.from_pretrained(folder)(**batch).logits
