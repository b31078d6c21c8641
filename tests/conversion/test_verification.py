"""Two checkpoints compared: the same, rounded, different, of other shapes, incomplete."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import REMOVED, change_weights, copy_folder, split_into_shards, weights_of
from safetensors.torch import save_file

from spatial_mllm_hf.conversion.checkpoint_reading import Checkpoint
from spatial_mllm_hf.conversion.verification import Comparison, compare
from spatial_mllm_hf.hub.checkpoint_folders import extract_vggt, from_official, to_official

CAMERA = "spatial_encoder.vggt_model.aggregator.camera_token"
OUR_CAMERA = "model.spatial_encoder.aggregator.camera_token"
Change = Callable[..., Comparison]


@pytest.fixture
def compared(v1_1: Path, tmp_path: Path) -> Change:
    """v1.1 compared with itself after changes of weights; `REMOVED` takes one out."""

    def changed(changes: dict[str, Any], parts: tuple[str, ...] = ()) -> Comparison:
        other = copy_folder(v1_1, tmp_path / "other")
        change_weights(other, changes)
        return compare(Checkpoint(v1_1), Checkpoint(other), parts)

    return changed


@pytest.fixture(scope="module")
def camera(v1_1: Path) -> torch.Tensor:
    return weights_of(v1_1)[CAMERA]


def with_value(tensor: torch.Tensor, value: float, index: int = 5) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[index] = value
    return changed


def weights_only(folder: Path, weights: dict[str, torch.Tensor]) -> Checkpoint:
    """A VGGT of a few weights."""
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    return Checkpoint(folder)


# --- the same ---


@pytest.mark.parametrize("kind", ["v1.1", "v1.0", "vggt", "qwen"])
def test_a_checkpoint_is_itself(kind: str, v1_1: Path, v1_0: Path, vggt: Path, plain_qwen: Path) -> None:
    folder = {"v1.1": v1_1, "v1.0": v1_0, "vggt": vggt, "qwen": plain_qwen}[kind]
    told: list[int] = []
    result = compare(Checkpoint(folder), Checkpoint(folder), progress=told.append)
    assert result.same
    assert len(result.equal) == len(weights_of(folder))
    assert result == Comparison(equal=result.equal)
    assert sum(told) == Checkpoint(folder).nbytes


def test_the_same_weights_under_other_names_and_in_shards(v1_0: Path, tmp_path: Path) -> None:
    from_official(Checkpoint(v1_0), tmp_path / "ours", max_shard_size="1MB")
    to_official(Checkpoint(tmp_path / "ours"), tmp_path / "back")
    split_into_shards(tmp_path / "back")
    for folder in ("ours", "back"):
        result = compare(Checkpoint(v1_0), Checkpoint(tmp_path / folder))
        assert result.same
        assert len(result.equal) == len(weights_of(v1_0))


def test_a_part_compares_with_the_backbone_it_came_from(merged: Path, vggt: Path, plain_qwen: Path) -> None:
    spatial = compare(Checkpoint(merged), Checkpoint(vggt), ["spatial"])
    assert spatial.same
    assert len(spatial.equal) == len(weights_of(vggt))
    backbone = compare(Checkpoint(plain_qwen), Checkpoint(merged), ["vision", "language"])
    assert backbone.same
    assert len(backbone.equal) == len(weights_of(plain_qwen))
    whole = compare(Checkpoint(plain_qwen), Checkpoint(merged))
    assert not whole.same
    assert len(whole.only_b) == len(weights_of(vggt)) + 5
    assert whole.only_a == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_told_from_equality(v1_1: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    from_official(Checkpoint(v1_1), tmp_path / "half", dtype=dtype)
    for a, b in ((v1_1, tmp_path / "half"), (tmp_path / "half", v1_1)):
        result = compare(Checkpoint(a), Checkpoint(b))
        assert result.same
        assert result.equal == []
        assert len(result.rounded) == len(weights_of(v1_1))


def test_what_is_not_the_rounding_is_different(v1_1: Path, camera: torch.Tensor, tmp_path: Path) -> None:
    from_official(Checkpoint(v1_1), tmp_path / "half", dtype=torch.bfloat16)
    half = camera.to(torch.bfloat16)
    neighbour = half.view(-1).view(torch.int16)[5:6].add(1).view(torch.bfloat16)
    change_weights(tmp_path / "half", {CAMERA: with_value(half, neighbour.item())})
    result = compare(Checkpoint(v1_1), Checkpoint(tmp_path / "half"))
    assert not result.same
    assert result.different.keys() == {OUR_CAMERA}
    gap = abs(neighbour.double() - half.view(-1)[5].double()).item()
    assert result.different[OUR_CAMERA] == pytest.approx(gap)


def test_the_two_half_types_compare_alike_both_ways(tmp_path: Path) -> None:
    """bfloat16 is the coarser of the two: 1 + 2**-10 is 1 there."""
    fine = torch.tensor([1 + 2**-10, -3.0])
    half = weights_only(tmp_path / "half", {"aggregator.a": fine.half()})
    brain = weights_only(tmp_path / "brain", {"aggregator.a": fine.bfloat16()})
    assert compare(brain, half).rounded == ["model.spatial_encoder.aggregator.a"]
    assert compare(half, brain).rounded == ["model.spatial_encoder.aggregator.a"]


# --- different ---


def test_one_number_that_differs_is_found_with_its_gap(compared: Change, camera: torch.Tensor, v1_1: Path) -> None:
    result = compared({CAMERA: with_value(camera, camera.view(-1)[5].item() + 0.125)})
    assert not result.same
    assert result.different == {OUR_CAMERA: pytest.approx(0.125, abs=1e-6)}
    assert len(result.equal) == len(weights_of(v1_1)) - 1


def test_the_gap_is_the_largest_of_all_pieces(v1_1: Path, camera: torch.Tensor, tmp_path: Path) -> None:
    """Of two checkpoints that are cut into pieces at different places."""
    big = torch.zeros(1000, 24)
    changed = with_value(with_value(big, 0.5, 3), -2.0, 23_999)
    one = weights_only(tmp_path / "one", {"aggregator.a": big})
    other = weights_only(tmp_path / "other", {"aggregator.a": changed})
    pieces = one.pieces
    one.pieces = lambda name, _=0: pieces(name, 1000)  # type: ignore[method-assign]
    assert compare(one, other).different == {"model.spatial_encoder.aggregator.a": 2.0}


def test_a_number_that_is_none_is_found(compared: Change, camera: torch.Tensor) -> None:
    result = compared({CAMERA: with_value(camera, float("nan"))})
    assert result.different == {OUR_CAMERA: float("inf")}


def test_the_same_nan_at_the_same_place_is_the_same(tmp_path: Path) -> None:
    weight = torch.tensor([1.0, float("nan"), float("inf")])
    one = weights_only(tmp_path / "one", {"aggregator.a": weight})
    assert compare(one, weights_only(tmp_path / "other", {"aggregator.a": weight.clone()})).same


@pytest.mark.parametrize("odd", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_number_in_both_does_not_hide_the_gap(tmp_path: Path, odd: float) -> None:
    one = weights_only(tmp_path / "one", {"aggregator.a": torch.tensor([odd, 1.0])})
    other = weights_only(tmp_path / "other", {"aggregator.a": torch.tensor([odd, 1.5])})
    assert compare(one, other).different == {"model.spatial_encoder.aggregator.a": 0.5}


def test_two_zeros_of_different_sign_are_different_bits(tmp_path: Path) -> None:
    one = weights_only(tmp_path / "one", {"aggregator.a": torch.tensor([0.0])})
    other = weights_only(tmp_path / "other", {"aggregator.a": torch.tensor([-0.0])})
    (gap,) = compare(one, other).different.values()
    assert 0 < gap < 1e-300


def test_another_shape_is_told_with_both(compared: Change, camera: torch.Tensor) -> None:
    result = compared({CAMERA: camera.reshape(2, 32)})
    assert not result.same
    assert result.shapes == {OUR_CAMERA: [[1, 2, 1, 32], [2, 32]]}
    assert result.different == {}


def test_a_weight_of_one_alone_is_named(compared: Change) -> None:
    result = compared({CAMERA: REMOVED, "connector.alien": torch.ones(2)})
    assert not result.same
    assert result.only_a == [OUR_CAMERA]
    assert result.only_b == ["model.connector.alien"]


def test_the_point_tracker_does_not_matter(compared: Change) -> None:
    """No model of ours reads it."""
    result = compared({"spatial_encoder.vggt_model.track_head.a": torch.ones(2)})
    assert result.same
    ((name, reason),) = result.ignored.items()
    assert name == "model.spatial_encoder.track_head.a"
    assert "point tracker" in reason


def test_a_head_that_is_the_embeddings_need_not_be_there(plain_qwen: Path, tmp_path: Path) -> None:
    other = copy_folder(plain_qwen, tmp_path / "other")
    change_weights(other, {"lm_head.weight": weights_of(plain_qwen)["model.embed_tokens.weight"].clone()})
    for a, b in ((plain_qwen, other), (other, plain_qwen)):
        result = compare(Checkpoint(a), Checkpoint(b))
        assert result.same
        assert result.ignored.keys() == {"lm_head.weight"}


def test_a_head_of_its_own_is_missed(untied_qwen: Path, tmp_path: Path) -> None:
    """Without it the model would answer from its embeddings, which are other numbers."""
    other = copy_folder(untied_qwen, tmp_path / "other")
    change_weights(other, {"lm_head.weight": REMOVED})
    for a, b in ((untied_qwen, other), (other, untied_qwen)):
        assert not compare(Checkpoint(a), Checkpoint(b)).same


def test_different_models_are_not_the_same(merged: Path, v1_1: Path, plain_qwen: Path, vggt: Path) -> None:
    for a, b in ((merged, v1_1), (plain_qwen, vggt), (v1_1, vggt)):
        assert not compare(Checkpoint(a), Checkpoint(b)).same


# --- parts, JSON ---


def test_only_the_parts_asked_for_are_compared(compared: Change, camera: torch.Tensor, v1_1: Path) -> None:
    result = compared({CAMERA: with_value(camera, 9.0)}, ("vision", "connector"))
    assert result.same
    prefixes = ("visual.", "connector.")
    assert len(result.equal) == sum(name.startswith(prefixes) for name in weights_of(v1_1))


def test_an_unknown_part_is_named(v1_1: Path) -> None:
    says = r"parts must be some of \['vision', 'spatial', 'connector', 'language', 'head'\], got \['vggt'\]"
    with pytest.raises(ValueError, match=says):
        compare(Checkpoint(v1_1), Checkpoint(v1_1), ["vision", "vggt"])


def test_the_result_goes_into_json(compared: Change, camera: torch.Tensor) -> None:
    changes = {CAMERA: with_value(camera, 9.0), "connector.mlp.2.bias": torch.ones(3), "connector.alien": torch.ones(1)}
    result = compared(changes)
    told = json.loads(json.dumps(result.to_dict()))
    assert told["same"] is False
    assert told["different"].keys() == {OUR_CAMERA}
    assert told["shapes"] == {"model.connector.mlp.2.bias": [[64], [3]]}
    assert told["only_b"] == ["model.connector.alien"]
    assert len(told["equal"]) == len(result.equal) > 400


def test_a_merge_is_not_its_training(merged: Path, vggt: Path, tmp_path: Path) -> None:
    """The user's question after training: did the connector move, and nothing else?"""
    trained = copy_folder(merged, tmp_path / "trained")
    bias = weights_of(trained)["connector.mlp.2.bias"]
    change_weights(trained, {"connector.mlp.2.bias": bias + 0.25})
    result = compare(Checkpoint(merged), Checkpoint(trained))
    assert result.different == {"model.connector.mlp.2.bias": 0.25}
    extract_vggt(Checkpoint(trained), tmp_path / "vggt")
    assert compare(Checkpoint(vggt), Checkpoint(tmp_path / "vggt")).same
