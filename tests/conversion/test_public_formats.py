"""Round trips between the public formats and ours, bit for bit."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_files import (
    CHAT_TEMPLATE,
    OLD_IMAGE_SETTINGS,
    REMOVED,
    SINGLE,
    assert_same_bits,
    bytes_of,
    change_json,
    change_weights,
    copy_folder,
    header_size,
    reference_inputs,
    split_into_shards,
    weights_of,
)
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from spatial_mllm_hf import (
    SpatialMLLMConfig,
    SpatialMLLMForConditionalGeneration,
    SpatialMLLMModel,
    SpatialMLLMProcessor,
    VGGTModel,
)
from spatial_mllm_hf.conversion.checkpoint_reading import Checkpoint
from spatial_mllm_hf.conversion.inspection import inspect_checkpoint
from spatial_mllm_hf.conversion.public_formats import flat_config
from spatial_mllm_hf.conversion.verification import compare
from spatial_mllm_hf.hub.checkpoint_folders import extract_vggt, from_official, merge, to_official

TRACK_HEAD = {
    "spatial_encoder.vggt_model.track_head.tracker.a": torch.arange(6.0).reshape(2, 3),
    "spatial_encoder.vggt_model.track_head.b": torch.arange(4),
}
# What official code ignores or reads the same in either form.
WRITTEN_DIFFERENTLY = {"transformers_version", "rope_scaling"}


@pytest.fixture(scope="module")
def ours(public_v1_1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Public v1.1, made ours."""
    folder = tmp_path_factory.mktemp("from_official") / "ours"
    from_official(Checkpoint(public_v1_1), folder)
    return folder


@pytest.fixture(scope="module")
def ours_of_v1_0(v1_0: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Public v1.0, made ours."""
    folder = tmp_path_factory.mktemp("from_official") / "ours_of_v1_0"
    from_official(Checkpoint(v1_0), folder)
    return folder


@pytest.fixture(scope="module")
def back(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ours`, made public again."""
    folder = tmp_path_factory.mktemp("to_official") / "back"
    to_official(Checkpoint(ours), folder)
    return folder


def payload(folder: Path) -> bytes:
    """The bytes of a weight file after its header."""
    return (folder / SINGLE).read_bytes()[header_size(folder / SINGLE) :]


# --- v1.1 ---


def test_v1_1_goes_in_and_out_bit_for_bit(public_v1_1: Path, ours: Path, back: Path) -> None:
    assert_same_bits(weights_of(ours), weights_of(public_v1_1))
    assert_same_bits(weights_of(back), weights_of(public_v1_1))
    assert payload(ours) == payload(back) == payload(public_v1_1)


def test_tokenizer_and_settings_of_v1_1_come_back_as_they_were(public_v1_1: Path, ours: Path, back: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (ours / name).read_bytes() == (public_v1_1 / name).read_bytes(), name
        assert (back / name).read_bytes() == (public_v1_1 / name).read_bytes(), name
    image = json.loads((back / "preprocessor_config.json").read_text())
    assert {name: image[name] for name in OLD_IMAGE_SETTINGS} == OLD_IMAGE_SETTINGS
    assert json.loads((back / "chat_template.json").read_text()) == {"chat_template": CHAT_TEMPLATE}
    assert not {"processor_config.json", "chat_template.jinja"} & {path.name for path in back.iterdir()}


def test_tokenizer_settings_of_transformers_5_are_written_in_the_older_form(merged: Path, tmp_path: Path) -> None:
    to_official(Checkpoint(merged), tmp_path / "out")
    ours, old = (json.loads((path / "tokenizer_config.json").read_text()) for path in (merged, tmp_path / "out"))
    assert not {"backend", "extra_special_tokens", "processor_class", "auto_map"} & old.keys()
    assert old["additional_special_tokens"] == ours["extra_special_tokens"]
    assert old["tokenizer_class"] == "Qwen2TokenizerFast"
    assert {old[name] == ours[name] for name in ("eos_token", "pad_token", "model_max_length")} == {True}
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (merged / "tokenizer.json").read_bytes()
    image = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert image["image_processor_type"] == "Qwen2VLImageProcessor"
    assert json.loads((tmp_path / "out" / "chat_template.json").read_text()) == {"chat_template": CHAT_TEMPLATE}


def test_config_of_v1_1_comes_back_with_every_key(public_v1_1: Path, back: Path) -> None:
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (public_v1_1, back))
    lost = {name: value for name, value in before.items() if after.get(name) != value}
    assert set(lost) <= WRITTEN_DIFFERENTLY
    assert after["rope_scaling"] == {"type": "mrope", "mrope_section": before["rope_scaling"]["mrope_section"]}
    assert "text_config" not in after  # transformers 4.51 wants the language model's fields at the top
    assert "auto_map" not in after


def test_config_of_v1_1_means_the_same_when_it_comes_back(public_v1_1: Path, ours: Path, back: Path) -> None:
    def meaning(folder: Path) -> dict:
        config = SpatialMLLMConfig.from_pretrained(folder).to_dict()
        config["text_config"]["rope_parameters"].pop("type", None)
        left_out = ("_name_or_path", "transformers_version", "auto_map", "vision_token_id")
        return {name: value for name, value in config.items() if name not in left_out}

    assert meaning(ours) == meaning(public_v1_1)
    assert meaning(back) == meaning(public_v1_1)


def test_sizes_that_are_not_the_default_are_written_for_the_official_code(ours: Path, tmp_path: Path) -> None:
    source = copy_folder(ours, tmp_path / "source")
    change_json(source / "config.json", connector_config={"connector_type": "mlp_add", "spatial_embeds_layer_idx": 1})
    to_official(Checkpoint(source), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["connector_config"] == {"connector_type": "mlp_add", "spatial_embeds_layer_idx": 1}


def test_ours_of_v1_1_is_complete_and_works(public_v1_1: Path, ours: Path, v1_1: Path) -> None:
    assert inspect_checkpoint(ours).missing == []
    model = AutoModelForImageTextToText.from_pretrained(ours)
    original = SpatialMLLMForConditionalGeneration.from_pretrained(public_v1_1)
    inputs = reference_inputs(v1_1)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, original(**inputs).logits)
    processor = AutoProcessor.from_pretrained(ours)
    assert type(processor) is SpatialMLLMProcessor
    size = {"shortest_edge": OLD_IMAGE_SETTINGS["min_pixels"], "longest_edge": OLD_IMAGE_SETTINGS["max_pixels"]}
    assert dict(processor.image_processor.size) == size
    assert processor.chat_template == CHAT_TEMPLATE


def test_what_is_ours_already_stays_the_same(ours: Path, tmp_path: Path) -> None:
    from_official(Checkpoint(ours), tmp_path / "again")
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    before = {path.name: path.read_bytes() for path in ours.iterdir()}
    assert again.keys() == before.keys()
    named = ("conversion_report.json", "README.md")  # say what it was made of
    assert [name for name in before if again[name] != before[name] and name not in named] == []


def test_shards_and_names_of_transformers_5_are_read(v1_1: Path, tmp_path: Path) -> None:
    model = SpatialMLLMForConditionalGeneration.from_pretrained(v1_1)
    model.save_pretrained(tmp_path / "new names", save_original_format=False, max_shard_size="1MB")
    assert len(list((tmp_path / "new names").glob("model-*.safetensors"))) > 1
    report = from_official(Checkpoint(tmp_path / "new names"), tmp_path / "out")
    assert report.sources[0]["format"] == "transformers"
    assert_same_bits(weights_of(tmp_path / "out"), weights_of(v1_1))


@pytest.mark.parametrize("convert", [from_official, to_official, extract_vggt])
def test_types_change_on_the_way(convert: Callable, v1_1: Path, tmp_path: Path) -> None:
    convert(Checkpoint(v1_1), tmp_path / "half", dtype=torch.bfloat16)
    expected = {name: tensor.to(torch.bfloat16) for name, tensor in weights_of(v1_1).items()}
    if convert is extract_vggt:
        prefix = "spatial_encoder.vggt_model."
        expected = {name.removeprefix(prefix): expected[name] for name in expected if name.startswith(prefix)}
    assert_same_bits(weights_of(tmp_path / "half"), expected)
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    if convert is not extract_vggt:
        assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"


def test_a_checkpoint_of_two_types_keeps_both(v1_1: Path, tmp_path: Path) -> None:
    source = copy_folder(v1_1, tmp_path / "source")
    halves = {name: tensor.half() for name, tensor in weights_of(v1_1).items() if name.startswith("visual.")}
    change_weights(source, halves)
    split_into_shards(source)
    from_official(Checkpoint(source), tmp_path / "out")
    assert_same_bits(weights_of(tmp_path / "out"), {**weights_of(v1_1), **halves})


# --- v1.0 ---


def test_v1_0_answers_as_before_and_as_the_public_code(v1_0: Path, ours_of_v1_0: Path) -> None:
    inputs = reference_inputs(v1_0)
    spatial = json.loads((v1_0 / "spatial_config.json").read_text())
    original = SpatialMLLMForConditionalGeneration.from_pretrained(v1_0, spatial_config=spatial)
    model = SpatialMLLMForConditionalGeneration.from_pretrained(ours_of_v1_0)
    with torch.no_grad():
        logits = model(**inputs).logits
        assert torch.equal(logits, original(**inputs).logits)
    kept = inputs["attention_mask"].bool()
    wanted = load_file(v1_0 / "outputs.safetensors")["logits"]
    torch.testing.assert_close(logits[kept], wanted[kept], atol=1e-4, rtol=0)


def test_v1_0_is_written_under_v1_1_names(v1_0: Path, ours_of_v1_0: Path) -> None:
    names = set(weights_of(ours_of_v1_0))
    assert {name.split(".")[0] for name in names} == {"model", "visual", "spatial_encoder", "connector"}
    assert len(names) == len(weights_of(v1_0))
    config = json.loads((ours_of_v1_0 / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("spatial-mllm", ["SpatialMLLMForConditionalGeneration"])
    assert config["connector_config"]["connector_type"] == "merger"


def test_v1_0_goes_back_to_its_own_names_bit_for_bit(v1_0: Path, ours_of_v1_0: Path, tmp_path: Path) -> None:
    report = to_official(Checkpoint(ours_of_v1_0), tmp_path / "back")
    assert_same_bits(weights_of(tmp_path / "back"), weights_of(v1_0))
    assert report.target_format == "v1.0"
    assert any("connector is v1.0's" in note for note in report.notes)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    public = json.loads((v1_0 / "config.json").read_text())
    assert {name: config[name] for name in ("model_type", "architectures")} == {
        name: public[name] for name in ("model_type", "architectures")
    }
    assert "connector_config" not in config
    again = SpatialMLLMForConditionalGeneration.from_pretrained(tmp_path / "back")
    assert_same_bits(
        dict(again.state_dict()), dict(SpatialMLLMForConditionalGeneration.from_pretrained(ours_of_v1_0).state_dict())
    )


def test_v1_0_of_vggt_1bs_size_has_no_configuration_for_it(v1_0: Path, tmp_path: Path) -> None:
    """As the public files have none."""
    settings = {**json.loads((v1_0 / "config.json").read_text()), "model_type": "spatial-mllm"}
    assert "spatial_config" not in flat_config(SpatialMLLMConfig(**settings), "v1.0")
    spatial = json.loads((v1_0 / "spatial_config.json").read_text())
    assert flat_config(SpatialMLLMConfig(**settings, spatial_config=spatial), "v1.0")["spatial_config"] == spatial


# --- heads ---


def test_heads_can_be_left_out_and_are_not_expected_again(v1_1: Path, tmp_path: Path) -> None:
    report = from_official(Checkpoint(v1_1), tmp_path / "points", heads=["points"])
    reasons = {row.reason for row in report.rows if row.fate == "dropped"}
    assert reasons == {f"the {head} head is not among the heads asked for" for head in ("camera", "depth")}
    assert inspect_checkpoint(tmp_path / "points").heads == ["points"]
    public = to_official(Checkpoint(tmp_path / "points"), tmp_path / "public")
    assert any(re.search(r"Without the heads \['camera', 'depth'\]", note) for note in public.notes)
    assert json.loads((tmp_path / "public" / "config.json").read_text())["spatial_config"]["heads"] == ["points"]
    from_official(Checkpoint(tmp_path / "public"), tmp_path / "again")
    assert_same_bits(weights_of(tmp_path / "again"), weights_of(tmp_path / "points"))
    # What is not there cannot be asked for.
    with pytest.raises(ValueError, match=r"weights are missing, such as 'spatial_encoder\.vggt_model\.camera_head"):
        from_official(Checkpoint(tmp_path / "points"), tmp_path / "out", heads=["points", "camera"])


# --- VGGT out of it ---


@pytest.fixture(scope="module", params=["v1.1", "v1.0"])
def extracted(
    request: pytest.FixtureRequest, v1_1: Path, v1_0: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A Spatial-MLLM, and the VGGT that was taken out of it."""
    source = {"v1.1": v1_1, "v1.0": v1_0}[request.param]
    folder = tmp_path_factory.mktemp("vggt") / "extracted"
    extract_vggt(Checkpoint(source), folder)
    return source, folder


def test_vggt_comes_out_in_its_own_layout(extracted: tuple[Path, Path]) -> None:
    source, folder = extracted
    inside = {
        re.sub(r"^(spatial_encoder\.vggt_model|vggt)\.", "", name): tensor
        for name, tensor in weights_of(source).items()
        if name.startswith(("spatial_encoder.", "vggt."))
    }
    assert_same_bits(weights_of(folder), inside)
    assert {path.name for path in folder.iterdir()} == {"config.json", SINGLE, "conversion_report.json"}
    assert inspect_checkpoint(folder).layout == "vggt"
    assert inspect_checkpoint(folder).missing == []


def test_vggt_that_was_taken_out_loads_and_merges(
    extracted: tuple[Path, Path], plain_qwen: Path, tmp_path: Path
) -> None:
    _, folder = extracted
    model = VGGTModel.from_pretrained(folder)
    assert_same_bits(dict(model.state_dict()), weights_of(folder))
    merge(Checkpoint(plain_qwen), Checkpoint(folder), tmp_path / "again", dtype=torch.float32)
    extract_vggt(Checkpoint(tmp_path / "again"), tmp_path / "out again")
    assert_same_bits(weights_of(tmp_path / "out again"), weights_of(folder))
    configs = [json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "out again")]
    assert configs[0] == configs[1]


def test_vggt_of_a_merge_is_the_one_that_went_in(merged: Path, vggt: Path, tmp_path: Path) -> None:
    extract_vggt(Checkpoint(merged), tmp_path / "out")
    assert payload(tmp_path / "out") == payload(vggt)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == json.loads((vggt / "config.json").read_text())


def test_the_point_tracker_is_kept_where_it_is_there(v1_1: Path, tmp_path: Path) -> None:
    source = copy_folder(v1_1, tmp_path / "source")
    change_weights(source, TRACK_HEAD)
    report = extract_vggt(Checkpoint(source), tmp_path / "out")
    written = weights_of(tmp_path / "out")
    assert bytes_of(written["track_head.tracker.a"]) == bytes_of(torch.arange(6.0))
    assert written["track_head.b"].dtype == torch.int64
    dropped = [row for row in report.rows if row.fate == "dropped"]
    assert {row.part for row in dropped} == {"vision", "language", "connector"}
    assert {row.reason for row in dropped} == {"not VGGT's"}
    half = extract_vggt(Checkpoint(source), tmp_path / "half", dtype=torch.float16)
    assert half.dtype.keys() == {"float16", "int64"}


def test_a_vggt_that_is_not_whole_does_not_come_out(v1_1: Path, tmp_path: Path) -> None:
    source = copy_folder(v1_1, tmp_path / "source")
    name = "spatial_encoder.vggt_model.aggregator.camera_token"
    change_weights(source, {name: REMOVED})
    with pytest.raises(ValueError, match=r"source lacks 1 weights of VGGT, such as 'aggregator.camera_token'"):
        extract_vggt(Checkpoint(source), tmp_path / "out")
    change_weights(source, {name: torch.ones(1, 2, 1, 31)})
    with pytest.raises(
        ValueError, match=r"'aggregator.camera_token' has shape \[1, 2, 1, 31\], but .* \[1, 2, 1, 32\]"
    ):
        extract_vggt(Checkpoint(source), tmp_path / "out")


# --- mistakes ---


@pytest.mark.parametrize("convert", [from_official, to_official, extract_vggt])
def test_what_is_no_spatial_mllm_is_told_with_the_way_to_make_one(
    convert: Callable, plain_qwen: Path, vggt: Path, tmp_path: Path
) -> None:
    for source, layout in ((plain_qwen, "qwen2.5-vl"), (vggt, "vggt")):
        with pytest.raises(ValueError, match=rf"is of format {re.escape(layout)}, not a Spatial-MLLM.*convert merge"):
            convert(Checkpoint(source), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_without_a_configuration_nothing_is_guessed(v1_1: Path, tmp_path: Path) -> None:
    source = copy_folder(v1_1, tmp_path / "source")
    (source / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json, which says what its weights are"):
        from_official(Checkpoint(source), tmp_path / "out")


def test_without_a_tokenizer_a_note_says_so(v1_1: Path, tmp_path: Path) -> None:
    for convert in (from_official, to_official):
        report = convert(Checkpoint(v1_1), tmp_path / convert.__name__)
        assert any("official_v11_tiny has no tokenizer" in note for note in report.notes)
    assert "tokenizer" in inspect_checkpoint(tmp_path / "from_official").missing


def test_an_unknown_connector_is_named(v1_1: Path, tmp_path: Path) -> None:
    source = copy_folder(v1_1, tmp_path / "source")
    change_json(source / "config.json", connector_config={"connector_type": "os.path"})
    with pytest.raises(ValueError, match=r"unknown connector_type 'os.path', expected one of \['mlp_add', 'merger'\]"):
        from_official(Checkpoint(source), tmp_path / "out")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "64"),
        ("spatial_config", {"embed_dim": "32"}),
        ("spatial_config", 5),
        ("vision_config", [1]),
    ],
)
def test_a_configuration_of_wrong_values_is_a_mistake_that_is_named(
    v1_1: Path, tmp_path: Path, field: str, value: object
) -> None:
    source = copy_folder(v1_1, tmp_path / "source")
    change_json(source / "config.json", **{field: value})
    with pytest.raises(ValueError, match=r"config"):
        from_official(Checkpoint(source), tmp_path / "out")


# Settings that are carried over into the new folder, where transformers would follow them.
@pytest.mark.parametrize("file", ["tokenizer_config.json", "generation_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("code", ["../evil.Class", "someone/repo--evil_spatial_mllm.Class"])
@pytest.mark.parametrize("convert", [from_official, to_official])
def test_settings_that_ask_for_foreign_code_are_refused(
    public_v1_1: Path, tmp_path: Path, file: str, code: str, convert: Callable
) -> None:
    source = copy_folder(public_v1_1, tmp_path / "source")
    change_json(source / file, auto_map={"AutoTokenizer": [code, None], "AutoImageProcessor": code})
    with pytest.raises(ValueError, match=rf"{file} asks for code of its own") as raised:
        convert(Checkpoint(source), tmp_path / "out")
    assert repr(code) in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("file", ["processor_config.json", "video_preprocessor_config.json"])
def test_newer_settings_of_a_processor_are_looked_at_too(public_v1_1: Path, tmp_path: Path, file: str) -> None:
    source = copy_folder(public_v1_1, tmp_path / "source")
    change_json(source / file, image_processor={"auto_map": {"AutoImageProcessor": "evil.Class"}})
    with pytest.raises(ValueError, match=rf"{file} asks for code of its own"):
        from_official(Checkpoint(source), tmp_path / "out")


def test_nobody_is_asked_whether_to_run_foreign_code(
    public_v1_1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers asks on the terminal where an image processor is not its own; a yes would run it."""
    source = copy_folder(public_v1_1, tmp_path / "source")
    settings = {"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "evil.Evil"}}
    change_json(source / "preprocessor_config.json", **settings)
    (source / "evil.py").write_text(f"import os\nos.makedirs({str(tmp_path / 'witness')!r})\n")
    monkeypatch.setattr("builtins.input", lambda _="": "y")
    with pytest.raises(ValueError, match="asks for code of its own"):
        from_official(Checkpoint(source), tmp_path / "out")
    assert not (tmp_path / "witness").exists()


def test_a_quantised_checkpoint_is_refused(v1_1: Path, tmp_path: Path) -> None:
    source = copy_folder(v1_1, tmp_path / "source")
    change_json(source / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(
        ValueError, match=r"is quantised \(bitsandbytes\): convert the checkpoint that it was made from"
    ):
        from_official(Checkpoint(source), tmp_path / "out")
    assert inspect_checkpoint(source).quantisation == "bitsandbytes"


def test_what_the_headless_model_saves_is_taken_too(v1_1: Path, tmp_path: Path) -> None:
    SpatialMLLMModel.from_pretrained(v1_1).save_pretrained(tmp_path / "headless")
    from_official(Checkpoint(tmp_path / "headless"), tmp_path / "out")
    assert compare(Checkpoint(tmp_path / "out"), Checkpoint(v1_1)).same


def test_a_head_that_is_not_the_embeddings_is_not_dropped_as_if_it_were(v1_1: Path, tmp_path: Path) -> None:
    source = copy_folder(v1_1, tmp_path / "source")
    embeddings = weights_of(v1_1)["model.embed_tokens.weight"]
    change_weights(source, {"lm_head.weight": embeddings.clone()})
    assert from_official(Checkpoint(source), tmp_path / "same").reasons()["dropped"]
    change_weights(source, {"lm_head.weight": embeddings + 1})
    with pytest.raises(ValueError, match=r"says tie_word_embeddings, but 'lm_head\.weight' is not the embeddings"):
        from_official(Checkpoint(source), tmp_path / "other")


def test_what_the_public_layout_cannot_say_is_noted(v1_1: Path, tmp_path: Path) -> None:
    source = copy_folder(v1_1, tmp_path / "source")
    yarn = {"type": "yarn", "rope_type": "yarn", "factor": 2.0, "mrope_section": [2, 3, 3]}
    change_json(source / "config.json", spatial_fusion_scale=0.25, rope_scaling=yarn)
    report = to_official(Checkpoint(source), tmp_path / "out")
    assert any("spatial_fusion_scale" in note for note in report.notes)
    written, read = (SpatialMLLMConfig.from_pretrained(folder) for folder in (tmp_path / "out", source))
    assert written.spatial_fusion_scale == 0.25
    assert written.text_config.rope_parameters == read.text_config.rope_parameters


def test_attention_of_a_checkpoint_is_not_followed(v1_1: Path, tmp_path: Path) -> None:
    """A name with a slash is code on the Hub."""
    source = copy_folder(v1_1, tmp_path / "source")
    change_json(source / "config.json", attn_implementation="someone/kernel", _attn_implementation="someone/kernel")
    from_official(Checkpoint(source), tmp_path / "out")
    assert "someone" not in (tmp_path / "out" / "config.json").read_text()


def test_an_unknown_weight_of_vggt_is_not_extracted(v1_1: Path, tmp_path: Path) -> None:
    source = copy_folder(v1_1, tmp_path / "source")
    change_weights(source, {"spatial_encoder.vggt_model.bogus.weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"1 weights of VGGT are unknown, such as 'bogus\.weight'"):
        extract_vggt(Checkpoint(source), tmp_path / "out")
