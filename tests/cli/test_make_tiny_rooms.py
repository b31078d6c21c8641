"""`spatial-mllm make-tiny --vggt`: the checkpoint that learns rooms."""

from pathlib import Path

import pytest
import torch
from minute_vggt import MINUTE
from safetensors.torch import load_file

from spatial_mllm_hf import SpatialMLLMConfig, VGGTModel
from spatial_mllm_hf.training.geometry import new_vggt
from spatial_mllm_hf.training.tiny_rooms import write_start

from .conftest import Command


@pytest.fixture(scope="module")
def vggt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small VGGT. Read only."""
    folder = tmp_path_factory.mktemp("geometry") / "vggt"
    torch.manual_seed(1)
    new_vggt({**MINUTE, "img_size": 84}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("options", "seed", "scale"), [((), 0, 1), (("--seed", 2), 2, 1), (("--without-geometry",), 0, 0)]
)
def test_the_checkpoint_is_that_of_the_library(
    options: tuple[str | int, ...], seed: int, scale: float, run: Command, vggt: Path, tmp_path: Path
) -> None:
    out = tmp_path / "start"
    result = run("make-tiny", out, "--vggt", vggt, *options)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"Wrote {out}: VGGT of {vggt}, all else random weights.\n"
    weights = load_file(out / "model.safetensors")
    expected = load_file(write_start(tmp_path / "expected", vggt, seed) / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert SpatialMLLMConfig.from_pretrained(out).spatial_fusion_scale == scale
    trained = VGGTModel.from_pretrained(vggt).state_dict()
    assert all(
        torch.equal(weight, trained[name]) for name, weight in VGGTModel.from_pretrained(out).state_dict().items()
    )


def test_mistakes_end_with_one_line(run: Command, vggt: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("precious")
    for out, options, message in (
        ("taken", ("--vggt", vggt), f"{tmp_path / 'taken'} exists and is not an empty folder"),
        ("new", ("--vggt", tmp_path / "nothing"), str(tmp_path / "nothing")),
        ("new", ("--without-geometry",), "--without-geometry makes a twin of the checkpoint that --vggt makes"),
    ):
        result = run("make-tiny", tmp_path / out, *options)
        assert result.code == 2
        assert message in result.error
        assert result.out == ""
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "mine.txt"]
