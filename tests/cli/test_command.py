"""The command `spatial-mllm`: what it prints where, and how it ends.

A handful of runs are processes of their own, because exit code, stdout and stderr are what they are about; the others
call `main` in this one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import read_frame_numbers, write_audio_only, write_clip
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    pipeline,
)

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor

from .conftest import Command, Result

QUESTION = "How many chairs are in this room?"
SHORT = ("--num-frames", "4", "--max-new-tokens", "6")


def run_process(*arguments: Any) -> Result:
    command = [str(Path(sys.executable).with_name("spatial-mllm")), *map(str, arguments)]
    environment = dict(os.environ)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def reference_answer(tiny_checkpoint: Path, room_clip: Path) -> dict[str, Any]:
    """What the pipeline answers and sees for the question with SHORT."""
    pipe = pipeline("video-question-answering", model=str(tiny_checkpoint))
    answer = pipe(room_clip, QUESTION, num_frames=4, max_new_tokens=6, return_frames=True)
    return {"text": answer["generated_text"], "frames": answer["frames"][0]}


@pytest.fixture(scope="module")
def numbered_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames that show their own number, with the frame table in front, so that a cut leaves frames."""
    return write_clip(tmp_path_factory.mktemp("clips") / "numbered.mp4", 30, size=(96, 72), fps=10, faststart=True)


def count_tiles(sheet: Path, columns: int = 4) -> int:
    """Pictures on a contact sheet: the places in its grid that are mostly not white."""
    dark = np.asarray(Image.open(sheet).convert("L")) < 250
    width = dark.shape[1] // columns
    first_column = dark[:, :width].mean(axis=1) > 0.5  # a caption's letters cover less of a line than a picture does
    tops = np.flatnonzero(np.diff(first_column.astype(int)) == 1) + 1
    return sum(dark[top + 5, column * width : (column + 1) * width].mean() > 0.5 for top in tops for column in range(4))


# ---------------------------------------------------------------------------------------------- make-tiny


def test_make_tiny_writes_a_complete_checkpoint(run: Command, tmp_path: Path) -> None:
    result = run("make-tiny", tmp_path / "tiny")
    assert result.code == 0
    assert str(tmp_path / "tiny") in result.out
    assert "meaningless" in result.out
    assert result.err == ""
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "tiny")
    assert type(model) is SpatialMLLMForConditionalGeneration
    assert model.generation_config.max_new_tokens == 64
    processor = AutoProcessor.from_pretrained(tmp_path / "tiny")
    assert type(processor) is SpatialMLLMProcessor
    assert processor.tokenizer.decode(processor.tokenizer.encode("Stuhl, 椅子")) == "Stuhl, 椅子"


def test_the_seed_decides_the_weights(run: Command, tmp_path: Path) -> None:
    weights = {}
    for name, options in {"a": (), "b": ("--seed", 0), "c": ("--seed", 1)}.items():
        assert run("make-tiny", tmp_path / name, *options).code == 0
        weights[name] = load_file(tmp_path / name / "model.safetensors")
    a, b, c = weights.values()
    assert a.keys() == b.keys() == c.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_make_tiny_takes_no_folder_that_holds_something(run: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    result = run("make-tiny", tmp_path)
    assert result.code == 2
    assert f"{tmp_path} exists and is not an empty folder" in result.error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    result = run("make-tiny", tmp_path / "mine.txt")
    assert result.code == 2
    assert "mine.txt" in result.error


# ---------------------------------------------------------------------------------------------- ask


def test_ask_streams_the_answer_to_stdout_alone(
    tiny_checkpoint: Path, room_clip: Path, reference_answer: dict[str, Any]
) -> None:
    result = run_process("ask", room_clip, QUESTION, "--model", tiny_checkpoint, *SHORT)
    assert result.code == 0, result.err
    assert result.out == reference_answer["text"] + "\n"
    stages = [line.split()[1] for line in result.err.splitlines()]
    assert stages == ["load", "decode", "geometry", "encode"]


def test_ask_gives_json(run: Command, tiny_checkpoint: Path, room_clip: Path, reference_answer: dict[str, Any]) -> None:
    result = run("ask", room_clip, QUESTION, "--model", tiny_checkpoint, *SHORT, "--json")
    assert result.code == 0
    report = json.loads(result.out)
    assert report["answer"] == reference_answer["text"]
    assert report["question"] == QUESTION
    assert report["video"] == str(room_clip)
    assert report["frame_sampling"] == "space_aware"
    seen = [{"index": frame["index"], "timestamp": frame["timestamp"]} for frame in reference_answer["frames"]]
    assert report["frames"] == seen


def test_ask_samples_uniformly_when_told(run: Command, tiny_checkpoint: Path, numbered_clip: Path) -> None:
    options = ("--model", tiny_checkpoint, "--frame-sampling", "uniform", "--max-new-tokens", 2, "--json")
    report = json.loads(run("ask", numbered_clip, "What?", *options, "-n", 4).out)
    assert report["frame_sampling"] == "uniform"
    assert [frame["index"] for frame in report["frames"]] == [0, 10, 19, 29]
    assert [frame["timestamp"] for frame in report["frames"]] == pytest.approx([0.0, 1.0, 1.9, 2.9])
    result = run("ask", numbered_clip, "What?", *options)
    assert len(json.loads(result.out)["frames"]) == 16
    assert "geometry" not in result.err


def test_ask_writes_a_contact_sheet(run: Command, tiny_checkpoint: Path, room_clip: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "new folder" / "sheet.png"
    options = ("--model", tiny_checkpoint, "--max-new-tokens", 1, "--num-frames", 6)
    assert run("ask", room_clip, QUESTION, *options, "--contact-sheet", sheet).code == 0
    assert count_tiles(sheet) == 6
    width, height = Image.open(sheet).size
    assert (width > 4 * 320, height > 2 * 240) == (True, True)  # 160 x 120 frames at a width of 320
    assert (width < 4 * 340, height < 2 * 280) == (True, True)


def test_ask_takes_a_folder_of_frames_in_natural_order(run: Command, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """frame_10 comes after frame_2."""
    shades = np.linspace(20, 240, 12).astype(np.uint8)
    for number, shade in enumerate(shades):
        Image.fromarray(np.full((56, 56, 3), shade)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    out = tmp_path / "out"
    options = ("--model", tiny_checkpoint, "--frame-sampling", "uniform", "-n", 12)
    assert run("sample", tmp_path, *options, "--out", out).code == 0
    written = [int(np.asarray(Image.open(path)).mean()) for path in sorted(out.iterdir())]
    assert written == shades.tolist()
    answer = run("ask", tmp_path, QUESTION, *options, "--max-new-tokens", 3, "--json")
    assert [frame["index"] for frame in json.loads(answer.out)["frames"]] == list(range(12))


def test_ask_and_sample_in_bfloat16(run: Command, tiny_checkpoint: Path, room_clip: Path) -> None:
    options = ("--model", tiny_checkpoint, "--dtype", "bfloat16", "--device", "cpu", "-n", 2)
    assert run("ask", room_clip, QUESTION, *options, "--max-new-tokens", 2).code == 0
    assert run("sample", room_clip, *options).code == 0


# ---------------------------------------------------------------------------------------------- sample


def test_sample_prints_a_table_and_the_coverage(run: Command, tiny_checkpoint: Path, room_clip: Path) -> None:
    result = run("sample", room_clip, "--model", tiny_checkpoint, "-n", 4)
    assert result.code == 0
    report = json.loads(run("sample", room_clip, "--model", tiny_checkpoint, "-n", 4, "--json").out)
    rows = [line.split("│")[1:3] for line in result.out.splitlines() if line.startswith("│")]
    assert [int(index) for index, _ in rows] == [frame["index"] for frame in report["frames"]]
    assert [float(time) for _, time in rows] == pytest.approx([f["timestamp"] for f in report["frames"]], abs=0.006)
    assert f"{report['coverage']['covered_voxels']} of {report['coverage']['total_voxels']} voxels" in result.out
    assert "4 of 24 frames" in result.out


def test_sample_chooses_what_ask_sees(
    run: Command, tiny_checkpoint: Path, room_clip: Path, reference_answer: dict[str, Any], tmp_path: Path
) -> None:
    result = run("sample", room_clip, "-m", tiny_checkpoint, "-n", 4, "--json", "--out", tmp_path / "frames")
    report = json.loads(result.out)
    chosen = [frame["index"] for frame in report["frames"]]
    assert chosen == [frame["index"] for frame in reference_answer["frames"]]
    coverage = report["coverage"]
    assert 0 < coverage["covered_voxels"] <= coverage["total_voxels"]
    assert coverage["share"] == pytest.approx(coverage["covered_voxels"] / coverage["total_voxels"], abs=1e-4)
    files = sorted((tmp_path / "frames").iterdir())
    assert [int(path.stem.split("_")[-1]) for path in files] == chosen
    for path, frame in zip(files, reference_answer["frames"], strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(frame["image"]))


def test_sample_writes_the_frames_it_names(
    run: Command, tiny_checkpoint: Path, numbered_clip: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    options = ("--model", tiny_checkpoint, "--frame-sampling", "uniform", "-n", 4, "--json")
    result = run("sample", numbered_clip, *options, "--out", tmp_path / "frames", "--contact-sheet", sheet)
    assert json.loads(result.out)["coverage"] is None
    pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "frames").iterdir())]
    assert read_frame_numbers(np.stack(pictures)) == [0, 10, 19, 29]
    assert count_tiles(sheet) == 4


def test_uniform_sampling_needs_no_model(run: Command, numbered_clip: Path) -> None:
    result = run("sample", numbered_clip, "--frame-sampling", "uniform", "--num-frames", 2, "--json")
    assert [frame["index"] for frame in json.loads(result.out)["frames"]] == [0, 29]


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.fixture(scope="module")
def bad_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "words.mp4").write_text("these are words\n" * 50)
    (folder / "nothing.mp4").touch()
    (folder / "empty folder").mkdir()
    write_audio_only(folder / "sound.mp4")
    return folder


@pytest.mark.parametrize("verb", ["ask", "sample"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone.mp4", "no video file"),
        ("words.mp4", "cannot be opened as a video"),
        ("nothing.mp4", "is empty (0 bytes)"),
        ("sound.mp4", "has no video stream"),
        ("empty folder", "holds no images"),
    ],
)
def test_a_bad_video_is_named(
    run: Command, tiny_checkpoint: Path, bad_videos: Path, verb: str, name: str, says: str
) -> None:
    question = [QUESTION] if verb == "ask" else []
    result = run(verb, bad_videos / name, *question, "--model", tiny_checkpoint)
    assert result.code == 2
    assert result.out == ""
    assert str(bad_videos / name) in result.error
    assert says in result.error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--num-frames", 3], "num_frames must be a positive even number"),
        (["--num-frames", 0], "got 0"),
        (["--num-frames", -2], "got -2"),
        (["--device", "cuda:77"], "--device cuda:77: there is no such device"),
        (["--device", "potato"], "--device 'potato' is not the name of a device"),
        (["--dtype", "int8"], "--dtype must be one of auto, float32, bfloat16, float16, got 'int8'"),
        (["--model", "no such folder"], "--model no such folder: there is no such folder"),
    ],
)
def test_a_bad_option_is_named(
    run: Command, tiny_checkpoint: Path, room_clip: Path, options: list[Any], says: str
) -> None:
    for verb in (["ask", room_clip, QUESTION], ["sample", room_clip]):
        result = run(*verb, "--model", tiny_checkpoint, *options)
        assert result.code == 2
        assert result.out == ""
        assert says in result.error


def test_an_empty_question_is_refused(run: Command, tiny_checkpoint: Path, room_clip: Path) -> None:
    result = run("ask", room_clip, " ", "--model", tiny_checkpoint)
    assert result.code == 2
    assert "question is empty" in result.error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ask"], "Missing argument"),
        (["ask", "room.mp4"], "There is no question"),
        (["chat"], "Missing argument"),
        (["sample"], "Missing argument"),
        (["make-tiny"], "Missing argument"),
        (["ask", "room.mp4", "Why?", "--frame-sampling", "random"], "--frame-sampling"),
        (["ask", "room.mp4", "Why?", "--num-frames", "many"], "--num-frames"),
        (["ask", "room.mp4", "Why?", "--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
    ],
)
def test_arguments_that_do_not_parse_are_named(run: Command, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert says in result.err
    assert "Traceback" not in result.err


@pytest.fixture(scope="module")
def plain_qwen(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-VL checkpoint with our processor."""
    folder = tmp_path_factory.mktemp("plain") / "qwen"
    settings = json.loads((tiny_checkpoint / "config.json").read_text())
    kept = ("text_config", "vision_config", "tie_word_embeddings", "image_token_id", "video_token_id")
    config = Qwen2_5_VLConfig(**{name: settings[name] for name in kept})
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny_checkpoint).save_pretrained(folder)
    return folder


def test_a_plain_qwen_is_refused(run: Command, plain_qwen: Path, room_clip: Path) -> None:
    result = run("ask", room_clip, QUESTION, "--model", plain_qwen)
    assert result.code == 2
    assert f"{plain_qwen} lacks" in result.error
    assert "geometry branch" in result.error


def test_a_checkpoint_without_geometry_is_refused(
    run: Command, plain_qwen: Path, tiny_checkpoint: Path, room_clip: Path, tmp_path: Path
) -> None:
    """It says that it is a Spatial-MLLM, and holds the weights of a Qwen2.5-VL."""
    for path in tiny_checkpoint.iterdir():
        source = plain_qwen if path.suffix == ".safetensors" else tiny_checkpoint
        (tmp_path / path.name).write_bytes((source / path.name).read_bytes())
    for verb in (["ask", room_clip, QUESTION], ["sample", room_clip]):
        result = run(*verb, "--model", tmp_path)
        assert result.code == 2
        assert result.out == ""
        assert f"{tmp_path} lacks" in result.error
    options = ("--model", tmp_path, "--frame-sampling", "uniform")
    assert run("sample", room_clip, *options).code == 0  # nothing there needs geometry


def test_an_empty_model_folder_is_named(run: Command, room_clip: Path, tmp_path: Path) -> None:
    result = run("ask", room_clip, QUESTION, "--model", tmp_path)
    assert result.code == 2
    assert str(tmp_path) in result.error


def test_weights_that_cannot_be_read_are_the_users_to_mend(
    run: Command, tiny_checkpoint: Path, room_clip: Path, tmp_path: Path
) -> None:
    for path in tiny_checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    result = run("ask", room_clip, QUESTION, "--model", tmp_path)
    assert result.code == 2
    assert result.error


def test_a_picture_that_cannot_be_written_is_refused_before_the_answer(
    run: Command, tiny_checkpoint: Path, room_clip: Path, tmp_path: Path
) -> None:
    options = ("--model", tiny_checkpoint, *SHORT, "--contact-sheet", tmp_path / "sheet.mp3")
    result = run("ask", room_clip, QUESTION, *options)
    assert result.code == 2
    assert result.out == ""
    assert ".mp3" in result.error


def test_the_video_is_looked_at_before_the_model_is_loaded(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path
) -> None:
    """Ten gigabytes later is a bad time to learn of a typing error."""

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(SpatialMLLMForConditionalGeneration, "from_pretrained", load)
    result = run("ask", tmp_path / "gone.mp4", QUESTION, "--model", tiny_checkpoint)
    assert result.code == 2
    assert "gone.mp4" in result.error


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    result = run_process("sample", tmp_path)
    assert result.code == 2
    assert result.out == ""
    assert result.err == f"spatial-mllm: error: {result.error}\n"
    assert str(tmp_path) in result.error


def test_traceback_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    result = run_process("--traceback", "sample", tmp_path)
    assert result.code != 0
    assert result.out == ""
    assert "Traceback (most recent call last)" in result.err
    assert "resolve_video" in result.err
    assert str(tmp_path) in result.err.splitlines()[-1]


def test_a_video_that_is_cut_off_works_with_a_warning(
    tiny_checkpoint: Path, numbered_clip: Path, tmp_path: Path
) -> None:
    whole = numbered_clip.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) * 3 // 4])
    options = ("--model", tiny_checkpoint, "--frame-sampling", "uniform", *SHORT)
    result = run_process("ask", cut, QUESTION, *options)
    assert result.code == 0, result.err
    assert result.out.strip()
    (warning,) = [line for line in result.err.splitlines() if line.startswith("spatial-mllm: warning: ")]
    assert str(cut) in warning
    assert "of the 30 frames" in warning


def test_real_clips_are_answered(run: Command, tiny_checkpoint: Path, media: Path) -> None:
    question = "How many chair(s) are in this room?"
    for sampling in ("space_aware", "uniform"):
        options = ("--model", tiny_checkpoint, "--frame-sampling", sampling, "--max-new-tokens", 8)
        result = run("ask", media / "47334096.mp4", question, *options)
        assert result.code == 0
        assert result.out.strip()
    options = ("--frame-sampling", "uniform", "-n", 4, "--json")
    report = json.loads(run("sample", media / "47334096_frames", *options).out)
    assert report["total_frames"] == 28
    report = json.loads(run("sample", media / "robot_unitree.mp4", *options).out)
    assert (report["total_frames"], report["frames"][-1]["index"]) == (174, 173)
