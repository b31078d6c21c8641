"""The tiny model on rooms that it has never seen: by task, against chance, its twin without geometry, and itself.

    python benchmarks/tiny_rooms.py [--folder tiny] [--seeds 3]

Needs what `make train-tiny` leaves in the folder. Trains what is compared and not there yet (the twin through all
stages, more seeds of the last stage of fine-tuning of both), asks all of them the questions of FOLDER/sparse_test
by the evaluation's runner, and writes benchmarks/results/tiny_rooms.json, docs/tiny_rooms.png and docs/tiny_curves.png.
What is there already is kept, so it goes on after a kill.
"""

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors import safe_open

from spatial_mllm_hf.data.question_templates import parse_question
from spatial_mllm_hf.data.reasoned_answers import ReasonedAnswers, read_map
from spatial_mllm_hf.data.scene_annotations import SceneAnnotation, read_scene_annotations
from spatial_mllm_hf.data.scene_answers import SceneAnswers
from spatial_mllm_hf.data.spatial_questions import DIRECTION_TYPES
from spatial_mllm_hf.data.vsibench_questions import read_vsibench_questions
from spatial_mllm_hf.evaluation.answer_log import read_answers
from spatial_mllm_hf.evaluation.answers import extract_answer
from spatial_mllm_hf.evaluation.metrics import score_answer
from spatial_mllm_hf.training.recipes import read_recipe

ROOT = Path(__file__).parents[1]
FIRST_SEED: int = read_recipe("tiny_sft")["seed"]  # of the last stage of fine-tuning; the others follow it
STAGES = ("frames", "walks", "thoughts", "together")  # whose curves are drawn; letters are text alone
TASKS = {
    "counting": ("object_counting",),
    "absolute distance": ("object_abs_distance",),
    "object size": ("object_size_estimation",),
    "room size": ("room_size_estimation",),
    "relative distance": ("object_rel_distance",),
    "direction": ("object_rel_direction_easy", "object_rel_direction_medium", "object_rel_direction_hard"),
    "order of appearance": ("obj_appearance_order",),
}
GREY, OURS, TWIN, RL = "#9ca3af", "#d95f02", "#374151", "#1b9e77"


class Run(NamedTuple):
    """A model asked about frames chosen in one way."""

    name: str
    model: str
    sampling: str = "uniform"
    frames: int = 8


OTHER_RUNS = (  # beside those of the seeds: GRPO, and other choices of frames for the model that comes along
    Run("grpo", "grpo"),
    Run("sft_space_aware_8", "sft", "space_aware", 8),
    Run("sft_uniform_4", "sft", "uniform", 4),
    Run("sft_space_aware_4", "sft", "space_aware", 4),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("tiny"), help="what `make train-tiny` left")
    parser.add_argument("--seeds", type=int, default=3, help="of the last stage of fine-tuning")
    arguments = parser.parse_args()
    folder, seeds = arguments.folder, range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    if not (folder / "grpo" / "config.json").is_file():
        raise SystemExit(f"{folder} holds no trained model: run `make train-tiny` first.")
    runs = []
    for seed in seeds:
        train(folder, "--seed", str(seed))
        train(folder, "--seed", str(seed), "--twin")
        fine_tuned = "sft" if seed == FIRST_SEED else f"sft_{seed}"
        runs += [Run(f"sft_{seed}", fine_tuned), Run(f"twin_{seed}", f"twin_{seed}")]
    results: dict[str, Any] = {"baselines": baselines(folder), "geometry": geometry(folder), "seeds": list(seeds)}
    results["runs"] = {asked.name: measure(folder, asked) for asked in (*runs, *OTHER_RUNS)}
    text = json.dumps(results, indent=2) + "\n"
    (ROOT / "benchmarks" / "results" / "tiny_rooms.json").write_text(text, encoding="utf-8")
    draw_scores(results, ROOT / "docs" / "tiny_rooms.png")
    draw_curves(folder, ROOT / "docs" / "tiny_curves.png")
    print(table(results))


def run(*arguments: str) -> None:
    """A program in this environment."""
    print(*arguments, flush=True)
    subprocess.run([sys.executable, *arguments], check=True, env={"OMP_NUM_THREADS": "1", **os.environ})


def train(folder: Path, *options: str) -> None:
    """The stages of `make train-tiny` that are not there yet."""
    run(str(ROOT / "examples" / "train_tiny.py"), str(folder), *options)


def measure(folder: Path, asked: Run) -> dict[str, Any]:
    """Scores by task, in percent, as the code of Spatial-MLLM reads answers; counts also by exact match."""
    out = folder / "results" / asked.name
    data = folder / "sparse_test"
    questions = ("--data", str(data / "questions.jsonl"), "--videos", str(data / "videos"), "--prompt", "grpo")
    frames = ("--frame-sampling", asked.sampling, "--num-frames", str(asked.frames), "--num-candidate-frames", "64")
    generation = ("--model", str(folder / asked.model), "--max-new-tokens", "256", "--batch-size", "9")
    evaluate = ("-m", "spatial_mllm_hf.cli.main", "eval", "vsibench")
    run(*evaluate, *questions, *frames, *generation, "--out", str(out))
    said = {name: answer.prediction or "" for name, answer in read_answers(out).items()}
    return scores(folder, said) | {"thoughts": thoughts(folder, said)}


def scores(folder: Path, predictions: dict[str, str]) -> dict[str, Any]:
    found: dict[str, list[float]] = collections.defaultdict(list)
    for question in read_vsibench_questions(folder / "sparse_test" / "questions.jsonl"):
        given, kind, truth = predictions[question.id], question.question_type, question.ground_truth
        found[kind].append(score_answer(kind, extract_answer(given), truth))
        if kind == "object_counting":
            found["exact count"].append(float(extract_answer(given) == truth))
    by_type = {kind: 100 * statistics.fmean(values) for kind, values in found.items()}
    by_task = {task: statistics.fmean(by_type[kind] for kind in kinds) for task, kinds in TASKS.items()}
    return {"tasks": by_task, "types": by_type, "mean": statistics.fmean(by_task.values())}


def thoughts(folder: Path, predictions: dict[str, str]) -> dict[str, float]:
    """What the maps before the answers are worth, and the words that thoughts about directions end with."""
    true_maps = {}
    for scene in read_scene_annotations(folder / "sparse_test" / "annotations.json"):
        assert isinstance(scene, SceneAnnotation)
        with safe_open(folder / "sparse_test" / "geometry" / f"{scene.name}.safetensors", framework="numpy") as file:
            reasoned = ReasonedAnswers(SceneAnswers(scene), file.get_slice("extrinsics")[0])
        true_maps[scene.name] = read_map(f"<think>{reasoned.map()}</think>")
    off, words, fitting = [], [], []
    named = found = there = 0
    for question in read_vsibench_questions(folder / "sparse_test" / "questions.jsonl"):
        said, truth = predictions[question.id], true_maps[question.scene_name]
        drawn = read_map(said)
        both = truth.keys() & drawn.keys()
        named, found, there = named + len(drawn), found + len(both), there + len(truth)
        alone = [name for name in both if len(truth[name]) == len(drawn[name]) == 1]
        off += [float(np.linalg.norm(truth[name][0] - drawn[name][0])) for name in alone]
        if question.question_type in DIRECTION_TYPES:
            options = question.words_of_options
            word = said.partition("</think>")[0].rpartition(", ")[2]
            words.append(word == options[question.ground_truth])
            fitting.append(options.get(extract_answer(said)) == word)
    return {
        "places, median metres off": statistics.median(off) if off else float("nan"),
        "categories named that are there": 100 * found / max(named, 1),
        "categories there that are named": 100 * found / there,
        "words of directions that are right": 100 * statistics.fmean(words),
        "letters of directions that fit the words": 100 * statistics.fmean(fitting),
    }


def baselines(folder: Path) -> dict[str, Any]:
    """What can be had without looking.

    "chance": a letter by lot. "constant": of numbers, the median of the training rooms for the same category, else for
    the same task; of letters, the option that is right most often there by its words, else by lot.
    """
    train, test = (
        read_vsibench_questions(folder / name / "questions.jsonl") for name in ("sparse_held_out", "sparse_test")
    )
    numbers: dict[Any, list[float]] = collections.defaultdict(list)
    words: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for question in train:
        if question.options is None:
            for key in (question.question_type, (question.question_type, category(question))):
                numbers[key].append(float(question.ground_truth))
        else:
            words[question.question_type][question.words_of_options[question.ground_truth]] += 1
    chance, constant = collections.defaultdict(list), collections.defaultdict(list)
    for question in test:
        kind, truth = question.question_type, question.ground_truth
        if question.options is None:
            seen = numbers.get((kind, category(question))) or numbers[kind]
            constant[kind].append(score_answer(kind, f"{statistics.median(seen):.1f}", truth))
            continue
        options = question.words_of_options
        counts = {letter: words[kind][text] for letter, text in options.items()}
        best = [letter for letter, count in counts.items() if count == max(counts.values())]
        chance[kind].append(1 / len(options))
        constant[kind].append(float(truth in best) / len(best))

    def by_task(values: dict[str, list[float]]) -> dict[str, float]:
        means = {kind: 100 * statistics.fmean(found) for kind, found in values.items()}
        kinds = {task: [means[kind] for kind in kinds if kind in means] for task, kinds in TASKS.items()}
        return {task: statistics.fmean(found) for task, found in kinds.items() if found}

    return {"chance": by_task(chance), "constant": by_task(constant)}


def category(question: Any) -> str:
    fields = parse_question(question.question_type, question.question) or {}
    return fields.get("category", "")


def geometry(folder: Path) -> dict[str, float]:
    """Errors on the rooms held out, and those of a predictor that never looks."""
    history = json.loads((folder / "geometry" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    last = [entry for entry in history if "eval_loss" in entry][-1]
    units = ("relative", "metres", "degrees")
    return {name.removeprefix("eval_"): value for name, value in last.items() if name.rsplit("_", 1)[-1] in units}


def spread(results: dict[str, Any], kind: str, task: str) -> tuple[float, float, float]:
    """Mean, least and most over the seeds."""
    values = [results["runs"][f"{kind}_{seed}"]["tasks"][task] for seed in results["seeds"]]
    return statistics.fmean(values), min(values), max(values)


def range_of(values: tuple[float, float, float], decimals: int = 1) -> str:
    mean, least, most = (f"{value:.{decimals}f}" for value in values)
    return mean if least == most else f"{mean} ({least} to {most})"


def table(results: dict[str, Any]) -> str:
    """All scores, as Markdown."""
    runs, base = results["runs"], results["baselines"]
    lines = [
        "| task | chance | constant | twin without geometry | SFT | GRPO |",
        "|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        twin, sft = (spread(results, kind, task) for kind in ("twin", "sft"))
        cells = [
            f"{base['chance'][task]:.1f}" if task in base["chance"] else "",
            f"{base['constant'][task]:.1f}",
            *map(range_of, (twin, sft)),
            f"{runs['grpo']['tasks'][task]:.1f}",
        ]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    exact = [[runs[f"{kind}_{seed}"]["types"]["exact count"] for seed in results["seeds"]] for kind in ("twin", "sft")]
    cells = [range_of((statistics.fmean(values), min(values), max(values))) for values in exact]
    lines.append(f"| counts that are exact | | | {' | '.join(cells)} | {runs['grpo']['types']['exact count']:.1f} |")
    lines += ["", "| thoughts | twin without geometry | SFT | GRPO |", "|---|---|---|---|"]
    for name in runs["grpo"]["thoughts"]:
        values = [[runs[f"{kind}_{seed}"]["thoughts"][name] for seed in results["seeds"]] for kind in ("twin", "sft")]
        places = 2 if "metres" in name else 1
        cells = [range_of((statistics.fmean(found), min(found), max(found)), places) for found in values]
        lines.append(f"| {name} | {' | '.join(cells)} | {runs['grpo']['thoughts'][name]:.{places}f} |")
    lines += ["", "| frames | uniform | space-aware |", "|---|---|---|"]
    for frames in (4, 8):
        uniform = runs[f"sft_{FIRST_SEED}" if frames == 8 else "sft_uniform_4"]["mean"]
        lines.append(f"| {frames} | {uniform:.1f} | {runs[f'sft_space_aware_{frames}']['mean']:.1f} |")
    return "\n".join(lines)


def draw_scores(results: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    groups = {
        "without looking": (GREY, [(results["baselines"]["constant"][task],) * 3 for task in TASKS]),
        "twin without geometry": (TWIN, [spread(results, "twin", task) for task in TASKS]),
        "SFT": (OURS, [spread(results, "sft", task) for task in TASKS]),
        "GRPO": (RL, [(results["runs"]["grpo"]["tasks"][task],) * 3 for task in TASKS]),
    }
    width = 0.2
    for number, (label, (colour, values)) in enumerate(groups.items()):
        places = [place + (number - 1.5) * width for place in range(len(TASKS))]
        means = [mean for mean, _, _ in values]
        errors = [[mean - least for mean, least, _ in values], [most - mean for mean, _, most in values]]
        axes.bar(places, means, width, color=colour, label=label, yerr=errors if number in (1, 2) else None, capsize=2)
    axes.set_xticks(range(len(TASKS)), [task.replace(" ", "\n", 1) for task in TASKS])
    axes.set(ylabel="score, %", ylim=(0, 100), title="Rooms never seen; bars of SFT and twin: mean and range of seeds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)


def draw_curves(folder: Path, path: Path) -> None:
    """Losses of the three stages, against their steps."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    geometry_axes, sft_axes, grpo_axes = figure.subplots(1, 3)
    for name, colour in (("camera", OURS), ("depth", TWIN), ("points", RL)):
        geometry_axes.plot(*curve(folder / "geometry", name), color=colour, label=name)
        geometry_axes.plot(*curve(folder / "geometry", f"eval_{name}"), "o", color=colour, markersize=4)
    geometry_axes.set(title="Geometry: losses; dots: rooms held out", xlabel="steps", yscale="log")
    for stages, colour, label in (("model", OURS, "with geometry"), ("twin", TWIN, "twin without geometry")):
        curves = fine_tuning_curve(folder, tuple(f"{stage}_{stages}" for stage in STAGES))
        sft_axes.plot(*curves, color=colour, label=label)
    sft_axes.set(title="Frames, walks, thoughts, together: loss a token", xlabel="steps", ylim=(0, 2))
    grpo_axes.plot(*curve(folder / "grpo", "rewards/accuracy_reward/mean"), color=OURS, label="accuracy")
    grpo_axes.plot(*curve(folder / "grpo", "rewards/format_reward/mean"), color=TWIN, label="format")
    grpo_axes.plot(*curve(folder / "grpo", "kl"), color=RL, label="KL")
    grpo_axes.set(title="GRPO: rewards and KL", xlabel="steps")
    for axes in (geometry_axes, sft_axes, grpo_axes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, **({"bbox_to_anchor": (1, 0.95)} if axes is grpo_axes else {}))
    figure.savefig(path, dpi=110)


def fine_tuning_curve(folder: Path, stages: tuple[str, ...]) -> tuple[list[int], list[float]]:
    """The losses of stages, one after the other."""
    steps: list[int] = []
    losses: list[float] = []
    for stage in stages:
        begin = steps[-1] if steps else 0
        at, values = curve(folder / stage, "loss")
        steps += [begin + step for step in at]
        losses += values
    return steps, losses


def curve(folder: Path, name: str) -> tuple[list[int], list[float]]:
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    points = [(entry["step"], entry[name]) for entry in history if name in entry]
    return [step for step, _ in points], [value for _, value in points]


if __name__ == "__main__":
    main()
