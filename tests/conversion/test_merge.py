"""Two backbones become one model that answers as the Qwen2.5-VL did."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from checkpoint_files import (
    CHAT_TEMPLATE,
    SINGLE,
    assert_same_bits,
    change_json,
    change_weights,
    copy_folder,
    weights_of,
    write_plain_qwen,
)
from transformers import AutoProcessor, GenerationConfig, Qwen2_5_VLForConditionalGeneration

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor, VGGTModel
from spatial_mllm_hf.conversion.checkpoint_reading import Checkpoint
from spatial_mllm_hf.conversion.coverage import CoverageReport
from spatial_mllm_hf.conversion.inspection import inspect_checkpoint
from spatial_mllm_hf.conversion.merge import plan_merge
from spatial_mllm_hf.hub.checkpoint_folders import merge

from .conftest import logits_of, sources_of

TRACK_HEAD = {"track_head.tracker.a": torch.ones(2, 3), "track_head.b": torch.ones(4)}
# Options of each.
MERGES: dict[str, dict[str, Any]] = {
    "v1.1": {},
    "v1.0": {"connector": "v1.0"},
    "untied": {},
    "names of transformers 5, sharded": {"max_shard_size": "500KB"},
    "points": {"heads": ["points"]},
    "no heads": {"heads": []},
}


class Merge(NamedTuple):
    """What went in, what came out."""

    qwen: Path
    folder: Path
    report: CoverageReport


@pytest.fixture(scope="session")
def merges(
    plain_qwen: Path, untied_qwen: Path, vggt: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Merge]:
    """Merges in float32 by name, each made once."""
    base = tmp_path_factory.mktemp("merges")
    made: dict[str, Merge] = {}

    def make(name: str) -> Merge:
        if name not in made:
            qwen = untied_qwen if name.startswith("untied") else plain_qwen
            if name.startswith("names"):
                qwen = write_plain_qwen(base / "qwen", reference, save_original_format=False, max_shard_size="300KB")
            folder = base / name
            report = merge(Checkpoint(qwen), Checkpoint(vggt), folder, dtype=torch.float32, **MERGES[name])
            made[name] = Merge(qwen, folder, report)
        return made[name]

    return make


@pytest.fixture
def qwen_copy(plain_qwen: Path, tmp_path: Path) -> Path:
    return copy_folder(plain_qwen, tmp_path / "qwen")


@pytest.fixture
def vggt_copy(vggt: Path, tmp_path: Path) -> Path:
    return copy_folder(vggt, tmp_path / "vggt")


def last_layer(model: SpatialMLLMForConditionalGeneration) -> torch.nn.Linear:
    connector = model.model.connector
    return connector.mlp[-1] if hasattr(connector, "mlp") else connector.vgg_to_language_mlp[-1]


# --- answers ---


@pytest.mark.parametrize("name", [name for name in MERGES if name != "no heads"])
@torch.no_grad()
def test_the_merged_model_answers_exactly_as_its_qwen(
    merges: Callable[[str], Merge], batch: dict[str, torch.Tensor], name: str
) -> None:
    qwen, folder, _ = merges(name)
    model = SpatialMLLMForConditionalGeneration.from_pretrained(folder)
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen)
    types = model.model.token_types(batch["input_ids"])
    theirs = plain(**batch, mm_token_type_ids=types).logits
    assert model.dtype == torch.float32
    assert torch.equal(model(**batch).logits, theirs)


@pytest.mark.parametrize("name", ["v1.1", "v1.0"])
@torch.no_grad()
def test_geometry_comes_in_once_the_last_layer_is_trained(
    merges: Callable[[str], Merge], batch: dict[str, torch.Tensor], name: str
) -> None:
    model = SpatialMLLMForConditionalGeneration.from_pretrained(merges(name).folder)
    before = model(**batch).logits
    last_layer(model).weight.normal_(0, 0.1)
    assert (model(**batch).logits - before).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "kind"), [("v1.1", "mlp_add"), ("v1.0", "merger")])
def test_only_the_last_layer_of_the_connector_is_zero(merges: Callable[[str], Merge], name: str, kind: str) -> None:
    model = SpatialMLLMForConditionalGeneration.from_pretrained(merges(name).folder)
    assert model.config.connector_config.connector_type == kind
    last = last_layer(model)
    assert not last.weight.any()
    assert not last.bias.any()
    spread = model.config.text_config.initializer_range
    for key, weight in model.model.connector.named_parameters():
        if weight is last.weight or weight is last.bias:
            continue
        if key.endswith("bias"):
            assert not weight.any(), key
        elif weight.ndim == 1:
            assert (weight == 1).all(), key
        else:
            assert weight.std().item() == pytest.approx(spread, rel=0.05), key
            assert abs(weight.mean().item()) < spread / 10, key


def test_new_weights_are_told_from_taken_ones(merges: Callable[[str], Merge]) -> None:
    report = merges("v1.1").report
    new = {row.target: row.reason for row in report.rows if row.fate == "new"}
    assert set(new) == {
        "connector.ln_q.weight",
        *(f"connector.mlp.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")),
    }
    zero = {name for name, reason in new.items() if "at zero" in reason}
    assert zero == {"connector.mlp.2.weight", "connector.mlp.2.bias"}


# --- weights ---


@pytest.mark.parametrize("name", ["v1.1", "v1.0", "untied"])
def test_the_backbones_are_in_it_bit_for_bit(merges: Callable[[str], Merge], vggt: Path, name: str) -> None:
    qwen, folder, report = merges(name)
    written = weights_of(folder)
    spatial = {f"spatial_encoder.vggt_model.{key}": tensor for key, tensor in weights_of(vggt).items()}
    connector = {key: tensor for key, tensor in written.items() if key.startswith("connector.")}
    assert_same_bits(written, {**weights_of(qwen), **spatial, **connector})
    assert len(connector) == {"v1.1": 5, "v1.0": 10, "untied": 5}[name]
    assert ("lm_head.weight" in written) == (name == "untied")
    assert Counter(sources_of(report)) == Counter([*weights_of(qwen), *weights_of(vggt)])


def test_an_untied_head_stays_untied(merges: Callable[[str], Merge]) -> None:
    model = SpatialMLLMForConditionalGeneration.from_pretrained(merges("untied").folder)
    assert not model.config.tie_word_embeddings
    assert not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


def test_a_tied_head_that_is_in_the_file_all_the_same_is_left_out(qwen_copy: Path, vggt: Path, tmp_path: Path) -> None:
    embeddings = weights_of(qwen_copy)["model.embed_tokens.weight"]
    change_weights(qwen_copy, {"lm_head.weight": embeddings})
    report = merge(Checkpoint(qwen_copy), Checkpoint(vggt), tmp_path / "out")
    (dropped,) = [row for row in report.rows if row.fate == "dropped"]
    assert (dropped.source, dropped.part) == ("lm_head.weight", "head")
    assert "the same as the embeddings" in dropped.reason
    assert "lm_head.weight" not in weights_of(tmp_path / "out")


def test_names_of_transformers_5_become_public_ones(merges: Callable[[str], Merge]) -> None:
    qwen, folder, report = merges("names of transformers 5, sharded")
    assert all(name.startswith("model.") for name in weights_of(qwen))
    assert len(list(qwen.glob("*.safetensors"))) > 1
    assert_same_bits(weights_of(folder), weights_of(merges("v1.1").folder))
    assert report.sources[0]["format"] == "transformers"
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def test_types_change_on_the_way(plain_qwen: Path, vggt: Path, merged: Path, tmp_path: Path) -> None:
    """bfloat16, the default; new weights are those of float32, rounded."""
    report = merge(Checkpoint(plain_qwen), Checkpoint(vggt), tmp_path / "out")
    assert_same_bits(
        weights_of(tmp_path / "out"),
        {name: tensor.to(torch.bfloat16) for name, tensor in weights_of(merged).items()},
    )
    assert report.dtype == {"bfloat16": sum(tensor.numel() for tensor in weights_of(merged).values())}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    model = SpatialMLLMForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_without_a_type_each_weight_keeps_its_own(qwen_copy: Path, vggt: Path, tmp_path: Path) -> None:
    change_weights(qwen_copy, {name: tensor.half() for name, tensor in weights_of(qwen_copy).items()})
    report = merge(Checkpoint(qwen_copy), Checkpoint(vggt), tmp_path / "out", dtype=None)
    types = {name.split(".")[0]: tensor.dtype for name, tensor in weights_of(tmp_path / "out").items()}
    assert types == {
        "model": torch.float16,
        "visual": torch.float16,
        "spatial_encoder": torch.float32,
        "connector": torch.float32,
    }
    assert report.dtype.keys() == {"float16", "float32"}


def test_the_seed_decides_the_connector(plain_qwen: Path, vggt: Path) -> None:
    def connector(seed: int) -> dict[str, torch.Tensor]:
        plan = plan_merge(Checkpoint(plain_qwen), Checkpoint(vggt), dtype=None, seed=seed)
        return {
            tensor.name: torch.cat(list(tensor.pieces())).reshape(tensor.shape)
            for tensor in plan.tensors
            if tensor.name.startswith("connector.")
        }

    assert_same_bits(connector(0), connector(0))
    first, other = connector(0), connector(1)
    assert [name for name in first if not torch.equal(first[name], other[name])] == ["connector.mlp.0.weight"]


def test_two_merges_are_the_same_byte_for_byte(merged: Path, plain_qwen: Path, vggt: Path, tmp_path: Path) -> None:
    merge(Checkpoint(plain_qwen), Checkpoint(vggt), tmp_path / "out", dtype=torch.float32)
    again = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert again == {path.name: path.read_bytes() for path in merged.iterdir()}


@pytest.mark.parametrize("path", [".", "model.pt"])
def test_vggt_may_come_as_a_pt_file(merged: Path, plain_qwen: Path, vggt: Path, tmp_path: Path, path: str) -> None:
    """As its older release does, zipped; of tensors or of parameters."""
    weights: dict[str, torch.Tensor] = weights_of(vggt)
    if path == "model.pt":
        weights = {name: torch.nn.Parameter(tensor) for name, tensor in weights.items()}
    source = tmp_path / "vggt"
    source.mkdir()
    shutil.copy(vggt / "config.json", source)
    torch.save(weights, source / "model.pt")
    merge(Checkpoint(plain_qwen), Checkpoint(source / path, allow_pt=True), tmp_path / "out", dtype=torch.float32)
    assert (tmp_path / "out" / SINGLE).read_bytes() == (merged / SINGLE).read_bytes()


# --- heads ---


@pytest.mark.parametrize(("name", "kept"), [("points", ["points"]), ("no heads", [])])
def test_heads_that_are_not_asked_for_are_left_out(
    merges: Callable[[str], Merge], vggt: Path, name: str, kept: list[str]
) -> None:
    _, folder, report = merges(name)
    prefixes = {"camera": "camera_head.", "depth": "depth_head.", "points": "point_head."}
    left_out = {head: prefix for head, prefix in prefixes.items() if head not in kept}
    for head, prefix in left_out.items():
        rows = [row for row in report.rows if row.source is not None and row.source.startswith(prefix)]
        assert {row.source for row in rows} == {key for key in weights_of(vggt) if key.startswith(prefix)}
        assert {row.reason for row in rows} == {f"the {head} head is not among the heads asked for"}
        assert {row.fate for row in rows} == {"dropped"}
    assert report.totals()["dropped"]["weights"] == sum(
        key.startswith(tuple(left_out.values())) for key in weights_of(vggt)
    )
    model, info = SpatialMLLMForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert list(model.config.spatial_config.heads) == kept
    assert inspect_checkpoint(folder).heads == kept
    assert inspect_checkpoint(folder).missing == []


def test_a_note_says_what_sampling_needs_without_points(plain_qwen: Path, vggt: Path) -> None:
    def notes(*heads: str) -> list[str]:
        return plan_merge(Checkpoint(plain_qwen), Checkpoint(vggt), heads=heads).notes

    assert notes("points") == []
    assert re.search("geometry_source='depth'", *notes("depth", "camera"))
    assert re.search("cannot choose frames itself", *notes("camera"))


def test_the_point_tracker_is_left_out_with_its_reason(
    merged: Path, plain_qwen: Path, vggt_copy: Path, tmp_path: Path
) -> None:
    change_weights(vggt_copy, TRACK_HEAD)
    report = merge(Checkpoint(plain_qwen), Checkpoint(vggt_copy), tmp_path / "out", dtype=torch.float32)
    dropped = {row.source: row.reason for row in report.rows if row.fate == "dropped"}
    assert dropped.keys() == TRACK_HEAD.keys()
    assert all("point tracker" in reason for reason in dropped.values())
    assert (tmp_path / "out" / SINGLE).read_bytes() == (merged / SINGLE).read_bytes()


# --- the rest of the folder ---


def test_the_folder_is_complete(merged: Path, plain_qwen: Path) -> None:
    facts = inspect_checkpoint(merged)
    assert facts.missing == []
    assert facts.layout == "v1.1"
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (merged / name).read_bytes() == (plain_qwen / name).read_bytes(), name
    assert (merged / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert (merged / "README.md").read_text().startswith("---\n")
    ours, theirs = AutoProcessor.from_pretrained(merged), AutoProcessor.from_pretrained(plain_qwen)
    assert type(ours) is SpatialMLLMProcessor
    assert ours.tokenizer.encode("<|im_start|>Wo?") == theirs.tokenizer.encode("<|im_start|>Wo?")
    assert ours.image_processor.size == theirs.image_processor.size
    assert (
        GenerationConfig.from_pretrained(merged).to_diff_dict()
        == GenerationConfig.from_pretrained(plain_qwen).to_diff_dict()
    )


def test_the_configuration_is_that_of_both(merged: Path, plain_qwen: Path, vggt: Path) -> None:
    model = SpatialMLLMForConditionalGeneration.from_pretrained(merged)
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(plain_qwen)
    ours, theirs = model.config.text_config.to_dict(), plain.config.text_config.to_dict()
    assert ours == theirs
    assert model.config.vision_config.to_dict() == plain.config.vision_config.to_dict()
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        assert getattr(model.config, name) == getattr(plain.config, name)
    for name, value in json.loads((vggt / "config.json").read_text()).items():
        assert getattr(model.config.spatial_config, name) == value
    assert json.loads((merged / "config.json").read_text())["architectures"] == [type(model).__name__]


def test_vggt_can_be_read_out_of_it(merged: Path, vggt: Path) -> None:
    assert_same_bits(dict(VGGTModel.from_pretrained(merged).state_dict()), weights_of(vggt))


def test_licences_go_along_under_the_names_of_their_sources(qwen_copy: Path, vggt_copy: Path, tmp_path: Path) -> None:
    (qwen_copy / "LICENSE").write_text("of Qwen")
    (vggt_copy / "LICENSE.txt").write_text("of VGGT")
    (vggt_copy / "NOTICE").write_text("to note")
    (qwen_copy / "README.md").write_text("---\nlicense: other\nlicense_name: qwen-research\n---\n# Qwen\n")
    (vggt_copy / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# VGGT\n")
    report = merge(Checkpoint(qwen_copy), Checkpoint(vggt_copy), tmp_path / "out")
    kept = {path.name: path.read_text() for path in (tmp_path / "out").iterdir() if path.name[:3] in ("LIC", "NOT")}
    assert kept == {"LICENSE.qwen2_5_vl": "of Qwen", "LICENSE.txt.vggt": "of VGGT", "NOTICE.vggt": "to note"}
    assert report.sources == [
        {"name": "qwen", "format": "qwen2.5-vl", "licence": "qwen-research"},
        {"name": "vggt", "format": "vggt", "licence": "cc-by-nc-4.0"},
    ]


def test_a_tokenizer_is_missed_and_generation_settings_are_made(qwen_copy: Path, vggt: Path, tmp_path: Path) -> None:
    (qwen_copy / "tokenizer.json").unlink()
    (qwen_copy / "generation_config.json").unlink()
    report = merge(Checkpoint(qwen_copy), Checkpoint(vggt), tmp_path / "out")
    assert re.search("qwen has no tokenizer or no image settings", *report.notes)
    assert {"tokenizer", "processor settings"} <= set(inspect_checkpoint(tmp_path / "out").missing)
    settings = GenerationConfig.from_pretrained(tmp_path / "out")
    ids = json.loads((qwen_copy / "config.json").read_text())["text_config"]
    assert (settings.eos_token_id, settings.pad_token_id) == (ids["eos_token_id"], ids["pad_token_id"])


# --- mistakes ---


def test_backbones_in_each_others_place_are_told(plain_qwen: Path, vggt: Path, v1_1: Path, v1_0: Path) -> None:
    not_qwen = r"is not a Qwen2\.5-VL: its config\.json says {} and its weights are of format {}"
    for source, says in (
        (vggt, not_qwen.format("None", "vggt")),
        (v1_1, not_qwen.format("'spatial-mllm'", "v1.1")),
        (v1_0, not_qwen.format("'qwen2_5_vl'", "v1.0")),
    ):
        with pytest.raises(ValueError, match=says) as raised:
            plan_merge(Checkpoint(source), Checkpoint(vggt))
        assert str(source) in str(raised.value)
    for source, layout in ((plain_qwen, "qwen2.5-vl"), (v1_1, "v1.1"), (v1_0, "v1.0")):
        with pytest.raises(ValueError, match=rf"is of format {layout}, not VGGT's own. .*extract-vggt") as raised:
            plan_merge(Checkpoint(plain_qwen), Checkpoint(source))
        assert str(source) in str(raised.value)


def test_an_unknown_connector_is_named(plain_qwen: Path, vggt: Path) -> None:
    with pytest.raises(ValueError, match=r"connector must be one of \['v1.1', 'v1.0'\], got 'v2'"):
        plan_merge(Checkpoint(plain_qwen), Checkpoint(vggt), connector="v2")  # type: ignore[arg-type]


def test_weights_of_another_size_than_the_configuration_are_named(qwen_copy: Path, vggt_copy: Path) -> None:
    change_weights(vggt_copy, {"aggregator.camera_token": torch.ones(1, 2, 1, 33)})
    says = r"'aggregator.camera_token' has shape \[1, 2, 1, 33\], but the configuration makes it \[1, 2, 1, 32\]"
    with pytest.raises(ValueError, match=says):
        plan_merge(Checkpoint(qwen_copy), Checkpoint(vggt_copy))


def test_vggts_sizes_that_do_not_fit_qwens_are_named(plain_qwen: Path, vggt_copy: Path) -> None:
    change_json(vggt_copy / "config.json", patch_size=16, img_size=64)
    with pytest.raises(ValueError, match=r"patch_size=16 and vision_config\.patch_size=14 must be equal"):
        plan_merge(Checkpoint(plain_qwen), Checkpoint(vggt_copy))


def test_a_vggt_without_a_head_that_is_asked_for_is_told(plain_qwen: Path, vggt_copy: Path, tmp_path: Path) -> None:
    points = [name for name in weights_of(vggt_copy) if name.startswith("point_head.")]
    weights = {name: tensor for name, tensor in weights_of(vggt_copy).items() if name not in points}
    (vggt_copy / SINGLE).unlink()
    change_weights(vggt_copy, weights)
    with pytest.raises(ValueError, match=rf"{len(points)} weights are missing, .*name those it has with --heads"):
        plan_merge(Checkpoint(plain_qwen), Checkpoint(vggt_copy))
    merge(Checkpoint(plain_qwen), Checkpoint(vggt_copy), tmp_path / "out", heads=["camera", "depth"])
    assert inspect_checkpoint(tmp_path / "out").heads == ["camera", "depth"]
    assert logits_of(tmp_path / "out", {"input_ids": torch.tensor([[1, 2]])}).isfinite().all()
