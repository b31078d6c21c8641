"""Asks the tiny model that comes along about a synthetic room that it has never seen, and shows how well it knows it.

    python examples/tiny_room.py OUT [--seed 3000008]

Prints each answer next to the truth; writes OUT/room.mp4, OUT/contact_sheet.png (the frames that the model is shown)
and OUT/plan.png: the room from above with its furniture, and crosses where the model says that things are.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from spatial_mllm_hf.cli.common import EMBEDDED_MODEL, load_pipeline, write_contact_sheet
from spatial_mllm_hf.data.question_generation import GenerationSettings, generate_questions
from spatial_mllm_hf.data.reasoned_answers import ReasonedAnswers, read_map
from spatial_mllm_hf.data.scene_answers import SceneAnswers
from spatial_mllm_hf.data.synthetic_rooms import box_corners, write_clip
from spatial_mllm_hf.data.synthetic_scenes import SceneSettings, SyntheticScene, make_scene
from spatial_mllm_hf.data.training_prompts import question_prompt, question_with_options
from spatial_mllm_hf.evaluation.answers import extract_answer
from spatial_mllm_hf.evaluation.metrics import score_answer

SEED = 3_000_008  # a room that goes well; rooms of training begin at 0, those of tests at 1,000,000 and 2,000,000
SETTINGS = SceneSettings(num_frames=64, size=(84, 56), compass=True, seen_share=0.004, most_objects=8)
MARK = {"color": "#d95f02", "markersize": 9, "markeredgewidth": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for clip and pictures")
    parser.add_argument("--seed", type=int, default=SEED, help="of the room")
    parser.add_argument("--model", default=str(EMBEDDED_MODEL), help="another checkpoint of `make train-tiny`")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    room = make_scene(arguments.seed, SETTINGS)
    clip = arguments.out / "room.mp4"
    write_clip(room.frames.rgb, clip, SETTINGS.frame_rate)

    scene = load_pipeline(arguments.model, "cpu", "float32").open_scene(str(clip), frame_sampling="uniform")
    write_contact_sheet(scene.frames[0], arguments.out / "contact_sheet.png")
    one_each = GenerationSettings.at_most(1, wording="vsibench")
    thoughts = ""
    for question in generate_questions(room.annotation, arguments.seed, one_each):
        said = scene.ask(question_prompt(question, "grpo"))["generated_text"]
        answer, thoughts = extract_answer(said), thoughts or said
        score = score_answer(question.question_type, answer, question.ground_truth)
        print(question_with_options(question).strip())
        _, _, steps = said.partition("</think>")[0].partition(". ")
        if steps:
            print(f"    thinks {steps}")
        print(f"    answer {answer}    truth {question.ground_truth}    score {score:.2f}\n")
    print(f"Its map (metres to the right of and ahead of the first camera):\n    {thoughts}\n")
    draw_plan(room, thoughts, arguments.out / "plan.png")
    print(f"Pictures: {arguments.out}/contact_sheet.png, {arguments.out}/plan.png")


def draw_plan(scene: SyntheticScene, thoughts: str, path: Path) -> None:
    """The floor plan in metres, as the first camera sees it (ahead is up), and the places of the model's map."""
    seen_from_start = ReasonedAnswers(SceneAnswers(scene.annotation), scene.extrinsics[0]).place
    figure = Figure(figsize=(8, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    x, y, _ = scene.room.size
    corners = [seen_from_start(np.array(corner)) for corner in ((0, 0), (x, 0), (x, y), (0, y))]
    for face, begin, end in zip((2, 1, 3, 0), corners, [*corners[1:], corners[0]]):
        axes.plot(*zip(begin, end), color=scene.room.wall_colours[face], linewidth=6, solid_capstyle="round")
    for obj in scene.room.objects:
        outline = np.array([seen_from_start(corner) for corner in box_corners(obj)[[0, 1, 3, 2]]])
        known = obj.name in scene.annotation.boxes
        axes.add_patch(Polygon(outline, facecolor=obj.colour, edgecolor="black", alpha=0.55 if known else 0.15))
        axes.annotate(obj.name, outline.mean(0), ha="center", va="center", fontsize=7, color="#374151")
    walk = np.array([seen_from_start(-pose[:, :3].T @ pose[:, 3]) for pose in scene.extrinsics])
    axes.plot(*walk.T, color="#9ca3af", linestyle=":", label="walk")
    axes.plot(0, 0, marker="^", color="black", markersize=9, linestyle="", label="first camera")
    said = [(category, place) for category, places in read_map(thoughts).items() for place in places]
    axes.plot(
        [across for _, (across, _) in said],
        [ahead for _, (_, ahead) in said],
        "x",
        **MARK,
        label="where the model says it is",
    )
    for category, place in said:
        axes.annotate(category, place, xytext=(4, 4), textcoords="offset points", fontsize=7, color=MARK["color"])
    axes.set(aspect="equal", xlabel="metres to the right", ylabel="metres ahead")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
