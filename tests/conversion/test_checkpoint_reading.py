"""Headers and tensors as they are in the files, and every way in which files can be wrong."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    copy_folder,
    split_into_shards,
    weights_of,
    write_evil_pt,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from spatial_mllm_hf.conversion.checkpoint_reading import Checkpoint, weight_files

MIXED = {
    "scalar": torch.tensor(3.25),
    "vector": torch.arange(17, dtype=torch.float32),
    "matrix": torch.arange(35, dtype=torch.float32).reshape(5, 7).to(torch.bfloat16),
    "one row": torch.arange(40, dtype=torch.float16).reshape(1, 40),
    "cube": torch.arange(120).reshape(4, 5, 6),
    "bytes": torch.arange(9, dtype=torch.uint8).reshape(3, 3),
    "flags": torch.tensor([True, False, True]),
    "double": torch.linspace(0, 1, 8, dtype=torch.float64).reshape(4, 2),
    "nothing": torch.zeros(0),
    "no rows": torch.zeros(0, 4, dtype=torch.bfloat16),
    "no columns": torch.zeros(3, 0, dtype=torch.int64),
}
PIECES = [1, 3, 8, 24, 50, 10**6]


@pytest.fixture
def v1_1_copy(v1_1: Path, tmp_path: Path) -> Path:
    return copy_folder(v1_1, tmp_path / "v1_1")


@pytest.fixture
def shards(v1_1_copy: Path) -> Path:
    """v1.1 in two files with an index."""
    split_into_shards(v1_1_copy)
    return v1_1_copy


def save_pt(folder: Path, content: Any, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / "model.pt", **options)
    return folder


def whole(checkpoint: Checkpoint, name: str, piece_bytes: int) -> torch.Tensor:
    pieces = list(checkpoint.pieces(name, piece_bytes))
    assert all(piece.ndim == 1 for piece in pieces)
    stored = checkpoint.tensors[name]
    return torch.cat([torch.empty(0, dtype=stored.dtype), *pieces]).reshape(stored.shape)


# --- headers and pieces ---


def test_headers_say_what_is_in_the_files(shards: Path, v1_1: Path) -> None:
    checkpoint, weights = Checkpoint(shards), weights_of(v1_1)
    assert {name: (stored.shape, stored.dtype) for name, stored in checkpoint.tensors.items()} == {
        name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()
    }
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in weights.values())
    assert {stored.file.name for stored in checkpoint.tensors.values()} == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    assert checkpoint.config == json.loads((v1_1 / "config.json").read_text())
    assert checkpoint.name == "v1_1"


@pytest.mark.parametrize("piece_bytes", PIECES)
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_pieces_put_together_are_the_tensor(tmp_path: Path, kind: str, piece_bytes: int) -> None:
    if kind == "pt":
        save_pt(tmp_path, MIXED)
    else:
        save_file(MIXED, tmp_path / SINGLE)
    checkpoint = Checkpoint(tmp_path, allow_pt=True)
    assert checkpoint.tensors.keys() == MIXED.keys()
    assert_same_bits({name: whole(checkpoint, name, piece_bytes) for name in MIXED}, MIXED)


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_pieces_are_no_larger_than_asked_for(tmp_path: Path, kind: str) -> None:
    if kind == "pt":
        save_pt(tmp_path, MIXED)
    else:
        save_file(MIXED, tmp_path / SINGLE)
    checkpoint = Checkpoint(tmp_path, allow_pt=True)
    for name, tensor in MIXED.items():
        for limit in PIECES:
            largest = max(limit, tensor.dtype.itemsize)
            assert all(piece.nbytes <= largest for piece in checkpoint.pieces(name, limit)), (name, limit)
    assert [len(piece) for piece in checkpoint.pieces("cube", 50 * 8)] == [50, 50, 20]


def test_pieces_of_a_strided_pt_tensor_are_in_its_own_order(tmp_path: Path) -> None:
    turned = torch.arange(12.0).reshape(3, 4).T
    checkpoint = Checkpoint(save_pt(tmp_path / "pt", {"turned": turned}), allow_pt=True)
    assert torch.equal(whole(checkpoint, "turned", 8), turned)


def test_tensors_of_two_shards_can_be_read_in_any_order(shards: Path, v1_1: Path) -> None:
    checkpoint, weights = Checkpoint(shards), weights_of(v1_1)
    names = sorted(weights)
    mixed = [name for pair in zip(names, reversed(names), strict=True) for name in pair]
    assert all(torch.equal(whole(checkpoint, name, 10**6), weights[name]) for name in mixed)


def test_a_single_file_is_a_checkpoint_too(vggt: Path, tmp_path: Path) -> None:
    assert Checkpoint(vggt / SINGLE).tensors.keys() == weights_of(vggt).keys()
    assert Checkpoint(vggt / SINGLE).config["img_size"] == 56
    shutil.copy(vggt / SINGLE, tmp_path / "vggt.safetensors")
    alone = Checkpoint(tmp_path / "vggt.safetensors")
    assert alone.config == {}
    assert alone.tensors.keys() == weights_of(vggt).keys()


def test_one_shard_alone_is_not_measured_by_the_index(shards: Path) -> None:
    first = shards / "model-00001-of-00002.safetensors"
    assert Checkpoint(first).tensors.keys() < Checkpoint(shards).tensors.keys()
    change_json(shards / INDEX, weight_map=REMOVED)
    assert Checkpoint(first).tensors


# --- shards and their index ---


def test_a_missing_shard_is_named(shards: Path) -> None:
    (shards / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 2 weight files: model-00002-of-00002\.safetensors"):
        Checkpoint(shards)


def test_an_index_that_names_the_wrong_file_lies(shards: Path) -> None:
    change_index(shards, {"connector.ln_q.weight": "model-00002-of-00002.safetensors"})
    with pytest.raises(ValueError, match=r"lies: 1 weights are not where it says, such as 'connector.ln_q.weight' in"):
        Checkpoint(shards)


def test_an_index_that_names_a_weight_that_is_nowhere_lies(shards: Path) -> None:
    change_index(shards, {"connector.alien": "model-00001-of-00002.safetensors"})
    with pytest.raises(ValueError, match=r"lies: 1 weights .* 'connector.alien'"):
        Checkpoint(shards)


def test_an_index_that_keeps_a_weight_quiet_is_named(shards: Path) -> None:
    change_index(shards, {"connector.ln_q.weight": REMOVED, "connector.mlp.0.bias": REMOVED})
    with pytest.raises(ValueError, match=r"does not name 2 weights that are in the files, such as 'connector.ln_q"):
        Checkpoint(shards)


@pytest.mark.parametrize(
    "file", ["../secret.safetensors", "/etc/secret.safetensors", "sub/model.safetensors", "model.bin", "..", "", 7]
)
def test_an_index_may_name_only_safetensors_files_beside_it(shards: Path, file: Any) -> None:
    shutil.copy(shards / "model-00001-of-00002.safetensors", shards.parent / "secret.safetensors")
    change_index(shards, {"connector.ln_q.weight": file})
    with pytest.raises(ValueError, match="which is not a safetensors file of its own folder") as raised:
        Checkpoint(shards)
    assert repr(str(file)) in str(raised.value)


@pytest.mark.parametrize("weight_map", [REMOVED, {}, [], "model.safetensors", None])
def test_an_index_without_a_weight_map_is_an_error(shards: Path, weight_map: Any) -> None:
    change_json(shards / INDEX, weight_map=weight_map)
    with pytest.raises(ValueError, match=r"index\.json has no weight_map"):
        Checkpoint(shards)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_an_index_that_is_no_json_is_named(shards: Path, content: str) -> None:
    (shards / INDEX).write_text(content)
    with pytest.raises(ValueError, match=r"index\.json (is not valid JSON|holds list instead)"):
        Checkpoint(shards)


def test_a_weight_in_two_files_is_named(shards: Path) -> None:
    second = shards / "model-00002-of-00002.safetensors"
    twice = {"connector.ln_q.weight": torch.ones(512)}
    save_file({**weights_of_file(second), **twice}, second)
    with pytest.raises(ValueError, match=r"'connector.ln_q.weight' is in two files, model-00001\S+ and model-00002"):
        Checkpoint(shards)


def weights_of_file(file: Path) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint(file.parent)
    names = [name for name, stored in checkpoint.tensors.items() if stored.file == file]
    return {name: whole(checkpoint, name, 10**6) for name in names}


def test_one_whole_file_is_preferred_to_an_index(shards: Path, v1_1: Path) -> None:
    shutil.copy(v1_1 / SINGLE, shards)
    change_index(shards, {"connector.ln_q.weight": "gone.safetensors"})
    assert weight_files(shards) == [shards / SINGLE]
    assert len(Checkpoint(shards).tensors) == 458


# --- damaged files ---


@pytest.mark.parametrize("keep", [0, 5, 8, 1000, -1, -40000])
def test_a_file_that_is_cut_short_is_named(v1_1_copy: Path, keep: int) -> None:
    """Within the length, the header and the tensors."""
    file = v1_1_copy / SINGLE
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut short.*Get it again"):
        Checkpoint(v1_1_copy)


def test_a_file_with_something_after_its_end_is_damaged(v1_1_copy: Path) -> None:
    with open(v1_1_copy / SINGLE, "ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="is damaged or cut short"):
        Checkpoint(v1_1_copy)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS: dict[str, Any] = {
    "plain": {"a": F32},
    "an empty tensor after the one at its place": {"a": F32, "b": {**F32, "shape": [0], "data_offsets": [0, 0]}},
    "an empty tensor at the end": {"b": {**F32, "shape": [0, 3], "data_offsets": [8, 8]}, "a": F32},
    "metadata": {"__metadata__": {"format": "pt"}, "a": F32},
    "no tensor": {},
    "a list": [F32],
    "a tensor that is a word": {"a": "F32"},
    "one offset": {"a": {**F32, "data_offsets": [8]}},
    "offsets that are words": {"a": {**F32, "data_offsets": ["0", "8"]}},
    "offsets before the start": {"a": {**F32, "data_offsets": [-8, 0]}},
    "offsets after the end": {"a": {**F32, "data_offsets": [8, 16]}},
    "offsets that do not fit the shape": {"a": {**F32, "data_offsets": [0, 4]}},
    "a gap": {"a": {**F32, "shape": [1], "data_offsets": [4, 8]}},
    "two on one place": {"a": F32, "b": F32},
    "a negative shape": {"a": {**F32, "shape": [-1, -2]}},
    "a broken shape": {"a": {**F32, "shape": [2.0]}},
    "a shape beyond counting": {"a": {**F32, "shape": [2**70]}},
    "a shape that counts round to nothing": {"a": {**F32, "shape": [2**32, 2**32], "data_offsets": [0, 0]}, "b": F32},
    "no dtype": {"a": {"shape": [2], "data_offsets": [0, 8]}},
}


@pytest.mark.parametrize("name", [*HEADERS, "deep", "no text"])
def test_headers_are_good_or_bad_as_safetensors_itself_finds_them(tmp_path: Path, name: str) -> None:
    raw = {"deep": b'{"a":' + b"[" * 100_000, "no text": b"\xff\xfe{}"}
    header = raw[name] if name in raw else json.dumps(HEADERS[name]).encode()
    file = tmp_path / SINGLE
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(0 if name == "no tensor" else 8))
    try:
        with safe_open(file, framework="np") as opened:
            names = set(opened.keys())
    except SafetensorError:
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut short"):
            Checkpoint(tmp_path)
    else:
        assert Checkpoint(tmp_path).tensors.keys() == names


def test_a_file_that_shrinks_while_it_is_read_is_named(v1_1_copy: Path) -> None:
    checkpoint = Checkpoint(v1_1_copy)
    last = list(checkpoint.tensors)[-1]
    file = v1_1_copy / SINGLE
    with open(file, "r+b") as opened:
        opened.truncate(file.stat().st_size - 10)
    with pytest.raises(ValueError, match=r"model\.safetensors became shorter while it was read"):
        list(checkpoint.pieces(last))


def test_a_type_that_no_such_checkpoint_has_is_named(v1_1_copy: Path) -> None:
    change_weights(v1_1_copy, {"connector.ln_q.weight": torch.ones(512).to(torch.float8_e4m3fn)})
    with pytest.raises(ValueError, match=r"'connector.ln_q.weight' is of type F8_E4M3; expected one of"):
        Checkpoint(v1_1_copy)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone: there is no such folder or file"):
        Checkpoint(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"holds no weights: expected model\.safetensors, or"):
        Checkpoint(tmp_path)


# --- pickles ---


def evil_pickle(witness: Path) -> bytes:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return (__import__("os").makedirs, (str(witness),))

    return pickle.dumps(Evil())


@pytest.mark.parametrize("allow_pt", [True, False])
def test_code_in_a_pt_file_is_not_run(tmp_path: Path, allow_pt: bool) -> None:
    witness = tmp_path / "witness"
    write_evil_pt(tmp_path / "model.pt", witness)
    says = "holds more than tensors and is not read: it could run code" if allow_pt else "pickles .model.pt.*can run"
    with pytest.raises(ValueError, match=says):
        Checkpoint(tmp_path, allow_pt=allow_pt)
    assert not witness.exists()
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert witness.exists()  # so the file does what it is feared for


def test_the_refusal_of_a_pickle_does_not_say_how_to_run_it(tmp_path: Path) -> None:
    """torch's own message advises `weights_only=False`."""
    write_evil_pt(tmp_path / "model.pt", tmp_path / "witness")
    with pytest.raises(ValueError, match="could run code") as raised:
        Checkpoint(tmp_path, allow_pt=True)
    assert "weights_only" not in str(raised.value)


def test_an_unzipped_pickle_is_not_read_at_all(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(evil_pickle(tmp_path / "witness"))
    with pytest.raises(ValueError, match="is not a zipped torch file, or is cut short"):
        Checkpoint(tmp_path, allow_pt=True)
    save_pt(tmp_path, {"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="is not a zipped torch file, or is cut short"):
        Checkpoint(tmp_path, allow_pt=True)
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "model.ckpt", "model.pkl", "other.pt"])
def test_other_pickles_are_refused(tmp_path: Path, name: str) -> None:
    torch.save({"aggregator.camera_token": torch.ones(2)}, tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        if path.suffix == ".pt":
            continue  # named by the user, VGGT's file may be called as it likes
        with pytest.raises(ValueError, match=rf"holds its weights as pickles \({name}\)") as raised:
            Checkpoint(path, allow_pt=True)
        assert "Only safetensors are read, and VGGT's own model.pt" in str(raised.value)


def test_safetensors_are_preferred_to_a_pickle_beside_them(vggt: Path, tmp_path: Path) -> None:
    folder = copy_folder(vggt, tmp_path / "vggt")
    write_evil_pt(folder / "model.pt", tmp_path / "witness")
    assert Checkpoint(folder, allow_pt=True).tensors.keys() == weights_of(vggt).keys()
    assert not (tmp_path / "witness").exists()


def test_a_damaged_pt_file_is_damaged_not_suspect(vggt: Path, tmp_path: Path) -> None:
    file = save_pt(tmp_path / "pt", weights_of(vggt)) / "model.pt"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.pt is not a zipped torch file, or is cut short"):
        Checkpoint(file.parent, allow_pt=True)
    file.write_bytes(content[5000:])
    with pytest.raises(ValueError, match=r"model\.pt is damaged"):
        Checkpoint(file.parent, allow_pt=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("note.txt", "no tensors here")
    with pytest.raises(ValueError, match=r"model\.pt is damaged"):
        Checkpoint(file.parent, allow_pt=True)


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(2)],
        torch.ones(2),
        {"model": {"aggregator.camera_token": torch.ones(2)}},
        {"aggregator.camera_token": 1.0},
        {7: torch.ones(2)},
    ],
    ids=["list", "tensor", "nested", "number", "no names"],
)
def test_a_pt_file_of_anything_but_tensors_by_name_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ValueError, match=r"model\.pt is not a dictionary of tensors"):
        Checkpoint(save_pt(tmp_path / "pt", content), allow_pt=True)


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(2, dtype=torch.complex64), torch.ones(2).to(torch.float8_e5m2), torch.ones(2, 2).to_sparse()],
    ids=["complex", "float8", "sparse"],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_a_pt_file_of_tensors_that_no_checkpoint_has_is_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"'aggregator.camera_token'"):
        Checkpoint(save_pt(tmp_path / "pt", {"aggregator.camera_token": tensor}), allow_pt=True)


# --- configuration ---


@pytest.mark.parametrize("content", ["{", "", "\ufeff{}", '{"a": 1'])
def test_a_configuration_that_is_no_json_is_named(v1_1_copy: Path, content: str) -> None:
    (v1_1_copy / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        Checkpoint(v1_1_copy)


def test_a_configuration_of_another_kind_is_named(v1_1_copy: Path) -> None:
    (v1_1_copy / "config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"config\.json holds list instead of a JSON object"):
        Checkpoint(v1_1_copy)
    (v1_1_copy / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        Checkpoint(v1_1_copy)


FOREIGN = ["../evil.Class", "evil.Class", "os.path", "someone/repo--evil.Class", "/etc/evil.Class", "evil"]


@pytest.mark.parametrize("code", FOREIGN)
@pytest.mark.parametrize(
    "settings",
    [
        lambda code: {"auto_map": {"AutoConfig": code}},
        lambda code: {"auto_map": {"AutoTokenizer": [None, code]}},
        lambda code: {"text_config": {"auto_map": {"AutoModel": code}}},
        lambda code: {"custom_pipelines": {"task": {"impl": code, "pt": ["AutoModel"], "type": "text"}}},
    ],
    ids=["auto_map", "list", "nested", "pipeline"],
)
def test_a_configuration_that_asks_for_foreign_code_is_refused(
    v1_1_copy: Path, code: str, settings: Callable[[str], dict[str, Any]]
) -> None:
    change_json(v1_1_copy / "config.json", **settings(code))
    with pytest.raises(ValueError, match=r"config\.json asks for code of its own") as raised:
        Checkpoint(v1_1_copy)
    assert repr(code) in str(raised.value)


def test_our_own_code_is_not_foreign(merged: Path) -> None:
    config = Checkpoint(merged).config
    assert config["auto_map"]["AutoModel"] == "modeling_spatial_mllm.SpatialMLLMModel"
    assert "video-question-answering" in config["custom_pipelines"]
