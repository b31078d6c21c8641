"""Scenes on disk: read back bit for bit, known again by what they depend on, and never believed when damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from clips import write_clip
from peft_versions import needs_adapter_switches
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, pipeline

import spatial_mllm_hf.pipelines.scene_files_spatial_mllm as scene_files
from spatial_mllm_hf import VideoQuestionAnsweringPipeline
from spatial_mllm_hf.pipelines.scene_files_spatial_mllm import SceneFileError, load_scene
from spatial_mllm_hf.pipelines.scene_keys_spatial_mllm import hash_content, hash_model

from .conftest import FEW, LONG_QUESTION, QUESTION, SHORT, TASK, Counts

QUICK: dict[str, Any] = {"frame_sampling": "uniform", "num_frames": 2}


@pytest.fixture(scope="module")
def scene(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> Any:
    return pipe.open_scene(room_clip, **FEW)


@pytest.fixture(scope="module")
def answer(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> dict[str, str]:
    """Of the pipeline's own call."""
    return pipe(room_clip, QUESTION, **FEW, **SHORT)


@pytest.fixture(scope="module")
def saved_bytes(scene: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The scene's file."""
    path = tmp_path_factory.mktemp("saved") / "room.scene"
    scene.save(path)
    return path.read_bytes()


@pytest.fixture
def saved(saved_bytes: bytes, tmp_path: Path) -> Path:
    """A copy of the scene's file, for a test to spoil."""
    path = tmp_path / "room.scene"
    path.write_bytes(saved_bytes)
    return path


@pytest.fixture
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def assert_same_scene(one: Any, other: Any) -> None:
    """Bit for bit."""
    assert torch.equal(one.prefix.input_ids, other.prefix.input_ids)
    assert torch.equal(one.prefix.token_types, other.prefix.token_types)
    assert one.prefix.token_types.dtype == other.prefix.token_types.dtype
    assert one.prefix.descriptions.keys() == other.prefix.descriptions.keys()
    for name, tensor in one.prefix.descriptions.items():
        assert torch.equal(tensor, other.prefix.descriptions[name])
        assert tensor.dtype == other.prefix.descriptions[name].dtype
    for layer, other_layer in zip(one.prefix.layers, other.prefix.layers, strict=True):
        for tensor, other_tensor in zip(layer, other_layer, strict=True):
            assert torch.equal(tensor, other_tensor)
            assert tensor.dtype == other_tensor.dtype
    assert one.frames == other.frames  # pictures too: PIL compares their pixels
    assert one.key == other.key


# ---------------------------------------------------------------------------------------------- back again


@pytest.mark.parametrize("kind", ["video", "video and frames", "images", "video and image"])
def test_a_saved_scene_reads_back_bit_for_bit(
    pipe: VideoQuestionAnsweringPipeline,
    room_clip: Path,
    pictures: list[Image.Image],
    tmp_path: Path,
    ran: Counts,
    no_warnings: None,
    kind: str,
) -> None:
    media: dict[str, Any] = {
        "video": {"video": room_clip},
        "video and frames": {"videos": [room_clip, pictures]},
        "images": {"images": [pictures[0], pictures[1].resize((112, 60))]},
        "video and image": {"video": room_clip, "image": pictures[2]},
    }[kind]
    path = tmp_path / "new folder" / "a.scene"
    first = pipe.open_scene(**media, **FEW, saved=path)
    seen = dict(ran)
    second = pipe.open_scene(**media, **FEW, saved=str(path))
    assert ran == seen
    assert [file.name for file in path.parent.iterdir()] == ["a.scene"]
    assert_same_scene(first, second)
    assert repr(first) == repr(second)
    for question in (QUESTION, LONG_QUESTION):
        asked = second.ask(question, **SHORT)
        assert asked == first.ask(question, **SHORT)
        assert asked == pipe(**media, question=question, **FEW, **SHORT)
    assert pipe.ask_scenes([(first, QUESTION), (second, QUESTION)], **SHORT) == [second.ask(QUESTION, **SHORT)] * 2


def test_a_scene_can_be_saved_afterwards(
    pipe: VideoQuestionAnsweringPipeline, scene: Any, room_clip: Path, tmp_path: Path, ran: Counts, no_warnings: None
) -> None:
    scene.ask(QUESTION, **SHORT)
    scene.save(tmp_path / "a")
    pipe.save_scene(scene, tmp_path / "b")
    assert_same_scene(pipe.open_scene(room_clip, **FEW, saved=tmp_path / "a"), scene)
    again = pipe.open_scene(room_clip, **FEW, saved=tmp_path / "b")
    assert_same_scene(again, scene)
    again.save(tmp_path / "c")
    assert_same_scene(pipe.open_scene(room_clip, **FEW, saved=tmp_path / "c"), scene)
    assert not ran


def test_a_scene_in_bfloat16_reads_back(tiny_checkpoint: Path, room_clip: Path, tmp_path: Path) -> None:
    own = pipeline(TASK, model=str(tiny_checkpoint), dtype=torch.bfloat16)
    first = own.open_scene(room_clip, **QUICK, saved=tmp_path / "scene")
    second = own.open_scene(room_clip, **QUICK, saved=tmp_path / "scene")
    assert second.prefix.layers[0][0].dtype == torch.bfloat16
    assert_same_scene(first, second)


# ---------------------------------------------------------------------------------------------- what a scene depends on


def changed(one: dict[str, str], other: dict[str, str]) -> set[str]:
    """Names of what differs."""
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


@pytest.fixture
def key_of(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> Callable[..., dict[str, str]]:
    def open_quickly(video: Any = room_clip, pipe: Any = pipe, **options: Any) -> dict[str, str]:
        return pipe.open_scene(video, **{**QUICK, **options}).key

    return open_quickly


@pytest.fixture(scope="module")
def quick_key(pipe: VideoQuestionAnsweringPipeline, room_clip: Path) -> dict[str, str]:
    return pipe.open_scene(room_clip, **QUICK).key


def test_one_byte_of_the_video_is_another_scene(
    key_of: Callable[..., dict[str, str]], room_clip: Path, tmp_path: Path
) -> None:
    for name, end in {"a": b"\0\0", "b": b"\0\1"}.items():
        (tmp_path / f"{name}.mp4").write_bytes(room_clip.read_bytes() + end)
    assert changed(key_of(tmp_path / "a.mp4"), key_of(tmp_path / "b.mp4")) == {"content"}


@pytest.mark.parametrize(
    "weight",
    [
        "model.language_model.embed_tokens.weight",
        "model.language_model.layers.2.self_attn.k_proj.bias",
        "model.language_model.norm.weight",
        "model.visual.blocks.0.mlp.down_proj.weight",
        "model.connector",
        "model.spatial_encoder.point_head",
    ],
)
def test_the_last_bit_of_one_weight_is_another_scene(
    pipe: VideoQuestionAnsweringPipeline, quick_key: dict[str, str], key_of: Callable[..., dict[str, str]], weight: str
) -> None:
    parameter = next(tensor for name, tensor in pipe.model.named_parameters() if name.startswith(weight))
    flat = parameter.data.view(-1)
    place = len(flat) // 3
    before = flat[place].clone()
    try:
        flat[place] = torch.nextafter(before, torch.tensor(9.0))
        assert flat[place] != before
        assert changed(key_of(), quick_key) == {"model"}
    finally:
        flat[place] = before
    assert key_of() == quick_key


@pytest.mark.parametrize("rows", [(0, 1), (3, 35), (40, 104), (7, 263)])
def test_exchanged_rows_of_a_weight_are_another_model(
    pipe: VideoQuestionAnsweringPipeline, rows: tuple[int, int]
) -> None:
    """Also rows that lie a multiple of 8 KiB apart, as those of the real model do."""
    weight = pipe.model.get_input_embeddings().weight.data
    one, other = rows
    before = hash_model(pipe.model)
    kept = weight.clone()
    try:
        weight[[one, other]] = kept[[other, one]]
        assert hash_model(pipe.model) != before
    finally:
        weight.copy_(kept)
    assert hash_model(pipe.model) == before


def test_exchanged_weights_are_another_model(pipe: VideoQuestionAnsweringPipeline) -> None:
    first, second = (layer.self_attn.q_proj.weight for layer in pipe.model.model.language_model.layers[:2])
    before = hash_model(pipe.model)
    kept = first.data, second.data
    try:
        first.data, second.data = kept[::-1]
        assert hash_model(pipe.model) != before
    finally:
        first.data, second.data = kept
    assert hash_model(pipe.model) == before


def test_where_a_weight_lies_in_memory_does_not_count(pipe: VideoQuestionAnsweringPipeline) -> None:
    """A slice of a larger tensor at an odd place, and one that is laid out the other way."""
    weight = pipe.model.get_input_embeddings().weight
    before = hash_model(pipe.model)
    kept = weight.data
    try:
        weight.data = torch.cat([torch.zeros(1), kept.reshape(-1)])[1:].view_as(kept)
        assert hash_model(pipe.model) == before
        weight.data = kept.T.contiguous().T
        assert hash_model(pipe.model) == before
    finally:
        weight.data = kept


@needs_adapter_switches
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_adapters_at_work_are_another_model(tiny_checkpoint: Path) -> None:
    """Switching one off leaves every weight as it is."""
    peft = pytest.importorskip("peft")
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    hashes = [hash_model(model)]
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model.add_adapter(config, "first")
    hashes.append(hash_model(model))
    model.disable_adapters()
    hashes.append(hash_model(model))
    model.enable_adapters()
    assert hash_model(model) == hashes[1]
    model.add_adapter(config, "second")
    for name in ("first", "second"):
        model.set_adapter(name)
        hashes.append(hash_model(model))
    assert len(set(hashes)) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"num_frames": 4},
        {"frame_sampling": "space_aware", "num_candidate_frames": 6},
        {"num_candidate_frames": 8},
        {"candidate_size": 56},
        {"geometry_source": "depth"},
        {"second_per_grid": 0.5},
        {"num_frames": None, "fps": 2},
    ],
    ids=str,
)
def test_another_option_is_another_scene(
    quick_key: dict[str, str], key_of: Callable[..., dict[str, str]], options: dict[str, Any]
) -> None:
    assert changed(key_of(**options), quick_key) == {"options"}


def test_another_setting_is_another_scene(
    pipe: VideoQuestionAnsweringPipeline,
    quick_key: dict[str, str],
    key_of: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor, pixels = pipe.processor, {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    template = processor.chat_template.replace("You are a helpful assistant.", "You are short.")
    assert template != processor.chat_template
    for owner, name, value, what in (
        (pipe.model.config, "spatial_fusion_scale", 0.25, "model"),
        (processor.video_processor, "size", pixels, "settings"),
        (processor.image_processor, "size", pixels, "settings"),
        (processor, "chat_template", template, "settings"),
        (transformers, "__version__", "5.99.0", "transformers"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            assert changed(key_of(), quick_key) == {what}
    assert key_of() == quick_key


def test_another_precision_is_another_scene(
    tiny_checkpoint: Path, quick_key: dict[str, str], key_of: Callable[..., dict[str, str]]
) -> None:
    own = pipeline(TASK, model=str(tiny_checkpoint), dtype=torch.bfloat16)
    assert changed(key_of(pipe=own), quick_key) == {"model", "precision"}


def test_where_things_lie_does_not_count(
    tiny_checkpoint: Path,
    room_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick_key: dict[str, str],
    key_of: Callable[..., dict[str, str]],
) -> None:
    clip = shutil.copy(room_clip, tmp_path / "another name.mp4")
    monkeypatch.chdir(tmp_path)
    assert key_of(str(clip)) == quick_key
    assert key_of("another name.mp4") == quick_key
    assert key_of(Path(clip).as_uri()) == quick_key
    again = pipeline(TASK, model=str(tiny_checkpoint))
    again.save_pretrained(tmp_path / "written")
    assert key_of(pipe=again) == quick_key
    for folder in (shutil.copytree(tiny_checkpoint, tmp_path / "copied"), tmp_path / "written"):
        assert key_of(pipe=pipeline(TASK, model=str(folder))) == quick_key


def test_questions_do_not_count(scene: Any, quick_key: dict[str, str]) -> None:
    before = dict(scene.key)
    scene.ask(QUESTION, **SHORT)
    assert scene.key == before
    assert changed(before, quick_key) == {"options"}


def test_a_folder_of_images_is_known_by_its_pictures(
    key_of: Callable[..., dict[str, str]], pictures: list[Image.Image], tmp_path: Path
) -> None:
    def write(name: str, shown: list[Image.Image]) -> list[str]:
        (tmp_path / name).mkdir()
        paths = [tmp_path / name / f"frame_{number}.png" for number in range(len(shown))]
        for path, picture in zip(paths, shown):
            picture.save(path)
        return [str(path) for path in paths]

    paths = write("here", pictures)
    moved = write("there", pictures)
    key = key_of(paths)
    assert key_of(moved) == key
    assert key_of([Path(path) for path in moved]) == key
    assert changed(key_of(paths[::-1]), key) == {"content"}
    assert changed(key_of(paths[:2]), key) == {"content"}
    assert changed(key_of(write("other", [*pictures[:3], pictures[0]])), key) == {"content"}
    assert changed(key_of(None, images=paths), key) == {"content"}


def test_different_content_has_different_hashes(room_clip: Path, pictures: list[Image.Image], tmp_path: Path) -> None:
    levels = np.arange(48, dtype=np.uint8)
    palette = pictures[0].quantize(4)
    recoloured = palette.copy()
    recoloured.putpalette([255 - level for level in palette.getpalette() or []])
    assert recoloured.tobytes() == palette.tobytes()
    pictures[0].save(tmp_path / "a.png")
    content: dict[str, Any] = {
        "array": levels.reshape(1, 4, 4, 3),
        "another shape": levels.reshape(1, 2, 8, 3),
        "flat": levels,
        "another dtype": levels.view(np.int8).reshape(1, 4, 4, 3),
        "a wider dtype": levels.view(np.uint16).reshape(1, 4, 2, 3),
        "floats of the same values": levels.reshape(1, 4, 4, 3).astype(np.float32),
        "list of frames": list(levels.reshape(2, 4, 2, 3)),
        "one array of them": levels.reshape(2, 4, 2, 3),
        "the other order": list(levels.reshape(2, 4, 2, 3)[::-1]),
        "list of one list": [list(levels.reshape(2, 4, 2, 3))],
        "video": room_clip,
        "video in a list": [room_clip],
        "video twice": [room_clip, room_clip],
        "picture": pictures[0],
        "another": pictures[1],
        "pictures": pictures[:2],
        "turned": pictures[0].transpose(Image.Transpose.ROTATE_180),
        "another size": Image.frombytes("RGB", pictures[0].size[::-1], pictures[0].tobytes()),
        "another mode": Image.frombytes("YCbCr", pictures[0].size, pictures[0].tobytes()),
        "indexed": palette,
        "indexed, recoloured": recoloured,
        "grey": pictures[0].convert("L"),
        "file": tmp_path / "a.png",
        "no file": str(tmp_path / "b.png"),
        "no other file": str(tmp_path / "c.png"),
        "nothing": [],
        "nothing in a list": [[]],
    }
    hashes = {name: hash_content(media) for name, media in content.items()}
    assert len(set(hashes.values())) == len(content), hashes


def test_equal_content_has_equal_hashes(room_clip: Path, pictures: list[Image.Image]) -> None:
    array = np.stack([np.asarray(picture) for picture in pictures])
    tensor = torch.from_numpy(array.copy())
    same = [array, tensor, array[::-1].copy()[::-1], torch.from_numpy(array.copy()).transpose(0, 1).contiguous()]
    same[3] = same[3].transpose(0, 1)
    array.flags.writeable = False
    assert len({hash_content(media) for media in [*same, array.copy()]}) == 1
    assert hash_content(pictures) == hash_content(tuple(picture.copy() for picture in pictures))
    assert hash_content(room_clip) == hash_content(str(room_clip)) == hash_content(room_clip.as_uri())


# ---------------------------------------------------------------------------------------------- stale


def another_video(pipe: Any, clip: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    clip.write_bytes(clip.read_bytes() + b"\0")
    return dict(FEW)


def another_config(pipe: Any, clip: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(pipe.model.config, "spatial_fusion_scale", 0.25)
    return dict(FEW)


def another_weight(pipe: Any, clip: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    norm = pipe.model.model.language_model.norm
    patch.setattr(norm.weight, "data", norm.weight.data * torch.linspace(0.5, 2, len(norm.weight)))
    return dict(FEW)


def another_option(pipe: Any, clip: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {**FEW, "num_frames": 2}


def another_setting(pipe: Any, clip: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(pipe.processor.video_processor, "size", {"shortest_edge": 56 * 56, "longest_edge": 84 * 84})
    return dict(FEW)


def another_two(pipe: Any, clip: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    another_video(pipe, clip, patch)
    return another_option(pipe, clip, patch)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (another_video, "content"),
        (another_config, "model"),
        (another_weight, "model"),
        (another_option, "options"),
        (another_setting, "settings"),
        (another_two, "content, options"),
    ],
)
def test_a_stale_scene_is_opened_anew(
    pipe: VideoQuestionAnsweringPipeline,
    room_clip: Path,
    tmp_path: Path,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    ran: Counts,
    change: Callable[..., dict[str, Any]],
    names: str,
) -> None:
    clip = Path(shutil.copy(room_clip, tmp_path / "clip.mp4"))
    options = change(pipe, clip, monkeypatch)
    with pytest.warns(UserWarning, match=rf"room\.scene is stale: {names} changed since .* opened anew") as caught:
        scene = pipe.open_scene(clip, **options, saved=saved)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert ran["vision tower"] == 1
    assert scene.ask(QUESTION, **SHORT) == pipe(clip, QUESTION, **options, **SHORT)
    seen = dict(ran)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = pipe.open_scene(clip, **options, saved=saved)
    assert ran == seen
    assert_same_scene(again, scene)


# ---------------------------------------------------------------------------------------------- damaged


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> None:
    """Changes tensors or metadata of a safetensors file that stays a whole one."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def without(name: str) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda _, metadata: metadata.pop(name))


def with_metadata(name: str, value: str) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda _, metadata: metadata.update({name: value}))


def with_other_keys(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors["layers.1.keys"].add_(0.125))


def with_other_values_of_a_layer(path: Path) -> None:
    def exchange(tensors: dict[str, torch.Tensor], _: dict[str, str]) -> None:
        tensors["layers.0.values"], tensors["layers.1.values"] = tensors["layers.1.values"], tensors["layers.0.values"]

    rewrite(path, exchange)


def with_other_frames(path: Path) -> None:
    """The numbers of two frames exchanged, as they are told beside the pictures."""

    def exchange(_: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        (frames,) = json.loads(metadata["frames"])
        frames[0]["index"], frames[1]["index"] = frames[1]["index"], frames[0]["index"]
        metadata["frames"] = json.dumps([frames])

    rewrite(path, exchange)


def without_a_layer(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.pop("layers.2.values"))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "half of it": lambda path: os.truncate(path, path.stat().st_size // 2),
    "the last byte missing": lambda path: os.truncate(path, path.stat().st_size - 1),
    "a byte too many": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "half a header": lambda path: os.truncate(path, 200),
    "a few bytes": lambda path: os.truncate(path, 5),
    "empty": lambda path: os.truncate(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "garbage": lambda path: path.write_bytes(np.random.default_rng(1).bytes(5000)),
    "text": lambda path: path.write_text("a scene\n" * 100),
    "weights of something else": lambda path: save_file({"weight": torch.ones(3)}, path),
    "something else with metadata": lambda path: save_file({"weight": torch.ones(3)}, path, {"key": "1", "frames": ""}),
    "no key": without("key"),
    "no frames": without("frames"),
    "no checksum": without("checksum"),
    "a key that is no JSON": with_metadata("key", "{"),
    "a key that is no dictionary": with_metadata("key", '"key"'),
    "an empty checksum": with_metadata("checksum", ""),
    "other numbers": with_other_keys,
    "layers exchanged": with_other_values_of_a_layer,
    "other frames": with_other_frames,
    "a layer missing": without_a_layer,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_scene_is_opened_anew(
    pipe: VideoQuestionAnsweringPipeline,
    scene: Any,
    room_clip: Path,
    saved: Path,
    saved_bytes: bytes,
    ran: Counts,
    damage: Callable[[Path], Any],
) -> None:
    damage(saved)
    assert saved.read_bytes() != saved_bytes
    with pytest.warns(UserWarning, match=r"room\.scene is damaged.* It is opened anew now") as caught:
        opened = pipe.open_scene(room_clip, **FEW, saved=saved)
    assert len(caught) == 1
    assert ran["vision tower"] == 1
    assert_same_scene(opened, scene)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_scene(pipe.open_scene(room_clip, **FEW, saved=saved), scene)
    assert ran["vision tower"] == 1
    assert [path.name for path in saved.parent.iterdir()] == ["room.scene"]


@pytest.mark.parametrize("part", ["header", "data"])
def test_a_flipped_bit_is_never_believed(
    pipe: VideoQuestionAnsweringPipeline, scene: Any, saved: Path, saved_bytes: bytes, part: str
) -> None:
    assert_same_scene(load_scene(pipe, saved, scene.key), scene)
    header = 8 + int.from_bytes(saved_bytes[:8], "little")
    low, high = {"header": (0, header), "data": (header, len(saved_bytes))}[part]
    places = np.random.default_rng(7).integers(low, high, 100).tolist()
    for number, place in enumerate([low, *places, high - 1]):
        spoiled = bytearray(saved_bytes)
        spoiled[place] ^= 1 << number % 8
        saved.write_bytes(spoiled)
        with pytest.raises(SceneFileError, match=r"room\.scene is damaged"):
            load_scene(pipe, saved, scene.key)


def test_a_scene_that_is_not_there_is_named(pipe: VideoQuestionAnsweringPipeline, scene: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no saved scene at .*gone"):
        load_scene(pipe, tmp_path / "gone", scene.key)


# ---------------------------------------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
@pytest.mark.parametrize("there", ["a scene", "nothing"])
def test_an_interrupted_save_changes_nothing(
    pipe: VideoQuestionAnsweringPipeline,
    room_clip: Path,
    saved: Path,
    saved_bytes: bytes,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    there: str,
) -> None:
    def write_half(_tensors: Any, path: Any, *_: Any) -> None:
        Path(path).write_bytes(b"half a scene")
        raise error

    if there == "nothing":
        saved.unlink()
    other = pipe.open_scene(room_clip, **QUICK)
    monkeypatch.setattr(scene_files, "save_file", write_half)
    with pytest.raises(type(error)):
        other.save(saved)
    assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == (
        {"room.scene": saved_bytes} if there == "a scene" else {}
    )


# Opens a scene by commands from stdin, in a process of its own; says as JSON what came of each.
OPENS_SCENES = """
import json, os, signal, sys
import transformers
import spatial_mllm_hf
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
checkpoint, clip, options, question = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
pipe = transformers.pipeline("video-question-answering", model=checkpoint)
seen = []
pipe.model.model.visual.register_forward_hook(lambda *_: seen.append("vision tower"))
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    command, path = json.loads(line)
    if command == "open":
        scene = pipe.open_scene(clip, saved=path, **options)
        print(json.dumps([scene.ask(question, max_new_tokens=8)["generated_text"], seen]), flush=True)
    elif command == "save often":
        for _ in range(40):
            scene.save(path)
        print(json.dumps("saved"), flush=True)
    elif command == "be killed while saving":
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        scene.save(path)
"""


class OtherProcess:
    """A process that opens and saves scenes when told."""

    def __init__(self, checkpoint: Path, clip: Path) -> None:
        command = [sys.executable, "-c", OPENS_SCENES, str(checkpoint), str(clip), json.dumps(FEW), QUESTION]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def tell(self, *command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def other(tiny_checkpoint: Path, room_clip: Path) -> Iterator[OtherProcess]:
    process = OtherProcess(tiny_checkpoint, room_clip)
    try:
        assert process.hear() == "ready"
        yield process
    finally:
        process.close()


def test_processes_read_each_others_scenes(
    pipe: VideoQuestionAnsweringPipeline,
    other: OtherProcess,
    scene: Any,
    answer: dict[str, str],
    room_clip: Path,
    saved: Path,
    tmp_path: Path,
    ran: Counts,
    no_warnings: None,
) -> None:
    other.tell("open", str(saved))
    assert other.hear() == [answer["generated_text"], []]
    other.tell("open", str(tmp_path / "theirs"))
    assert other.hear() == [answer["generated_text"], ["vision tower"]]
    theirs = pipe.open_scene(room_clip, **FEW, saved=tmp_path / "theirs")
    assert not ran
    assert_same_scene(theirs, scene)


def test_processes_that_save_at_once_leave_a_whole_scene(
    pipe: VideoQuestionAnsweringPipeline,
    other: OtherProcess,
    scene: Any,
    room_clip: Path,
    saved: Path,
    no_warnings: None,
) -> None:
    other.tell("open", str(saved))
    other.hear()
    other.tell("save often", str(saved))
    for _ in range(20):  # while it does
        scene.save(saved)
        assert_same_scene(pipe.open_scene(room_clip, **FEW, saved=saved), scene)
    assert other.hear() == "saved"
    assert_same_scene(pipe.open_scene(room_clip, **FEW, saved=saved), scene)
    assert [path.name for path in saved.parent.iterdir()] == ["room.scene"]


def test_a_process_that_is_killed_while_saving_leaves_the_old_scene(
    pipe: VideoQuestionAnsweringPipeline,
    other: OtherProcess,
    scene: Any,
    room_clip: Path,
    saved: Path,
    saved_bytes: bytes,
    no_warnings: None,
) -> None:
    other.tell("open", str(saved))
    other.hear()
    other.tell("be killed while saving", str(saved))  # the last that it is told
    assert other.process.wait(timeout=60) == -signal.SIGKILL
    assert saved.read_bytes() == saved_bytes
    assert_same_scene(pipe.open_scene(room_clip, **FEW, saved=saved), scene)


# ---------------------------------------------------------------------------------------------- a folder of scenes


def test_a_folder_keeps_scenes_apart(
    pipe: VideoQuestionAnsweringPipeline,
    scene: Any,
    room_clip: Path,
    pictures: list[Image.Image],
    tmp_path: Path,
    ran: Counts,
    no_warnings: None,
) -> None:
    cache = tmp_path / "new" / "scenes"
    calls: list[dict[str, Any]] = [
        {"video": room_clip, **FEW},
        {"video": room_clip, **QUICK},
        {"video": room_clip, **QUICK, "second_per_grid": 2.0},
        {"frames": pictures, **QUICK},
        {"images": pictures},
    ]
    first = []
    for number, call in enumerate(calls, start=1):
        first.append(pipe.open_scene(**call, cache_dir=cache))
        assert len(list(cache.iterdir())) == number
    assert ran["vision tower"] == len(calls)
    written = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    seen = dict(ran)
    for call, before in zip(calls, first, strict=True):
        assert_same_scene(pipe.open_scene(**call, cache_dir=str(cache)), before)
    assert ran == seen
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == written
    assert_same_scene(first[0], scene)


def test_a_damaged_file_of_the_folder_is_written_anew(
    pipe: VideoQuestionAnsweringPipeline, room_clip: Path, tmp_path: Path, ran: Counts
) -> None:
    scene = pipe.open_scene(room_clip, **QUICK, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    os.truncate(path, path.stat().st_size - 100)
    with pytest.warns(UserWarning, match="is damaged"):
        pipe.open_scene(room_clip, **QUICK, cache_dir=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert ran["vision tower"] == 2
    assert_same_scene(pipe.open_scene(room_clip, **QUICK, cache_dir=tmp_path), scene)
    assert ran["vision tower"] == 2


# ---------------------------------------------------------------------------------------------- URLs


class Server(ThreadingHTTPServer):
    """Serves a folder. What it says of the version of a file can be set; so can whether it answers HEAD."""

    etag: str | None = None
    last_modified = False
    knows_head = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.requests: list[str] = []

    def handle_error(self, *_: Any) -> None:
        """FFmpeg hangs up when it has seen enough."""


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified" or self.server.last_modified:
            super().send_header(keyword, value)

    def end_headers(self) -> None:
        if self.server.etag is not None:
            super().send_header("ETag", self.server.etag)
        super().end_headers()

    def do_GET(self) -> None:
        self.server.requests.append("GET")
        super().do_GET()

    def do_HEAD(self) -> None:
        self.server.requests.append("HEAD")
        if self.server.knows_head:
            super().do_HEAD()
        else:
            self.send_error(405)


@pytest.fixture
def served_clip(tmp_path: Path) -> Path:
    """A clip that can be read from front to back, in a folder of its own."""
    (tmp_path / "served").mkdir()
    return write_clip(tmp_path / "served" / "room.mp4", 6, size=(112, 84), fps=2, faststart=True)


@pytest.fixture
def server(served_clip: Path) -> Iterator[Server]:
    with Server(served_clip.parent) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield httpd
        httpd.shutdown()


@pytest.fixture
def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/room.mp4"


def test_a_url_is_known_by_its_etag(
    pipe: VideoQuestionAnsweringPipeline,
    server: Server,
    url: str,
    served_clip: Path,
    tmp_path: Path,
    ran: Counts,
    no_warnings: None,
) -> None:
    server.etag = '"one"'
    cache = tmp_path / "scenes"
    first = pipe.open_scene(url, **QUICK, cache_dir=cache)
    assert first.ask(QUESTION, **SHORT) == pipe(served_clip, QUESTION, **QUICK, **SHORT)
    assert "GET" in server.requests
    server.requests.clear()
    seen = dict(ran)
    again = pipe.open_scene(url, **QUICK, cache_dir=cache)
    assert ran == seen
    assert server.requests == ["HEAD"]
    assert_same_scene(again, first)
    server.etag = '"two"'
    other = pipe.open_scene(url, **QUICK, cache_dir=cache)
    assert ran["vision tower"] == seen["vision tower"] + 1
    assert changed(other.key, first.key) == {"content"}
    assert len(list(cache.iterdir())) == 2


def test_a_url_is_known_by_its_time_of_change(
    pipe: VideoQuestionAnsweringPipeline, server: Server, url: str, served_clip: Path
) -> None:
    server.last_modified = True
    keys = [pipe.open_scene(url, **QUICK).key for _ in range(2)]
    assert keys[0] == keys[1]
    os.utime(served_clip, (1e9, 1e9))
    assert changed(pipe.open_scene(url, **QUICK).key, keys[0]) == {"content"}


def test_a_stale_url_is_opened_anew(
    pipe: VideoQuestionAnsweringPipeline, server: Server, url: str, tmp_path: Path, ran: Counts
) -> None:
    server.etag = '"one"'
    pipe.open_scene(url, **QUICK, saved=tmp_path / "scene")
    server.etag = '"two"'
    with pytest.warns(UserWarning, match="is stale: content changed"):
        pipe.open_scene(url, **QUICK, saved=tmp_path / "scene")
    assert ran["vision tower"] == 2


@pytest.mark.parametrize("knows_head", [True, False])
def test_a_url_without_a_version_is_not_saved(
    pipe: VideoQuestionAnsweringPipeline, server: Server, url: str, served_clip: Path, tmp_path: Path, knows_head: bool
) -> None:
    server.knows_head = knows_head
    scene = pipe.open_scene(url, **QUICK)
    assert scene.ask(QUESTION, **SHORT) == pipe(served_clip, QUESTION, **QUICK, **SHORT)
    says = "cannot be saved: its URL's server does not say which version .* Download the video"
    with pytest.raises(ValueError, match=says):
        scene.save(tmp_path / "scene")
    with pytest.raises(ValueError, match=says):
        pipe.open_scene(url, **QUICK, saved=tmp_path / "scene")
    with pytest.raises(ValueError, match=says):
        pipe.open_scene(url, **QUICK, cache_dir=tmp_path / "scenes")
    assert [path.name for path in tmp_path.iterdir()] == ["served"]
