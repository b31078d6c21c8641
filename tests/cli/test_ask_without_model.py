"""`spatial-mllm ask` where no model is named: the Hub's, or without a network the tiny one that comes along."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration
from spatial_mllm_hf.cli.common import DEFAULT_MODEL, EMBEDDED_MODEL, load_pipeline, model_or_embedded
from spatial_mllm_hf.data.question_generation import GenerationSettings, generate_questions
from spatial_mllm_hf.data.reasoned_answers import ReasonedAnswers, read_map
from spatial_mllm_hf.data.scene_answers import SceneAnswers
from spatial_mllm_hf.data.spatial_questions import DIRECTION_TYPES
from spatial_mllm_hf.data.synthetic_rooms import write_clip
from spatial_mllm_hf.data.synthetic_scenes import SceneSettings, SyntheticScene, make_scene
from spatial_mllm_hf.data.training_prompts import question_prompt
from spatial_mllm_hf.training.rewards import has_form

from .conftest import Command

SETTINGS = SceneSettings(num_frames=64, size=(84, 56), compass=True, seen_share=0.004, most_objects=8)
SEED = 4_000_000  # no room of training or measurement is near


def write_room(folder: Path, seed: int) -> tuple[SyntheticScene, Path]:
    room = make_scene(seed, SETTINGS)
    clip = folder / f"{seed}.mp4"
    write_clip(room.frames.rgb, clip, SETTINGS.frame_rate)
    return room, clip


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("no network"), OfflineModeIsEnabled("offline")])
def test_without_a_network_the_embedded_model_is_taken_and_named(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    assert model_or_embedded(None) == str(EMBEDDED_MODEL)
    said = capsys.readouterr().err
    assert DEFAULT_MODEL in said
    assert "synthetic rooms" in said
    assert model_or_embedded("somebody/else") == "somebody/else"
    assert capsys.readouterr().err == ""


def test_where_the_hub_answers_its_model_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *names: asked.append(names))
    assert model_or_embedded(None) == DEFAULT_MODEL
    assert asked == [(DEFAULT_MODEL, "config.json")]

    def refuse(*_: Any) -> None:
        raise HfHubHTTPError("gated", response=SimpleNamespace(headers={}, request=None, status_code=403))  # type: ignore[arg-type]

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    assert model_or_embedded(None) == DEFAULT_MODEL  # loading it says what is wrong
    assert capsys.readouterr().err == ""


def test_ask_without_a_model_offline(run: Command, tmp_path: Path) -> None:
    _, clip = write_room(tmp_path, SEED)
    question = "How many chair(s) are in this room?"
    result = run("ask", clip, question, "--frame-sampling", "uniform")
    assert result.code == 0, result.err
    assert "a tiny model answers" in result.err
    named = run("ask", clip, question, "--frame-sampling", "uniform", "--model", EMBEDDED_MODEL)
    assert named.out == result.out != ""
    assert "a tiny model answers" not in named.err


def test_the_embedded_model_is_as_small_as_promised_and_complete() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED_MODEL.iterdir()) <= 15_000_000
    model = SpatialMLLMForConditionalGeneration.from_pretrained(EMBEDDED_MODEL, dtype=torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) <= 10_000_000
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())


def test_it_knows_where_things_are_in_rooms_that_it_has_never_seen(tmp_path: Path) -> None:
    """In four rooms; docs/tiny-rooms.md measures it on more."""
    pipe = load_pipeline(str(EMBEDDED_MODEL), "cpu", "float32")
    off, words, by_chance = [], [], []
    for seed in range(SEED, SEED + 4):
        room, clip = write_room(tmp_path, seed)
        scene = pipe.open_scene(str(clip), frame_sampling="uniform")
        truth = read_map(f"<think>{ReasonedAnswers(SceneAnswers(room.annotation), room.extrinsics[0]).map()}</think>")
        questions = generate_questions(room.annotation, 0, GenerationSettings.at_most(4, wording="vsibench"))
        for question in questions:
            if question.question_type not in DIRECTION_TYPES:
                continue
            said = scene.ask(question_prompt(question, "grpo"))["generated_text"]
            assert has_form(said)
            options = question.words_of_options
            thought = said.partition("</think>")[0].rpartition(", ")[2]
            words.append(thought == options[question.ground_truth])
            by_chance.append(1 / len(options))
        there = read_map(said)
        alone = [name for name in truth.keys() & there.keys() if len(truth[name]) == len(there[name]) == 1]
        off += [float(np.linalg.norm(truth[name][0] - there[name][0])) for name in alone]
    assert len(off) >= 10
    assert float(np.median(off)) < 1.3  # metres, in rooms of up to nine
    assert len(words) >= 40
    assert np.mean(words) > np.mean(by_chance) + 0.15
