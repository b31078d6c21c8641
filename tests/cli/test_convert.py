"""`spatial-mllm convert` and `inspect`: what they print and how they end, mistakes and damaged files above all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from checkpoint_files import (
    INDEX,
    REMOVED,
    SINGLE,
    assert_same_bits,
    change_index,
    change_json,
    change_weights,
    contents,
    copy_folder,
    split_into_shards,
    weights_of,
    write_evil_pt,
    write_plain_qwen,
    write_public_v1_1,
)

from spatial_mllm_hf.conversion.inspection import inspect_checkpoint

from .conftest import Command

SHARDS = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
NORM = "connector.ln_q.weight"


@pytest.fixture(scope="module")
def qwen(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete Qwen2.5-VL folder."""
    return write_plain_qwen(tmp_path_factory.mktemp("backbones") / "qwen", reference)


@pytest.fixture(scope="module")
def vggt(reference: Path) -> Path:
    return reference / "vggt_tiny"


@pytest.fixture(scope="module")
def public(reference: Path, qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Public v1.1 with its tokenizer."""
    return write_public_v1_1(tmp_path_factory.mktemp("public") / "v1_1", reference, qwen)


@pytest.fixture
def source(public: Path, tmp_path: Path) -> Path:
    """A copy of `public` to spoil."""
    return copy_folder(public, tmp_path / "source")


# --- what they do ---


def test_merge_writes_a_complete_folder(run: Command, qwen: Path, vggt: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("convert", "merge", "--qwen", qwen, "--vggt", vggt, "--out", out)
    assert result.code == 0
    assert result.err == ""
    lines = result.out.splitlines()
    taken, renamed = len(weights_of(qwen)), len(weights_of(vggt))
    table = {line.split()[0]: line.split()[1] for line in lines[1:9]}
    assert table | {"taken": str(taken), "renamed": str(renamed), "dropped": "0", "new": "5"} == table
    assert table["spatial"] == str(renamed)
    assert "new: 2 weights, last layer of the new connector, at zero: it adds nothing until it is trained" in lines
    assert lines[-1] == f"Wrote {out} (bfloat16). Every weight's account: conversion_report.json"
    assert {tensor.dtype for tensor in weights_of(out).values()} == {torch.bfloat16}
    assert inspect_checkpoint(out).missing == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_merge_takes_its_options(run: Command, qwen: Path, vggt: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--connector", "v1.0", "--dtype", "float32", "--heads", " depth, camera", "--max-shard-size", "1MB")
    result = run("convert", "merge", "--qwen", qwen, "--vggt", vggt / SINGLE, "-o", out, *options, "--json")
    assert result.code == 0
    report = json.loads(result.out)
    assert report == json.loads((out / "conversion_report.json").read_text())
    assert report["conversion"] == "merge"
    assert report["totals"]["new"]["weights"] == 10
    assert report["dtype"].keys() == {"float32"}
    facts = inspect_checkpoint(out)
    assert facts.heads == ["camera", "depth"]
    assert facts.connector is not None
    assert facts.connector.startswith("merger (v1.0)")
    assert len(list(out.glob("model-*.safetensors"))) > 2
    assert (out / INDEX).exists()


def test_there_and_back(run: Command, public: Path, tmp_path: Path) -> None:
    ours, back, vggt = tmp_path / "ours", tmp_path / "back", tmp_path / "vggt"
    assert run("convert", "from-official", public, "--out", ours).code == 0
    assert run("convert", "to-official", ours, "--out", back).code == 0
    assert run("convert", "extract-vggt", ours, "--out", vggt).code == 0
    assert_same_bits(weights_of(back), weights_of(public))
    result = run("convert", "verify", public, ours)
    assert result.code == 0
    assert result.out.splitlines() == ["   458 weights equal bit for bit", "The same model."]
    result = run("convert", "verify", ours, vggt, "--parts", "spatial")
    assert (result.code, result.out.splitlines()[-1]) == (0, "The same model.")
    assert run("convert", "verify", ours, vggt).code == 1


def test_types_change_on_the_way(run: Command, public: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    result = run("convert", "from-official", public, "--out", half, "--dtype", "bfloat16", "--heads", "points")
    assert result.code == 0
    assert "dropped: 62 weights, the depth head is not among the heads asked for" in result.out
    result = run("convert", "verify", public, half, "--parts", "vision,language,connector")
    assert result.code == 0
    assert "weights equal up to the rounding of their types" in result.out
    assert "bit for bit" not in result.out


def test_notes_are_printed(run: Command, reference: Path, tmp_path: Path) -> None:
    result = run("convert", "to-official", reference / "official_v10_tiny", "--out", tmp_path / "out")
    notes = [line for line in result.out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2
    assert "this is the v1.0 layout" in notes[0]
    assert "has no tokenizer" in notes[1]


def test_an_empty_folder_is_filled(run: Command, public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run("convert", "from-official", public, "--out", "out").code == 0
    assert_same_bits(weights_of(tmp_path / "out"), weights_of(public))


def test_without_strictness_what_is_unknown_is_left_out(run: Command, source: Path, tmp_path: Path) -> None:
    change_weights(source, {"connector.alien": torch.ones(1)})
    result = run("convert", "from-official", source, "--out", tmp_path / "out", "--no-strict")
    assert result.code == 0
    assert "dropped: 1 weights, unknown, left out because strict checking is off" in result.out


# --- verify ---


def test_verify_tells_what_differs(run: Command, public: Path, source: Path) -> None:
    norm = weights_of(public)[NORM]
    changes = {NORM: norm + 0.5, "connector.mlp.2.bias": torch.ones(3), "model.norm.weight": REMOVED}
    change_weights(source, {**changes, "connector.alien": torch.ones(1)})
    result = run("convert", "verify", public, source)
    assert result.code == 1
    assert result.err == ""
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert lines == [
        "455 weights equal bit for bit",
        "1 weights of other values",
        "1 weights of other shapes",
        f"1 weights only in {public}",
        f"1 weights only in {source}",
        "model.connector.ln_q.weight: differs by at most 0.5",
        "model.connector.mlp.2.bias: [64] and [3]",
        "model.language_model.norm.weight",
        "model.connector.alien",
        "Not the same model.",
    ]
    assert run("convert", "verify", public, source, "--parts", "vision,spatial").code == 0


def test_verify_gives_json(run: Command, public: Path, source: Path) -> None:
    same = run("convert", "verify", public, public, "--json")
    assert (same.code, json.loads(same.out)["same"]) == (0, True)
    norm = weights_of(public)[NORM].clone()
    norm[7] += 0.5
    change_weights(source, {NORM: norm})
    result = run("convert", "verify", public, source, "--json")
    told = json.loads(result.out)
    assert (result.code, told["same"]) == (1, False)
    assert told["different"] == {"model.connector.ln_q.weight": 0.5}
    assert len(told["equal"]) == 457


def test_verify_gives_json_that_others_read_too(run: Command, public: Path, source: Path) -> None:
    """Infinity and NaN are not JSON."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    change_weights(source, {NORM: torch.full((512,), float("nan"))})
    result = run("convert", "verify", public, source, "--json")
    told = json.loads(result.out, parse_constant=refuse)
    assert (result.code, told["same"]) == (1, False)
    assert told["different"].keys() == {"model.connector.ln_q.weight"}


def test_verify_names_an_unknown_part(run: Command, public: Path) -> None:
    result = run("convert", "verify", public, public, "--parts", "vision,legs")
    assert result.code == 2
    assert "parts must be some of" in result.error
    assert "['legs']" in result.error


# --- inspect ---


def test_inspect_says_what_it_is(run: Command, public: Path, qwen: Path, vggt: Path, reference: Path) -> None:
    result = run("inspect", public)
    assert result.code == 0
    lines = dict(line.split(maxsplit=1) for line in result.out.splitlines()[:6])
    assert lines["format"] == "Spatial-MLLM, v1.1 names"
    assert lines["types"] == "float32"
    assert lines["connector"] == "mlp_add (v1.1), reads layer -1 of VGGT"
    assert lines["heads"] == "camera, depth, points"
    assert lines["licences"] == "not stated by its files"
    assert lines["missing"].startswith("model card (README.md); code (")
    table = {line.split()[0]: line.split()[1:3] for line in result.out.splitlines()[8:13]}
    assert table["connector"] == ["5", f"{sum(t.numel() for n, t in weights_of(public).items() if n[:4] == 'conn'):,}"]
    assert table["all"] == ["458", f"{sum(tensor.numel() for tensor in weights_of(public).values()):,}"]
    titles = {
        qwen: "Qwen2.5-VL",
        vggt: "VGGT",
        reference / "official_v10_tiny": "Spatial-MLLM, public v1.0",
    }
    for folder, title in titles.items():
        assert run("inspect", folder).out.splitlines()[0].split(maxsplit=1)[1] == title


def test_inspect_gives_json(run: Command, public: Path) -> None:
    result = run("inspect", public, "--json")
    assert result.code == 0
    assert json.loads(result.out) == json.loads(json.dumps(inspect_checkpoint(public).to_dict()))


def test_inspect_says_that_a_merge_is_complete(run: Command, qwen: Path, vggt: Path, tmp_path: Path) -> None:
    assert run("convert", "merge", "--qwen", qwen, "--vggt", vggt, "--out", tmp_path / "out").code == 0
    lines = run("inspect", tmp_path / "out").out.splitlines()
    assert lines[0].startswith("format     Spatial-MLLM, v1.1 names, written by spatial-mllm-hf ")
    assert "missing    nothing: it is complete" in lines


# --- damaged and dangerous files ---


class Fault(NamedTuple):
    """How to spoil a copy of public v1.1, and what is said of it."""

    spoil: Callable[[Path], object]
    says: str


def keep_one_shard(folder: Path) -> None:
    split_into_shards(folder)[1].unlink()


def cut(size: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = (folder / SINGLE).read_bytes()
        (folder / SINGLE).write_bytes(content[:size])

    return spoil


def lying_index(changes: dict[str, Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        split_into_shards(folder)
        shutil.copy(folder / SHARDS[0], folder.parent / "outside.safetensors")
        change_index(folder, changes)

    return spoil


def no_weight_map(folder: Path) -> None:
    split_into_shards(folder)
    change_json(folder / INDEX, weight_map=REMOVED)


def weights(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_weights(folder, {name.replace("_", "."): value for name, value in changes.items()})


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "config.json", **changes)


def settings(file: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / file, **changes)


def text(file: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(content)


def only_a_pickle(folder: Path) -> None:
    (folder / SINGLE).unlink()
    write_evil_pt(folder / "pytorch_model.bin", folder.parent / "witness")


def pipeline_of(code: str) -> dict[str, Any]:
    return {"custom_pipelines": {"task": {"impl": code, "pt": ["AutoModel"], "type": "text"}}}


FAULTS = {
    "wrong shape": Fault(weights(connector_mlp_2_bias=torch.ones(3)), "'connector.mlp.2.bias' has shape [3], but"),
    "unknown weight": Fault(
        weights(connector_mlp_2_bios=torch.ones(3)), "(nearest known name: 'connector.mlp.2.bias')"
    ),
    "missing weight": Fault(
        weights(connector_mlp_2_bias=REMOVED), "1 weights are missing, such as 'connector.mlp.2.bi"
    ),
    "unknown type": Fault(
        weights(connector_mlp_2_bias=torch.ones(64).to(torch.float8_e4m3fn)),
        "'connector.mlp.2.bias' is of type F8_E4M3",
    ),
    "missing shard": Fault(keep_one_shard, f"lacks 1 of 2 weight files: {SHARDS[1]}"),
    "index: wrong file": Fault(
        lying_index({NORM: SHARDS[1]}), f"lies: 1 weights are not where it says, such as '{NORM}'"
    ),
    "index: no such weight": Fault(lying_index({"connector.alien": SHARDS[0]}), "such as 'connector.alien'"),
    "index: unlisted": Fault(
        lying_index({NORM: REMOVED}), f"does not name 1 weights that are in the files, such as '{NORM}"
    ),
    "index: outside": Fault(
        lying_index({NORM: "../outside.safetensors"}),
        "names '../outside.safetensors', which is not a safetensors file of its own folder",
    ),
    "index: no map": Fault(no_weight_map, "has no weight_map"),
    "truncated in its weights": Fault(cut(-1000), f"{SINGLE} is damaged or cut short"),
    "truncated in its header": Fault(cut(1000), f"{SINGLE} is damaged or cut short"),
    "truncated to nothing": Fault(cut(0), f"{SINGLE} is damaged or cut short"),
    "only a pickle": Fault(only_a_pickle, "holds its weights as pickles (pytorch_model.bin), which can run code"),
    "no weights": Fault(lambda folder: (folder / SINGLE).unlink(), f"holds no weights: expected {SINGLE}"),
    "no config": Fault(lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "config: no json": Fault(text("config.json", '{"a": '), "config.json is not valid JSON"),
    "config: a list": Fault(text("config.json", "[1]"), "config.json holds list instead of a JSON object"),
    "config: a path": Fault(
        config(auto_map={"AutoConfig": "../evil.Class"}), "asks for code of its own (auto_map: '../evil.Class')"
    ),
    "config: another repository": Fault(
        config(auto_map={"AutoModel": "someone/repo--evil.Class"}), "(auto_map: 'someone/repo--evil.Class')"
    ),
    "config: a pipeline": Fault(config(**pipeline_of("evil.Pipeline")), "(custom_pipelines: 'evil.Pipeline')"),
    "config: a module": Fault(
        config(connector_config={"connector_type": "os.path"}), "unknown connector_type 'os.path', expected one of"
    ),
    "config: a wrong type": Fault(config(hidden_size="64"), "hidden_size"),
    "config: a wrong type inside": Fault(config(spatial_config={"embed_dim": "32"}), "embed_dim"),
    "config: no such layer": Fault(
        config(connector_config={"spatial_embeds_layer_idx": 99}), "spatial_embeds_layer_idx=99 does not exist"
    ),
    "tokenizer: foreign code": Fault(
        settings("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}),
        "tokenizer_config.json asks for code of its own (auto_map: 'evil.Tokenizer')",
    ),
    "processor: foreign code": Fault(
        settings("preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Processor"}),
        "preprocessor_config.json asks for code of its own (auto_map: 'evil.Processor')",
    ),
    "tokenizer: no json": Fault(text("tokenizer.json", "{"), "tokenizer"),
    "generation settings: no json": Fault(
        text("generation_config.json", "{"), "generation_config.json is not valid JSON"
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_clear_error_and_leaves_the_target_alone(
    run: Command, source: Path, tmp_path: Path, name: str
) -> None:
    fault = FAULTS[name]
    fault.spoil(source)
    before = contents(tmp_path)
    result = run("convert", "from-official", source, "--out", tmp_path / "out")
    assert result.code == 2
    assert result.out == ""
    assert fault.says in result.error
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"source", "outside.safetensors"}


def test_a_card_that_cannot_be_read_is_no_traceback(run: Command, source: Path, tmp_path: Path) -> None:
    (source / "README.md").write_text("---\nlicense: [\n---\nHello\n")
    assert run("convert", "from-official", source, "--out", tmp_path / "out").code == 0


@pytest.mark.parametrize("where", ["--vggt", "--qwen"])
def test_code_in_a_pickle_is_not_run(run: Command, qwen: Path, vggt: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "evil").mkdir()
    write_evil_pt(tmp_path / "evil" / "model.pt", tmp_path / "witness")
    sources = {"--qwen": qwen, "--vggt": vggt} | {where: tmp_path / "evil"}
    arguments = [argument for option in sources.items() for argument in option]
    result = run("convert", "merge", *arguments, "--out", tmp_path / "out")
    assert result.code == 2
    assert "could run code" in result.error if where == "--vggt" else "can run code" in result.error
    assert [path.name for path in tmp_path.iterdir()] == ["evil"]
    for command in (["inspect"], ["convert", "verify", vggt]):
        assert run(*command, tmp_path / "evil").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["evil"]


def test_a_number_too_large_for_float16_is_named(run: Command, source: Path, tmp_path: Path) -> None:
    change_weights(source, {NORM: torch.full((512,), 1e6)})
    result = run("convert", "from-official", source, "--out", tmp_path / "out", "--dtype", "float16")
    assert result.code == 2
    assert f"'{NORM}' holds 1e+06, too large for float16: take bfloat16" in result.error
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


class DiskUsage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_full_disk_is_named(run: Command, public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**9, 10**9 - 1000, 1000))
    result = run("convert", "from-official", public, "--out", tmp_path / "out")
    assert result.code == 2
    assert f"No space left: cannot write 0.0 GB of weights into {tmp_path}, where 0.0 GB are free" in result.error
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(
    run: Command, public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spatial_mllm_hf.hub.checkpoint_folders.write_json", interrupt)
    result = run("convert", "from-official", public, "--out", tmp_path / "out")
    assert result.code not in (0, 2)
    assert list(tmp_path.iterdir()) == []


# --- mistakes ---


@pytest.fixture
def arguments(public: Path, qwen: Path, vggt: Path) -> dict[str, list[Any]]:
    """Each conversion but for where to."""
    return {
        "merge": ["merge", "--qwen", qwen, "--vggt", vggt],
        "from-official": ["from-official", public],
        "to-official": ["to-official", public],
        "extract-vggt": ["extract-vggt", public],
    }


@pytest.mark.parametrize("verb", ["merge", "from-official", "to-official", "extract-vggt"])
def test_a_folder_that_holds_something_is_left_alone(
    run: Command, arguments: dict[str, list[Any]], tmp_path: Path, verb: str
) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    for out in (tmp_path, tmp_path / "mine.txt"):
        result = run("convert", *arguments[verb], "--out", out)
        assert result.code == 2
        assert result.out == ""
        assert f"{out} exists and is not an empty folder; name a new one, or remove it" in result.error
    assert contents(tmp_path) == {"mine.txt": b"precious"}


@pytest.mark.parametrize(
    ("verb", "options", "says"),
    [
        ("merge", ["--dtype", "int8"], "--dtype must be one of auto, float32, bfloat16, float16, got 'int8'"),
        ("merge", ["--heads", "points,legs"], "--heads must be some of camera,depth,points, got legs"),
        ("merge", ["--max-shard-size", "many"], "max_shard_size must be a size such as '4GB' or '500MB', got 'many'"),
        ("from-official", ["--max-shard-size", "0GB"], "got '0GB'"),
        ("from-official", ["--heads", "eyes"], "got eyes"),
        ("to-official", ["--dtype", "double"], "got 'double'"),
        ("extract-vggt", ["--dtype", "double"], "got 'double'"),
    ],
)
def test_a_bad_option_is_named(
    run: Command, arguments: dict[str, list[Any]], tmp_path: Path, verb: str, options: list[str], says: str
) -> None:
    result = run("convert", *arguments[verb], "--out", tmp_path / "out", *options)
    assert result.code == 2
    assert result.out == ""
    assert says in result.error
    assert list(tmp_path.iterdir()) == []


def test_backbones_in_each_others_place_are_told(
    run: Command, qwen: Path, vggt: Path, public: Path, tmp_path: Path
) -> None:
    for sources, says in (
        ((vggt, qwen), "is not a Qwen2.5-VL: its config.json says None and its weights are of format vggt"),
        ((public, vggt), "its config.json says 'spatial-mllm' and its weights are of format v1.1"),
        ((qwen, public), "is of format v1.1, not VGGT's own. `spatial-mllm convert extract-vggt` takes VGGT out"),
    ):
        result = run("convert", "merge", "--qwen", sources[0], "--vggt", sources[1], "--out", tmp_path / "out")
        assert result.code == 2
        assert says in result.error
    result = run("convert", "from-official", qwen, "--out", tmp_path / "out")
    assert result.code == 2
    assert "is of format qwen2.5-vl, not a Spatial-MLLM" in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gone", ["no such folder", "./a/b/c", "gone.safetensors"])
def test_what_is_not_there_is_named(run: Command, qwen: Path, tmp_path: Path, gone: str) -> None:
    out = tmp_path / "out"
    for command in (
        ["inspect", gone],
        ["convert", "from-official", gone, "--out", out],
        ["convert", "merge", "--qwen", qwen, "--vggt", gone, "--out", out],
        ["convert", "verify", qwen, gone],
    ):
        result = run(*command)
        assert result.code == 2
        assert result.out == ""
        assert f"{gone}: there is no such folder" in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["merge"], "--qwen"),
        (["merge", "--qwen", "a", "--vggt", "b"], "--out"),
        (["merge", "--qwen", "a", "--vggt", "b", "--out", "c", "--connector", "v2"], "--connector"),
        (["from-official"], "Missing argument"),
        (["from-official", "a"], "--out"),
        (["verify", "a"], "Missing argument"),
        (["nonsense"], "nonsense"),
    ],
)
def test_arguments_that_do_not_parse_are_named(run: Command, words: list[str], says: str) -> None:
    result = run("convert", *words)
    assert result.code == 2
    assert result.out == ""
    assert says in result.err
    assert "Traceback" not in result.err
