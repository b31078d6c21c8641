"""Three plots of a benchmark: time and memory against frames, and the cost of a question against their number."""

import statistics
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measuring import Comparison

PUBLISHED, OURS = "#6b7280", "#d95f02"


def draw(rows: list[Comparison], path: Path) -> None:
    """Draws what the comparisons hold of the three; writes a picture."""
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    time, memory, questions = figure.subplots(1, 3)
    encoder = [row for row in rows if row.name == "VGGT for the language model"]
    for dtype, style in (("float32", "-"), ("bfloat16", "--")):
        own = [row for row in encoder if dtype in row.setting]
        frames = [int(row.setting.split()[0]) for row in own]
        for label, colour, values in _both(own):
            time.plot(frames, values, style, color=colour, marker="o", label=f"{label}, {dtype}")
    time.set(title="VGGT, real width: time", xlabel="frames", ylabel="seconds")
    for name, style in (("memory of VGGT for the language model", "-"), ("memory of VGGT for choosing frames", "--")):
        own = [row for row in rows if row.name == name]
        kind = name.removeprefix("memory of VGGT for ")
        for label, colour, values in _both(own):
            sizes = [value / 2**30 for value in values]
            frames = [row.details["frames"] for row in own]
            memory.plot(frames, sizes, style, color=colour, marker="o", label=f"{label}, {kind}")
    memory.set(title="VGGT-1B, 518x392, float32: activations", xlabel="frames", ylabel="GiB")
    asked = [row for row in rows if "questions" in row.details]
    for label, colour, values in _both(asked):
        counts = [row.details["questions"] for row in asked]
        cost = [value / count for value, count in zip(values, counts)]
        questions.plot(counts, cost, color=colour, marker="o", label=label)
    questions.set(title="Cost of a question on one scene", xlabel="questions", ylabel="seconds a question")
    questions.set_xticks([row.details["questions"] for row in asked])
    for axes in (time, memory, questions):
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e7eb")
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def _both(rows: list[Comparison]) -> list[tuple[str, str, list[float]]]:
    baseline = [statistics.median(row.baseline) for row in rows]
    return [("published", PUBLISHED, baseline), ("ours", OURS, [statistics.median(row.ours) for row in rows])]
