"""What a checkpoint is, from its headers."""

import json
from pathlib import Path

import pytest
import torch
from checkpoint_files import REMOVED, change_json, change_weights, copy_folder, split_into_shards, weights_of

from spatial_mllm_hf.conversion.checkpoint_reading import Checkpoint
from spatial_mllm_hf.conversion.inspection import MEMORY_BYTES, inspect_checkpoint
from spatial_mllm_hf.conversion.sources import backbones_of, licence_of
from spatial_mllm_hf.hub.checkpoint_folders import merge
from spatial_mllm_hf.modeling.remote_code_spatial_mllm import CODE_ENTRIES
from spatial_mllm_hf.modeling.version_spatial_mllm import __version__

PREFIXES = {
    "v1.1": {"vision": "visual.", "spatial": "spatial_encoder.", "connector": "connector.", "language": "model."},
    "v1.0": {"vision": "visual.", "spatial": "vggt.", "connector": "vggt_embedding_merger.", "language": "model."},
    "qwen2.5-vl": {"vision": "visual.", "language": "model.", "head": "lm_head."},
    "vggt": {"spatial": ""},
}


@pytest.fixture
def folders(v1_1: Path, v1_0: Path, vggt: Path, plain_qwen: Path, untied_qwen: Path, merged: Path) -> dict[str, Path]:
    return {
        "v1.1": v1_1,
        "v1.0": v1_0,
        "vggt": vggt,
        "qwen2.5-vl": plain_qwen,
        "untied": untied_qwen,
        "merged": merged,
    }


KINDS = [
    ("v1.1", "v1.1"),
    ("v1.0", "v1.0"),
    ("vggt", "vggt"),
    ("qwen2.5-vl", "qwen2.5-vl"),
    ("untied", "qwen2.5-vl"),
    ("merged", "v1.1"),
]


def part_sizes(folder: Path, layout: str) -> dict[str, dict[str, int]]:
    """Counted from the tensors themselves."""
    sizes: dict[str, dict[str, int]] = {}
    for name, tensor in weights_of(folder).items():
        part = next(part for part, prefix in PREFIXES[layout].items() if name.startswith(prefix))
        entry = sizes.setdefault(part, {"weights": 0, "parameters": 0, "bytes": 0})
        entry["weights"] += 1
        entry["parameters"] += tensor.numel()
        entry["bytes"] += tensor.nbytes
    return sizes


# --- what it is ---


@pytest.mark.parametrize(("kind", "layout"), KINDS)
def test_parts_are_those_of_the_tensors(folders: dict[str, Path], kind: str, layout: str) -> None:
    facts = inspect_checkpoint(folders[kind])
    assert facts.layout == layout
    assert facts.parts == part_sizes(folders[kind], layout)
    assert facts.dtype == {"float32": sum(tensor.numel() for tensor in weights_of(folders[kind]).values())}
    assert facts.name == folders[kind].name


@pytest.mark.parametrize(("kind", "layout"), KINDS)
def test_memory_is_counted_by_type(folders: dict[str, Path], kind: str, layout: str) -> None:
    """int8 and int4 are for the language model's linear layers; the rest is bfloat16 there."""
    facts = inspect_checkpoint(folders[kind])
    weights = weights_of(folders[kind])
    total = sum(tensor.numel() for tensor in weights.values())
    linear = sum(
        tensor.numel()
        for name, tensor in weights.items()
        if layout != "vggt" and name.startswith("model.layers.") and tensor.ndim == 2
    )
    assert facts.memory == {
        "float32": 4 * total,
        "bfloat16": 2 * total,
        "float16": 2 * total,
        "int8": 2 * total - linear,
        "int4": 2 * total - linear * 3 // 2,
    }
    assert (linear > 0) == (layout != "vggt")
    assert facts.memory_by_part.keys() == facts.parts.keys()
    for part, sizes in facts.memory_by_part.items():
        assert sizes["float32"] == 4 * facts.parts[part]["parameters"]
        assert (sizes["int8"] < sizes["bfloat16"]) == (part == "language")


def test_connector_and_heads_are_told(folders: dict[str, Path], v1_1: Path, tmp_path: Path) -> None:
    connectors = {kind: inspect_checkpoint(folder).connector for kind, folder in folders.items()}
    assert connectors["v1.1"] == connectors["merged"] == "mlp_add (v1.1), reads layer -1 of VGGT"
    assert connectors["v1.0"] == "merger (v1.0), reads layer -1 of VGGT"
    assert connectors["vggt"] is connectors["qwen2.5-vl"] is None
    heads = {kind: inspect_checkpoint(folder).heads for kind, folder in folders.items()}
    for kind in ("v1.1", "v1.0", "vggt", "merged"):
        assert heads[kind] == ["camera", "depth", "points"]
    assert heads["qwen2.5-vl"] == []
    other = copy_folder(v1_1, tmp_path / "other")
    change_json(other / "config.json", connector_config={"connector_type": "mlp_add", "spatial_embeds_layer_idx": 2})
    assert inspect_checkpoint(other).connector == "mlp_add (v1.1), reads layer 2 of VGGT"


def test_the_version_that_wrote_it_is_told(merged: Path, v1_1: Path) -> None:
    assert inspect_checkpoint(merged).written_by == __version__
    assert inspect_checkpoint(v1_1).written_by is None


def test_types_are_counted_the_most_frequent_first(v1_1: Path, tmp_path: Path) -> None:
    folder = copy_folder(v1_1, tmp_path / "other")
    change_weights(folder, {"connector.mlp.2.bias": torch.ones(64, dtype=torch.bfloat16)})
    facts = inspect_checkpoint(folder)
    total = sum(tensor.numel() for tensor in weights_of(v1_1).values())
    assert list(facts.dtype.items()) == [("float32", total - 64), ("bfloat16", 64)]
    assert sum(entry["bytes"] for entry in facts.parts.values()) == 4 * total - 2 * 64


def test_shards_and_a_pt_file_are_inspected_too(v1_1: Path, vggt: Path, tmp_path: Path) -> None:
    folder = copy_folder(v1_1, tmp_path / "shards")
    split_into_shards(folder)
    assert inspect_checkpoint(folder).parts == inspect_checkpoint(v1_1).parts
    (tmp_path / "pt").mkdir()
    torch.save(weights_of(vggt), tmp_path / "pt" / "model.pt")
    (tmp_path / "pt" / "config.json").write_bytes((vggt / "config.json").read_bytes())
    assert inspect_checkpoint(tmp_path / "pt").parts == inspect_checkpoint(vggt).parts


@pytest.mark.parametrize(("kind", "layout"), KINDS)
def test_everything_goes_into_json(folders: dict[str, Path], kind: str, layout: str) -> None:
    facts = inspect_checkpoint(folders[kind])
    told = json.loads(json.dumps(facts.to_dict()))
    assert told["layout"] == layout
    assert told["parts"] == facts.parts
    assert told["memory"] == facts.memory
    assert told["memory"].keys() == MEMORY_BYTES.keys()
    assert told["missing"] == facts.missing


# --- what is missing ---


def test_nothing_is_missing_of_a_merge_and_files_of_bare_weights(folders: dict[str, Path]) -> None:
    assert inspect_checkpoint(folders["merged"]).missing == []
    assert inspect_checkpoint(folders["vggt"]).missing == []
    files = [
        "tokenizer",
        "processor settings",
        "chat template",
        "generation settings",
        "model card (README.md)",
        *(f"code ({name})" for name in CODE_ENTRIES),
    ]
    assert inspect_checkpoint(folders["v1.1"]).missing == files
    assert inspect_checkpoint(folders["v1.0"]).missing == files
    assert inspect_checkpoint(folders["qwen2.5-vl"]).missing == ["VGGT", "connector", "model card (README.md)"]


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (["tokenizer.json"], "tokenizer"),
        (["processor_config.json"], "processor settings"),
        (["chat_template.jinja"], "chat template"),
        (["generation_config.json"], "generation settings"),
        (["README.md"], "model card (README.md)"),
        (["modeling_spatial_mllm.py"], "code (modeling_spatial_mllm.py)"),
    ],
)
def test_a_file_that_is_missing_is_told(merged: Path, tmp_path: Path, files: list[str], missing: str) -> None:
    folder = copy_folder(merged, tmp_path / "other")
    for name in files:
        (folder / name).unlink()
    assert inspect_checkpoint(folder).missing == [missing]


@pytest.mark.parametrize(
    ("prefix", "missing"),
    [
        ("connector.", "5 weights of the part 'connector'"),
        ("visual.merger.", "5 weights of the part 'vision'"),
        ("model.norm.", "1 weights of the part 'language'"),
        ("spatial_encoder.vggt_model.aggregator.camera_token", "1 weights of the part 'spatial'"),
    ],
)
def test_weights_that_are_missing_are_counted(merged: Path, tmp_path: Path, prefix: str, missing: str) -> None:
    folder = copy_folder(merged, tmp_path / "other")
    gone = [name for name in weights_of(merged) if name.startswith(prefix)]
    change_weights(folder, dict.fromkeys(gone, REMOVED))
    assert inspect_checkpoint(folder).missing == [missing]
    assert missing.startswith(str(len(gone)))


def test_a_head_that_is_missing_is_told_unless_the_configuration_leaves_it_out(vggt: Path, tmp_path: Path) -> None:
    folder = copy_folder(vggt, tmp_path / "other")
    change_weights(folder, {name: REMOVED for name in weights_of(vggt) if name.startswith("depth_head.")})
    assert inspect_checkpoint(folder).missing == ["depth head"]
    assert inspect_checkpoint(folder).heads == ["camera", "points"]
    change_json(folder / "config.json", heads=["camera", "points"])
    assert inspect_checkpoint(folder).missing == []


def test_a_spatial_mllm_without_geometry_is_a_qwen(v1_1: Path, tmp_path: Path) -> None:
    folder = copy_folder(v1_1, tmp_path / "other")
    geometry = [name for name in weights_of(v1_1) if name.startswith(("spatial_encoder.", "connector."))]
    change_weights(folder, dict.fromkeys(geometry, REMOVED))
    facts = inspect_checkpoint(folder)
    assert facts.layout == "qwen2.5-vl"
    assert facts.missing[:2] == ["VGGT", "connector"]


def test_a_head_of_its_own_is_missed(untied_qwen: Path, vggt: Path, tmp_path: Path) -> None:
    merge(Checkpoint(untied_qwen), Checkpoint(vggt), tmp_path / "out")
    assert inspect_checkpoint(tmp_path / "out").missing == []
    change_weights(tmp_path / "out", {"lm_head.weight": REMOVED})
    assert inspect_checkpoint(tmp_path / "out").missing == ["1 weights of the part 'head'"]


def test_what_cannot_be_inspected_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no weights"):
        inspect_checkpoint(tmp_path)
    for name in ("no such folder", "a/b/c"):
        with pytest.raises(ValueError, match=rf"{name}: there is no such folder, and it is not the name of a Hub"):
            inspect_checkpoint(name)


# --- licences ---


@pytest.mark.parametrize(
    ("width", "repository", "licence"),
    [
        (2048, "Qwen/Qwen2.5-VL-3B-Instruct", "qwen-research"),
        (3584, "Qwen/Qwen2.5-VL-7B-Instruct", "apache-2.0"),
        (5120, "Qwen/Qwen2.5-VL-32B-Instruct", "apache-2.0"),
        (8192, "Qwen/Qwen2.5-VL-72B-Instruct", "qwen"),
    ],
)
def test_a_qwen_is_told_by_its_width(width: int, repository: str, licence: str) -> None:
    shapes = {"visual.a": [1], "model.embed_tokens.weight": [151936, width]}
    assert backbones_of(shapes) == [(repository, licence)]


def test_full_size_backbones_are_told_by_their_shapes(reference: Path) -> None:
    """In each public format."""

    def shapes(name: str) -> dict[str, list[int]]:
        return json.loads((reference / "manifests" / f"{name}.json").read_text())

    qwen, vggt = ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen-research"), ("facebook/VGGT-1B", "cc-by-nc-4.0")
    assert backbones_of(shapes("qwen2_5_vl_3b")) == [qwen]
    assert backbones_of(shapes("vggt_1b")) == [vggt]
    for whole in ("official_v11", "official_v10"):
        assert sorted(backbones_of(shapes(whole))) == sorted([qwen, vggt])


def test_other_sizes_are_nobodys(v1_1: Path) -> None:
    facts = inspect_checkpoint(v1_1)
    assert facts.licences == ["not stated by its files"]
    assert facts.base_models == []


def test_a_card_is_believed(v1_1: Path, tmp_path: Path) -> None:
    folder = copy_folder(v1_1, tmp_path / "other")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: my-licence\n---\nHello\n")
    assert inspect_checkpoint(folder).licences == ["my-licence (its own card)"]
    assert licence_of(Checkpoint(folder)) == "my-licence"
    (folder / "README.md").write_text("---\nlicense: mit\n---\nHello\n")
    assert inspect_checkpoint(folder).licences == ["mit (its own card)"]
    (folder / "README.md").write_text("No metadata\n")
    assert licence_of(Checkpoint(folder)) == "not stated by its files"


@pytest.mark.parametrize(
    "card", ["---\nlicense: [\n---\nHello\n", "---\n- a\n- b\n---\nHello\n", "---\nlicense: {a\n---\n"]
)
def test_a_card_that_cannot_be_read_stops_nothing(v1_1: Path, tmp_path: Path, card: str) -> None:
    folder = copy_folder(v1_1, tmp_path / "other")
    (folder / "README.md").write_text(card)
    assert inspect_checkpoint(folder).licences == ["not stated by its files"]
    assert licence_of(Checkpoint(folder)) == "not stated by its files"
