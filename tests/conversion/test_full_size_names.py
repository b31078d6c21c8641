"""Plans of the public checkpoints at full size, made from the names and shapes of all their weights, without data."""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from spatial_mllm_hf.conversion import planning
from spatial_mllm_hf.conversion.checkpoint_reading import Checkpoint, StoredTensor
from spatial_mllm_hf.conversion.inspection import inspect_checkpoint
from spatial_mllm_hf.conversion.merge import plan_merge
from spatial_mllm_hf.conversion.planning import ConversionPlan
from spatial_mllm_hf.conversion.public_formats import plan_extract_vggt, plan_from_official, plan_to_official

# What the public files of Qwen2.5-VL-3B and of both Spatial-MLLM releases say of their sizes.
PUBLIC_3B = json.loads((Path(__file__).parents[1] / "reference" / "public_3b_config.json").read_text())
VGGT_1B = {"img_size": 518, "patch_size": 14, "embed_dim": 1024}
CONFIGS: dict[str, dict[str, Any]] = {
    "official_v11": {
        **PUBLIC_3B,
        "model_type": "spatial-mllm",
        "architectures": ["SpatialMLLMForConditionalGeneration"],
        "spatial_config": VGGT_1B,
        "connector_config": {"connector_type": "mlp_add", "spatial_embeds_layer_idx": -1},
    },
    "official_v10": {
        **PUBLIC_3B,
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VL_VGGTForConditionalGeneration"],
    },
    "qwen2_5_vl_3b": {
        **PUBLIC_3B,
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    },
    "vggt_1b": VGGT_1B,
}
Shapes = dict[str, tuple[int, ...]]


@dataclass
class Manifest:
    """A checkpoint of which only the headers are there."""

    folder: Path
    name: str
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]

    def pieces(self, name: str, piece_bytes: int = 0) -> Iterator[torch.Tensor]:
        raise AssertionError(f"{name} was read, and a plan needs headers alone")

    def are_equal(self, one: str, other: str) -> bool:
        """Said of the one pair whose values a plan may ask for: a head that is written out, and the embeddings."""
        assert {one, other} == {"lm_head.weight", "model.embed_tokens.weight"}
        return True


@pytest.fixture(scope="module")
def shapes(reference: Path) -> dict[str, Shapes]:
    """Of each manifest."""
    read = {name: json.loads((reference / "manifests" / f"{name}.json").read_text()) for name in CONFIGS}
    return {name: {key: tuple(shape) for key, shape in weights.items()} for name, weights in read.items()}


@pytest.fixture(scope="module")
def full_size(shapes: dict[str, Shapes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """The public checkpoints in bfloat16, VGGT-1B in float32."""
    folder = tmp_path_factory.mktemp("full_size")

    def make(name: str) -> Manifest:
        dtype = torch.float32 if name == "vggt_1b" else torch.bfloat16
        file = folder / "model.safetensors"
        tensors = {key: StoredTensor(key, shape, dtype, file) for key, shape in shapes[name].items()}
        return Manifest(folder, name, copy.deepcopy(CONFIGS[name]), tensors)

    return {name: cast(Checkpoint, make(name)) for name in CONFIGS}


@pytest.fixture(scope="module")
def taken(full_size: dict[str, Checkpoint]) -> dict[str, ConversionPlan]:
    """Plans to make the public Spatial-MLLMs ours."""
    return {name: plan_from_official(full_size[name]) for name in ("official_v11", "official_v10")}


def planned(plan: ConversionPlan) -> Shapes:
    return {tensor.name: tensor.shape for tensor in plan.tensors}


def is_tracked(name: str) -> bool:
    return "track_head." in name


def without(shapes: Shapes, *parts: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize("name", ["official_v11", "official_v10"])
def test_a_public_checkpoint_is_taken_whole_but_for_the_point_tracker(
    taken: dict[str, ConversionPlan], shapes: dict[str, Shapes], name: str
) -> None:
    """Strictly: nothing unknown, nothing missing, every shape as the configuration makes it."""
    plan = taken[name]
    dropped = {row.source: row.reason for row in plan.rows if row.fate == "dropped"}
    assert {key for key in dropped if key != "lm_head.weight"} == set(filter(is_tracked, shapes[name]))
    assert all("point tracker" in reason for key, reason in dropped.items() if is_tracked(key))
    assert not any(row.fate == "new" for row in plan.rows)
    assert len(plan.tensors) + len(dropped) == len(shapes[name])
    assert {tensor.dtype for tensor in plan.tensors} == {torch.bfloat16}
    assert sorted(planned(plan).values()) == sorted(without(shapes[name], "track_head.", "lm_head.").values())


def test_v1_1_keeps_its_names_and_config(
    taken: dict[str, ConversionPlan], full_size: dict[str, Checkpoint], shapes: dict[str, Shapes]
) -> None:
    expected = without(shapes["official_v11"], "track_head.", "lm_head.")
    assert planned(taken["official_v11"]) == expected
    plan = plan_to_official(full_size["official_v11"])
    assert planned(plan) == expected
    config, before = plan.config, CONFIGS["official_v11"]
    assert isinstance(config, dict)
    vision = config.pop("vision_config")
    assert {name: config.get(name) for name in before if name != "vision_config"} == {
        name: value for name, value in before.items() if name != "vision_config"
    }
    assert {name: vision[name] for name in before["vision_config"]} == before["vision_config"]


def test_v1_0_goes_back_to_its_names(full_size: dict[str, Checkpoint], shapes: dict[str, Shapes]) -> None:
    plan = plan_to_official(full_size["official_v10"])
    assert planned(plan) == without(shapes["official_v10"], "track_head.", "lm_head.")
    assert plan.target_format == "v1.0"
    assert isinstance(plan.config, dict)
    assert "spatial_config" not in plan.config  # public v1.0 has none
    assert plan.config["architectures"] == CONFIGS["official_v10"]["architectures"]


@pytest.mark.parametrize(("name", "connector"), [("official_v11", "v1.1"), ("official_v10", "v1.0")])
def test_a_merge_has_exactly_the_weights_of_the_public_checkpoint(
    full_size: dict[str, Checkpoint],
    taken: dict[str, ConversionPlan],
    shapes: dict[str, Shapes],
    name: str,
    connector: Any,
) -> None:
    merged = plan_merge(full_size["qwen2_5_vl_3b"], full_size["vggt_1b"], connector=connector)
    public = taken[name]
    assert planned(merged) == planned(public)
    assert {row.source for row in merged.rows if row.source is not None} == {
        *shapes["qwen2_5_vl_3b"],
        *shapes["vggt_1b"],
    }
    assert merged.nbytes == 2 * sum(math.prod(shape) for shape in planned(public).values())
    assert merged.sources[0]["licence"] == "qwen-research (Qwen/Qwen2.5-VL-3B-Instruct)"
    assert merged.sources[1]["licence"] == "cc-by-nc-4.0 (facebook/VGGT-1B)"


@pytest.mark.parametrize("name", ["official_v11", "official_v10"])
def test_vggt_of_a_public_checkpoint_is_vggt_1b(
    full_size: dict[str, Checkpoint], shapes: dict[str, Shapes], name: str
) -> None:
    """The point tracker too, where the checkpoint has it."""
    plan = plan_extract_vggt(full_size[name])
    has_tracker = any(map(is_tracked, shapes[name]))
    assert planned(plan) == (shapes["vggt_1b"] if has_tracker else without(shapes["vggt_1b"], "track_head."))
    assert plan.config == VGGT_1B


def test_full_size_models_are_made_without_memory(
    full_size: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device."""
    made: list[torch.Tensor] = []
    original = planning.SpatialMLLMForConditionalGeneration

    def make(config: Any) -> Any:
        model = original(config)
        made.extend(model.parameters())
        return model

    monkeypatch.setattr(planning, "SpatialMLLMForConditionalGeneration", make)
    plan_from_official(full_size["official_v11"])
    assert {parameter.device.type for parameter in made} == {"meta"}


def write_headers(folder: Path, name: str, shapes: Shapes, dtype: str, itemsize: int) -> None:
    """A folder of full size on paper: the file's tensors are a hole that takes no room on the disk."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    header: dict[str, object] = {}
    offset = 0
    for key, shape in shapes.items():
        end = offset + itemsize * math.prod(shape)
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + offset)


def test_a_full_size_checkpoint_is_inspected_by_its_headers(shapes: dict[str, Shapes], tmp_path: Path) -> None:
    write_headers(tmp_path / "v1_1", "official_v11", shapes["official_v11"], "BF16", 2)
    facts = inspect_checkpoint(tmp_path / "v1_1")
    parameters = {name: math.prod(shape) for name, shape in shapes["official_v11"].items()}
    assert sum(part["parameters"] for part in facts.parts.values()) == sum(parameters.values())
    assert facts.parts["vision"]["parameters"] == sum(n for name, n in parameters.items() if name.startswith("visual."))
    assert facts.dtype == {"bfloat16": sum(parameters.values())}
    assert facts.base_models == ["Qwen/Qwen2.5-VL-3B-Instruct", "facebook/VGGT-1B"]
    assert facts.licences == ["qwen-research (Qwen/Qwen2.5-VL-3B-Instruct)", "cc-by-nc-4.0 (facebook/VGGT-1B)"]
    assert not any("weights" in missing for missing in facts.missing)
    loaded = [n for name, n in parameters.items() if ".track_head." not in name and not name.startswith("lm_head.")]
    assert facts.memory["bfloat16"] == 2 * sum(loaded)
    assert facts.memory["int4"] < facts.memory["int8"] < facts.memory["bfloat16"]


def test_a_file_larger_than_the_memory_is_inspected(shapes: dict[str, Shapes], tmp_path: Path) -> None:
    """Mapping it as data would be refused."""
    grown = {**shapes["vggt_1b"], "track_head.a": (10**11,)}
    write_headers(tmp_path / "vggt", "vggt_1b", grown, "F32", 4)
    facts = inspect_checkpoint(tmp_path / "vggt")
    assert facts.parts["spatial"]["bytes"] > 4 * 10**11
    assert facts.heads == ["camera", "depth", "points"]
