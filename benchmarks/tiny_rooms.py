"""The tiny model on rooms that it has never seen: by task, against chance, its twin without geometry, and itself.

    python benchmarks/tiny_rooms.py [--folder tiny]

Needs what `make train-tiny` leaves in the folder. Trains what is compared and not there yet (two more seeds, the twins),
asks all of them the questions of FOLDER/rooms_test by the evaluation's runner, and writes benchmarks/results/
tiny_rooms.json, docs/tiny_rooms.png and docs/tiny_geometry.png. What is there already is kept, so it goes on after a
kill.
"""

import argparse
import collections
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spatial_mllm_hf.data.question_templates import parse_question
from spatial_mllm_hf.data.vsibench_questions import read_vsibench_questions
from spatial_mllm_hf.evaluation.answer_log import read_answers
from spatial_mllm_hf.evaluation.answers import extract_answer
from spatial_mllm_hf.evaluation.metrics import score_answer

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
TASKS = {
    "counting": ("object_counting",),
    "absolute distance": ("object_abs_distance",),
    "object size": ("object_size_estimation",),
    "room size": ("room_size_estimation",),
    "relative distance": ("object_rel_distance",),
    "direction": ("object_rel_direction_easy", "object_rel_direction_medium", "object_rel_direction_hard"),
    "order of appearance": ("obj_appearance_order",),
}
WITHOUT_GEOMETRY = "{vision_tower: 1.0e-3, vision_merger: 1.0e-3, language_model: 1.0e-3}"
# Which line of a checkpoint's training curve means what.
GREY, OURS, TWIN, RL = "#9ca3af", "#d95f02", "#374151", "#1b9e77"


class Run(NamedTuple):
    """A model asked about frames chosen in one way."""

    name: str
    model: str
    sampling: str = "uniform"
    frames: int = 8


RUNS = (
    *(Run(f"sft_{seed}", "sft" if seed == 0 else f"sft_{seed}") for seed in SEEDS),
    *(Run(f"twin_{seed}", f"twin_{seed}") for seed in SEEDS),
    Run("grpo", "grpo"),
    Run("grpo_space_aware_8", "grpo", "space_aware", 8),
    Run("grpo_uniform_4", "grpo", "uniform", 4),
    Run("grpo_space_aware_4", "grpo", "space_aware", 4),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("tiny"), help="what `make train-tiny` left")
    folder = parser.parse_args().folder
    if not (folder / "grpo" / "config.json").is_file():
        raise SystemExit(f"{folder} holds no trained model: run `make train-tiny` first.")
    for seed in SEEDS:
        train(folder, seed)
    results: dict[str, Any] = {"baselines": baselines(folder), "geometry": geometry(folder)}
    results["runs"] = {run.name: measure(folder, run) for run in RUNS}
    text = json.dumps(results, indent=2) + "\n"
    (ROOT / "benchmarks" / "results" / "tiny_rooms.json").write_text(text, encoding="utf-8")
    draw_scores(results, ROOT / "docs" / "tiny_rooms.png")
    draw_curves(folder, ROOT / "docs" / "tiny_curves.png")
    print(table(results))


def command(*arguments: str) -> None:
    """A command of the package, in this environment."""
    print("spatial-mllm", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "spatial_mllm_hf.cli.main", *arguments], check=True)


def train(folder: Path, seed: int) -> None:
    """The model of a seed and its twin, where they are not there yet. Seed 0 with geometry is `make train-tiny`'s."""
    for name, options in ((f"sft_{seed}", ()), (f"twin_{seed}", ("--without-geometry",))):
        if (folder / name / "config.json").is_file() or name == "sft_0":
            continue
        start = folder / f"start_{name}"
        if not (start / "config.json").is_file():
            command("make-tiny", str(start), "--vggt", str(folder / "geometry"), "--seed", str(seed), *options)
        settings = ["--model", str(start), "--output_dir", str(folder / name), "--seed", str(seed)]
        if options:
            settings += ["--feature_cache", "null", "--trained_parts", WITHOUT_GEOMETRY]
        command("train", "sft", "--config", "tiny_sft", *settings)


def measure(folder: Path, run: Run) -> dict[str, Any]:
    """Scores by task, in percent, as the code of Spatial-MLLM reads answers; counts also by exact match."""
    out = folder / "results" / run.name
    data = folder / "rooms_test"
    command(
        *("eval", "vsibench", "--data", str(data / "questions.jsonl"), "--videos", str(data / "videos")),
        *("--model", str(folder / run.model), "--prompt", "grpo", "--max-new-tokens", "256", "--batch-size", "18"),
        *("--frame-sampling", run.sampling, "--num-frames", str(run.frames), "--num-candidate-frames", "64"),
        *("--out", str(out)),
    )
    answers = read_answers(out)
    return scores(folder, {name: answer.prediction or "" for name, answer in answers.items()})


def scores(folder: Path, predictions: dict[str, str]) -> dict[str, Any]:
    found: dict[str, list[float]] = collections.defaultdict(list)
    for question in read_vsibench_questions(folder / "rooms_test" / "questions.jsonl"):
        given, kind, truth = predictions[question.id], question.question_type, question.ground_truth
        found[kind].append(score_answer(kind, extract_answer(given), truth))
        if kind == "object_counting":
            found["exact count"].append(float(extract_answer(given) == truth))
    by_type = {kind: 100 * statistics.fmean(values) for kind, values in found.items()}
    by_task = {task: statistics.fmean(by_type[kind] for kind in kinds) for task, kinds in TASKS.items()}
    return {"tasks": by_task, "types": by_type, "mean": statistics.fmean(by_task.values())}


def baselines(folder: Path) -> dict[str, Any]:
    """What can be had without looking.

    "chance": a letter by lot. "constant": of numbers, the median of the training rooms for the same category, else for
    the same task; of letters, the option that is right most often there by its words, else by lot.
    """
    train, test = (
        read_vsibench_questions(folder / name / "questions.jsonl") for name in ("rooms_held_out", "rooms_test")
    )
    numbers: dict[Any, list[float]] = collections.defaultdict(list)
    words: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for question in train:
        if question.options is None:
            for key in (question.question_type, (question.question_type, category(question))):
                numbers[key].append(float(question.ground_truth))
        else:
            words[question.question_type][dict(option.split(". ", 1) for option in question.options)[question.ground_truth]] += 1
    chance, constant = collections.defaultdict(list), collections.defaultdict(list)
    for question in test:
        kind, truth = question.question_type, question.ground_truth
        if question.options is None:
            seen = numbers.get((kind, category(question))) or numbers[kind]
            constant[kind].append(score_answer(kind, f"{statistics.median(seen):.1f}", truth))
            continue
        options = dict(option.split(". ", 1) for option in question.options)
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
    values = [results["runs"][f"{kind}_{seed}"]["tasks"][task] for seed in SEEDS]
    return statistics.fmean(values), min(values), max(values)


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
            *(f"{mean:.1f} ({least:.1f} to {most:.1f})" for mean, least, most in (twin, sft)),
            f"{runs['grpo']['tasks'][task]:.1f}",
        ]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    exact = [[runs[f"{kind}_{seed}"]["types"]["exact count"] for seed in SEEDS] for kind in ("twin", "sft")]
    cells = [f"{statistics.fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})" for values in exact]
    lines.append(f"| counts that are exact | | | {' | '.join(cells)} | {runs['grpo']['types']['exact count']:.1f} |")
    lines += ["", "| frames | uniform | space-aware |", "|---|---|---|"]
    for frames in (4, 8):
        uniform = runs["grpo" if frames == 8 else "grpo_uniform_4"]["mean"]
        lines.append(f"| {frames} | {uniform:.1f} | {runs[f'grpo_space_aware_{frames}']['mean']:.1f} |")
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
    axes.set(ylabel="score, %", ylim=(0, 100), title="Rooms never seen; bars of SFT and twin: mean and range of three seeds")
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
    for seed in SEEDS:
        label = {"label": "SFT"} if seed == 0 else {}
        sft_axes.plot(*curve(folder / ("sft" if seed == 0 else f"sft_{seed}"), "loss"), color=OURS, **label)
        label = {"label": "twin without geometry"} if seed == 0 else {}
        sft_axes.plot(*curve(folder / f"twin_{seed}", "loss"), color=TWIN, **label)
    sft_axes.set(title="SFT: loss a token, three seeds", xlabel="steps", ylim=(0, 2))
    grpo_axes.plot(*curve(folder / "grpo", "rewards/accuracy_reward/mean"), color=OURS, label="accuracy")
    grpo_axes.plot(*curve(folder / "grpo", "rewards/format_reward/mean"), color=TWIN, label="format")
    grpo_axes.plot(*curve(folder / "grpo", "kl"), color=RL, label="KL")
    grpo_axes.set(title="GRPO: rewards and KL", xlabel="steps")
    for axes in (geometry_axes, sft_axes, grpo_axes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def curve(folder: Path, name: str) -> tuple[list[int], list[float]]:
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    points = [(entry["step"], entry[name]) for entry in history if name in entry]
    return [step for step, _ in points], [value for _, value in points]


if __name__ == "__main__":
    main()
