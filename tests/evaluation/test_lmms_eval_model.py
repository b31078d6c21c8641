"""Spatial-MLLM inside lmms-eval, on a tiny checkpoint and rendered rooms. `make lmms-eval` runs this.

The task is VSI-Bench's own out of the installed lmms-eval (its messages, scoring and aggregation) with questions of
ours in place of the data set, which lies on the Hub.
"""

import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; `make lmms-eval` has it in its own environment")

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model, list_available_models
from lmms_eval.tasks.vsibench import utils as vsibench
from transformers import pipeline

from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room, write_clip
from spatial_mllm_hf.evaluation.lmms_eval_model import SpatialMLLM

FEW: dict[str, Any] = {"num_frames": 4, "num_candidate_frames": 8, "candidate_size": 56}
CHOICES = ("rel_direction_easy", "rel_direction_medium", "rel_direction_hard", "rel_distance")
QUESTION_TYPES = (
    *(f"object_{kind}" for kind in CHOICES),
    "route_planning",
    "obj_appearance_order",
    *vsibench.NA_QUESTION_TYPES,
)
TASK = "vsibench_here"
SCENES = ("room_a", "room_b")


def question(number: int, question_type: str) -> dict[str, Any]:
    """A document in VSI-Bench's form; four in a row are of two scenes in both places of a pair."""
    return {
        "id": number,
        "dataset": "rooms",
        "scene_name": SCENES[number // 2 % 2],
        "question_type": question_type,
        "question": f"What of {question_type.replace('_', ' ')}?",
        "options": ["A. bed", "B. sofa"] if question_type in vsibench.MCA_QUESTION_TYPES else None,
        "ground_truth": "A" if question_type in vsibench.MCA_QUESTION_TYPES else "3",
    }


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return [question(number, kind) for number, kind in enumerate(QUESTION_TYPES)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, room_clip: Path) -> Path:
    """A folder for HF_HOME with the videos of two rooms where VSI-Bench's task looks for them."""
    folder = tmp_path_factory.mktemp("home")
    rooms = folder / "vsibench" / "rooms"
    rooms.mkdir(parents=True)
    shutil.copy(room_clip, rooms / f"{SCENES[0]}.mp4")
    room, size = make_room(seed=11), (160, 120)
    extrinsics, intrinsics = camera_path(room, num_frames=24, size=size)
    write_clip(render(room, extrinsics, intrinsics, size=size).rgb, rooms / f"{SCENES[1]}.mp4", fps=8)
    return folder


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path, home: Path, documents: list[dict[str, Any]]) -> list[str]:
    """The pipeline's own answer to each document, one by one."""
    pipe = pipeline("video-question-answering", model=str(tiny_checkpoint))
    answers = [
        pipe(
            video=home / "vsibench" / "rooms" / f"{document['scene_name']}.mp4",
            question=vsibench.vsibench_doc_to_text(document),
            max_new_tokens=16,
            do_sample=False,
            **FEW,
        )["generated_text"]
        for document in documents
    ]
    assert len(set(answers)) == len(documents)  # a mix-up would show
    return answers


@pytest.fixture(scope="module")
def right(documents: list[dict[str, Any]], expected: list[str]) -> dict[str, Any]:
    """One document with the truth changed to what the model says, so that a score is not 0."""
    document = dict(documents[3])
    return {**document, "ground_truth": vsibench.fuzzy_matching(expected[3])}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, documents: list[dict[str, Any]], right: dict[str, Any]) -> Path:
    """A folder for --include_path: VSI-Bench's task on the documents."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [right if row["id"] == right["id"] else row for row in documents]
    data = folder / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = Path(vsibench.__file__).with_name("_default_template_yaml")
    (folder / "vsibench_here.yaml").write_text(
        f"include: {template}\ntask: {TASK}\ndataset_path: json\ntest_split: test\n"
        f"dataset_kwargs:\n  data_files:\n    test: {data}\n"
    )
    return folder


def run_command(launcher: list[str], home: Path, tasks: Path, model: Path, out: Path) -> tuple[dict, list[str]]:
    """Runs lmms-eval's command. Returns its results and the answers in the order of the documents."""
    model_args = ",".join(f"{name}={value}" for name, value in {"pretrained": model, **FEW}.items())
    options = ["--model", "spatial_mllm", "--model_args", model_args, "--batch_size", "2", "--tasks", TASK]
    options += ["--include_path", str(tasks), "--output_path", str(out), "--log_samples"]
    environment = {**os.environ, "HF_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, "lmms_eval", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    files = {name: sorted(out.rglob(f"*_{name}*")) for name in ("results.json", "samples")}
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(len(found) == 1 for found in files.values()), done.stdout + done.stderr
    samples = [json.loads(line) for line in files["samples"][0].read_text().splitlines()]
    samples.sort(key=lambda sample: sample["doc_id"])
    results = json.loads(files["results.json"][0].read_text())
    results["ranks"] = sorted(rank for rank in range(4) if f"Running on rank {rank} " in done.stdout + done.stderr)
    return results, [sample["filtered_resps"] for sample in samples]


@pytest.mark.parametrize(
    ("launcher", "ranks"),
    [(["-m"], [0]), (["-m", "torch.distributed.run", "--nproc_per_node", "2", "-m"], [0, 1])],
    ids=["one process", "two processes"],
)
def test_the_command_scores_the_pipelines_answers(
    launcher: list[str],
    ranks: list[int],
    home: Path,
    tasks: Path,
    tiny_checkpoint: Path,
    expected: list[str],
    tmp_path: Path,
) -> None:
    results, answers = run_command(launcher, home, tasks, tiny_checkpoint, tmp_path)
    assert results["ranks"] == ranks
    assert answers == expected
    scores = results["results"][TASK]
    assert scores["object_rel_distance_accuracy,none"] == 1
    assert scores["object_rel_direction_accuracy,none"] == 0
    assert scores["vsibench_overall,none"] == pytest.approx(1 / 8)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> SpatialMLLM:
    return SpatialMLLM(str(tiny_checkpoint), device="cpu", batch_size="2", **FEW)


def requests_of(model: SpatialMLLM, documents: list[dict[str, Any]], **settings: Any) -> list[Instance]:
    """Requests as lmms-eval makes them of VSI-Bench's task."""
    model.task_dict[TASK] = {"test": documents}
    return [
        Instance(
            request_type="generate_until",
            arguments=("", vsibench.vsibench_doc_to_messages, settings, number, TASK, "test"),
            idx=0,
            metadata={"task": TASK, "doc_id": number, "repeats": 1},
        )
        for number in range(len(documents))
    ]


def test_lmms_eval_finds_the_model_by_its_entry_point() -> None:
    assert "spatial_mllm" in list_available_models()
    assert get_model("spatial_mllm") is SpatialMLLM


def test_messages_of_vsibench_are_scenes_and_each_is_opened_once(
    model: SpatialMLLM,
    home: Path,
    documents: list[dict[str, Any]],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vsibench, "base_cache_dir", str(home))
    assert model.answerer is not None
    opened: list[list[str]] = []
    open_scene = model.answerer.pipe.open_scene

    def count(**options: Any) -> Any:
        opened.append([Path(video).stem for video in options["videos"]])
        return open_scene(**options)

    monkeypatch.setattr(model.answerer.pipe, "open_scene", count)
    cached: list[Any] = []
    monkeypatch.setattr(model.cache_hook, "add_partial", lambda *partial: cached.append(partial))
    settings = {"max_new_tokens": 16, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False}
    settings["until"] = ["\n\n"]
    assert model.generate_until(requests_of(model, documents, **settings)) == expected
    assert opened == [[SCENES[0]], [SCENES[1]]]
    assert sorted(text for *_, text in cached) == sorted(expected)
    assert {(kind, *map(str, request)) for kind, request, _ in cached} == {("generate_until", "", str(settings))}


def test_what_is_said_of_generation_is_done(
    model: SpatialMLLM, home: Path, documents: list[dict[str, Any]], expected: list[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(vsibench, "base_cache_dir", str(home))
    stop = expected[0][2]
    requests = requests_of(model, documents[:1], max_new_tokens=16, until=[stop])
    assert model.generate_until(requests) == [expected[0].split(stop)[0].strip()]
    assert model.generate_until(requests_of(model, documents[:1], max_new_tokens=3)) == [expected[0][:3]]
    drawn = requests_of(model, documents[:1], max_new_tokens=16, temperature=1.5, do_sample=False)
    torch.manual_seed(0)
    assert len(set(model.generate_until(drawn * 3))) > 1


@pytest.mark.parametrize(("extract", "answer"), [(True, "B"), (False, "It is <answer>B</answer>")])
def test_settings_of_the_model_reach_the_answers(
    tiny_checkpoint: Path, home: Path, documents: list[Any], monkeypatch: pytest.MonkeyPatch, extract: bool, answer: str
) -> None:
    monkeypatch.setattr(vsibench, "base_cache_dir", str(home))
    model = SpatialMLLM(str(tiny_checkpoint), device="cpu", max_new_tokens=5, extract_answer=extract, **FEW)
    assert model.answerer is not None
    decoded: list[list[int]] = []

    def decode(tokens: torch.Tensor, **_: Any) -> list[str]:
        decoded.append(list(tokens.shape))
        return ["It is <answer>B</answer>"]

    monkeypatch.setattr(model.answerer.pipe.processor, "batch_decode", decode)
    assert model.generate_until(requests_of(model, documents[:1])) == [answer]
    assert decoded == [[1, 5]]


def test_a_public_v1_0_checkpoint_which_calls_itself_qwen2_5_vl_is_loaded(
    tiny_checkpoint: Path, reference: Path, tmp_path: Path
) -> None:
    public = reference / "official_v10_tiny"
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)  # for its processor
    shutil.copy(public / "model.safetensors", tmp_path)
    config = json.loads((public / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_vl"
    config["spatial_config"] = json.loads((public / "spatial_config.json").read_text())  # too small to be the default
    (tmp_path / "config.json").write_text(json.dumps(config))
    answerer = SpatialMLLM(str(tmp_path), device="cpu").answerer
    assert answerer is not None
    assert answerer.pipe.model.config.connector_config.connector_type == "merger"


def test_it_generates_only(model: SpatialMLLM) -> None:
    with pytest.raises(NotImplementedError, match="leave out tasks of loglikelihoods"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="leave out tasks of several rounds"):
        model.generate_until_multi_round([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": "auto"}, "batch_size must be a number above 0, got 'auto'"),
        ({"batch_size": 0}, "batch_size must be a number above 0, got 0"),
        ({"dtype": "int8"}, "dtype must be one of auto, float32, bfloat16, float16, got 'int8'"),
        ({"num_frames": 5}, "num_frames"),
        ({"frame_sampling": "clever"}, "frame_sampling"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_loaded(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpatialMLLM("there is no such folder", **options)


def test_clean_lets_go_of_the_model(tiny_checkpoint: Path) -> None:
    model = SpatialMLLM(str(tiny_checkpoint), device="cpu")
    assert model.answerer is not None
    weights = weakref.ref(model.answerer.pipe.model)
    model.clean()
    gc.collect()
    assert weights() is None
