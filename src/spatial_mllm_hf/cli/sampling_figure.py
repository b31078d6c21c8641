"""`spatial-mllm sample --plot`: one figure of what space-aware sampling saw and chose.

a  contact sheet of the candidates above a timeline of the video,
b  share of the voxels seen after k frames: by those chosen, and by as many at even steps in time,
c  the scene from above (`sampling_map`).

Drawn through matplotlib's objects alone, without pyplot and its global state. Lengths on the page are in inches.

Shapes: S candidates of h x w pixels, K frames chosen.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch.nn.functional as F

from ..processing.frame_sampling_spatial_mllm import uniform_indices
from .sampling_map import CHOSEN, CHOSEN_DARK, FAINT, INK, draw_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..processing.video_processing_spatial_mllm import SceneSample

UNIFORM = "#6B7280"
WIDTH, MARGIN, DPI = 12.0, 0.35, 160
SHEET_HEIGHT, SHEET_GAP = 2.9, 0.07
LOWER_HEIGHT, COVERAGE_WIDTH, MAP_LEFT = 4.3, 4.2, 5.0
MOST_THUMBNAILS = 64
LETTER, LINE = 0.075, 0.15  # width and height of a label's characters
TIMES = "\N{MULTIPLICATION SIGN}"
UNIT = f"{TIMES} VGGT's unit"


def write_sampling_figure(sample: "SceneSample", path: Path, title: str = "", unit: str = UNIT) -> None:
    """Draws a sampled scene into a file whose suffix says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_sampling(sample, title, unit).savefig(path, dpi=DPI)


def draw_sampling(sample: "SceneSample", title: str = "", unit: str = UNIT) -> "Figure":
    """The figure; `unit` is that of the world's coordinates."""
    labels = label_picks(sample.selection.order)
    shown = choose_thumbnails(len(sample.candidates), labels)
    height, width = sample.candidates.shape[-2:]
    sheet = _Sheet.fit(len(shown), height / width)
    times = sample.candidate_timestamps or [float(index) for index in sample.candidate_indices]
    timeline = _Timeline.fit(times, labels)
    above = 0.95
    below = above + sheet.height + timeline.height + 0.85
    page = _Page(below + LOWER_HEIGHT + 0.6)
    page.write(MARGIN, 0.3, title or "Frames chosen", size=13, weight="bold")
    page.write(MARGIN, 0.52, _summarise(sample), size=9, colour=UNIFORM)
    _write_headings(page, len(shown), sample, above - 0.12, below - 0.12)
    left = (WIDTH - sheet.width) / 2
    _draw_sheet(page.axes(left, above, sheet.width, sheet.height), sample, shown, labels, sheet)
    axes = page.axes(MARGIN, above + sheet.height + 0.08, WIDTH - 2 * MARGIN, timeline.height)
    _draw_timeline(axes, timeline, labels, sample.candidate_timestamps is not None)
    _draw_coverage(page.axes(MARGIN + 0.35, below, COVERAGE_WIDTH - 0.35, LOWER_HEIGHT), sample)
    size = (WIDTH - MARGIN - MAP_LEFT, LOWER_HEIGHT)
    draw_map(page.axes(MAP_LEFT, below, *size), sample, labels, size, unit)
    return page.figure


def label_picks(order: Sequence[int]) -> dict[int, str]:
    """For each candidate that was chosen, when: "3" for the third pick, with the number of times if it was repeated."""
    ranks: dict[int, list[int]] = {}
    for rank, position in enumerate(order, start=1):
        ranks.setdefault(position, []).append(rank)
    return {position: f"{of[0]} {TIMES}{len(of)}" if len(of) > 1 else f"{of[0]}" for position, of in ranks.items()}


def choose_thumbnails(num_candidates: int, chosen: dict[int, str]) -> list[int]:
    """Candidates to show: all; of more than `MOST_THUMBNAILS` the chosen ones and others at even steps."""
    if num_candidates <= MOST_THUMBNAILS:
        return list(range(num_candidates))
    others = [position for position in range(num_candidates) if position not in chosen]
    kept = uniform_indices(len(others), max(0, min(MOST_THUMBNAILS - len(chosen), len(others))))
    return sorted([*chosen, *(others[position] for position in kept)])


def coverage_shares(sample: "SceneSample") -> tuple[list[float], list[float]]:
    """Share of all voxels seen after 1 to K frames: those chosen in their order, and k at even steps for each k.

    Two empty lists where there are no voxels.
    """
    sightings, order = sample.sightings, sample.selection.order
    total = len(sightings.cells)
    if total == 0:
        return [], []
    uniform = [sightings.coverage(uniform_indices(sightings.num_frames, k + 1))[-1] for k in range(len(order))]
    return [seen / total for seen in sightings.coverage(order)], [seen / total for seen in uniform]


class _Page:
    """A figure on which things are placed in inches from the top left."""

    def __init__(self, height: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(WIDTH, height), facecolor="white")
        self._height = height

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        bottom = self._height - top - height
        return self.figure.add_axes((left / WIDTH, bottom / self._height, width / WIDTH, height / self._height))

    def write(
        self, left: float, base: float, text: str, size: float, weight: str = "normal", colour: str = INK
    ) -> None:
        """Text as it is, no mathematics in it: names of files may hold a dollar sign."""
        place = (left / WIDTH, 1 - base / self._height)
        self.figure.text(*place, text, fontsize=size, fontweight=weight, color=colour, parse_math=False)


class _Sheet(NamedTuple):
    """A grid of thumbnails, as large as fit."""

    columns: int
    rows: int
    thumbnail: tuple[float, float]

    @classmethod
    def fit(cls, number: int, aspect: float) -> "_Sheet":
        """For `number` thumbnails of height / width `aspect`."""

        def thumbnail_width(columns: int) -> float:
            of_row = (WIDTH - 2 * MARGIN + SHEET_GAP) / columns - SHEET_GAP
            of_column = ((SHEET_HEIGHT + SHEET_GAP) / math.ceil(number / columns) - SHEET_GAP) / aspect
            return min(of_row, of_column)

        columns = max(range(1, number + 1), key=thumbnail_width)
        width = thumbnail_width(columns)
        return cls(columns, math.ceil(number / columns), (width, width * aspect))

    @property
    def width(self) -> float:
        return self.columns * (self.thumbnail[0] + SHEET_GAP) - SHEET_GAP

    @property
    def height(self) -> float:
        return self.rows * (self.thumbnail[1] + SHEET_GAP) - SHEET_GAP


class _Timeline(NamedTuple):
    """Where candidates are in time, and on which level the labels of the chosen ones stand."""

    times: list[float]
    limits: tuple[float, float]
    levels: dict[int, int]

    @classmethod
    def fit(cls, times: list[float], labels: dict[int, str]) -> "_Timeline":
        """Labels that would touch go one level up."""
        margin = 0.015 * (max(times) - min(times)) or 0.5
        limits = min(times) - margin, max(times) + margin
        inches = (WIDTH - 2 * MARGIN) / (limits[1] - limits[0])
        levels: dict[int, int] = {}
        ends: list[float] = []  # of each level
        for position in sorted(labels):
            middle, half = times[position] * inches, (len(labels[position]) + 1) * LETTER / 2
            level = next((level for level, end in enumerate(ends) if end <= middle - half), len(ends))
            ends[level : level + 1] = [middle + half]
            levels[position] = level
        return cls(times, limits, levels)

    @property
    def height(self) -> float:
        return 0.2 + LINE * (1 + max(self.levels.values()))


def _summarise(sample: "SceneSample") -> str:
    selection, number = sample.selection, len(sample.candidates)
    distinct = len(set(selection.order))
    repeats = f" ({len(selection.order)} with repeats)" if len(selection.order) > distinct else ""
    text = f"{distinct} of {number} candidate frame{'s' if number > 1 else ''} chosen{repeats}"
    if not selection.total_voxels:
        return f"{text}; no voxels: no point was confident enough"
    return f"{text}; {selection.covered:,} of {selection.total_voxels:,} voxels seen"


def _write_headings(page: _Page, num_shown: int, sample: "SceneSample", upper: float, lower: float) -> None:
    number = len(sample.candidates)
    of_all = f"{num_shown} of {number} candidates" if num_shown < number else "Candidates"
    headings = (
        (MARGIN, upper, "a", f"{of_all} in order of time, the chosen ones numbered in the order picked"),
        (MARGIN, lower, "b", "Share of all voxels seen, by number of frames"),
        (MAP_LEFT, lower, "c", "Scene from above; the first camera looks up the page"),
    )
    for left, base, letter, text in headings:
        page.write(left, base, letter, size=10, weight="bold")
        page.write(left + 0.16, base, text, size=10)


def _draw_sheet(axes: "Axes", sample: "SceneSample", shown: list[int], labels: dict[int, str], sheet: _Sheet) -> None:
    """Thumbnails row by row; those not chosen are paler."""
    from matplotlib.patches import Rectangle

    width, height = sheet.thumbnail
    for number, position in enumerate(shown):
        row, column = divmod(number, sheet.columns)
        left, top = column * (width + SHEET_GAP), row * (height + SHEET_GAP)
        picture = _shrink(sample, position, round(width * DPI), round(height * DPI))
        alpha = 1.0 if position in labels else 0.5
        axes.imshow(picture, extent=(left, left + width, top + height, top), alpha=alpha, gid=f"candidate_{position}")
        if position in labels:
            frame = Rectangle((left, top), width, height, fill=False, edgecolor=CHOSEN, linewidth=2, clip_on=False)
            axes.add_patch(frame)
            badge = {"boxstyle": "square,pad=0.25", "facecolor": CHOSEN, "edgecolor": "none"}
            text = axes.text(left + 0.045, top + 0.05, labels[position], color="white", fontsize=7.5, bbox=badge)
            text.set(fontweight="bold", va="top", gid=f"pick_{position}")
    axes.set(xlim=(0, sheet.width), ylim=(sheet.height, 0))
    axes.set_axis_off()


def _shrink(sample: "SceneSample", position: int, width: int, height: int) -> np.ndarray:
    """A candidate `[h, w, 3]`, made smaller where it is larger than wanted."""
    frame = sample.candidates[position].detach().float().cpu()
    if frame.shape[-1] > width:
        frame = F.interpolate(frame[None], (height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)
    return frame.permute(1, 2, 0).numpy()


def _draw_timeline(axes: "Axes", timeline: _Timeline, labels: dict[int, str], in_seconds: bool) -> None:
    """A tick for each candidate; those of the chosen ones are higher and labelled. Heights in inches."""
    from matplotlib.ticker import MaxNLocator

    chosen = sorted(labels)
    tops = [0.17 + LINE * timeline.levels[position] for position in chosen]
    at = [timeline.times[position] for position in chosen]
    axes.vlines(timeline.times, 0, 0.1, color=FAINT, linewidth=0.8, gid="timeline_candidates")
    axes.vlines(at, 0, tops, color=CHOSEN, linewidth=1.6, gid="timeline_chosen")
    for position, time, top in zip(chosen, at, tops):
        label = axes.text(time, top + 0.02, labels[position], color=CHOSEN_DARK, fontsize=7.5, ha="center")
        label.set(fontweight="bold", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4})
    axes.set(xlim=timeline.limits, ylim=(0, timeline.height), yticks=[])
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_xlabel("seconds" if in_seconds else "frame number", fontsize=8.5, color=INK, labelpad=2)
    _quieten(axes)
    if len(set(timeline.times)) == 1:
        axes.set_xticks(timeline.times[:1])
    elif not in_seconds:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_coverage(axes: "Axes", sample: "SceneSample") -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    chosen, uniform = coverage_shares(sample)
    number = len(sample.selection.order)
    marker = "o" if number <= 40 else ""
    for shares, colour, name in ((uniform, UNIFORM, "at even steps in time"), (chosen, CHOSEN, "chosen by coverage")):
        if shares:
            label = f"{name}: {shares[-1]:.1%}"
            axes.plot(range(1, number + 1), shares, color=colour, marker=marker, markersize=3.5, label=label)
    if chosen:
        axes.legend(loc="lower right", frameon=False, fontsize=9, reverse=True)
    else:
        axes.text(0.5, 0.5, "no voxels", transform=axes.transAxes, ha="center", va="center", color=UNIFORM)
    axes.set(xlim=(1 - 0.03 * number, 1.03 * number), ylim=(0, 1.04))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("frames", fontsize=8.5, color=INK)
    axes.grid(axis="y", color="#E5E7EB", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["right", "top"]].set_visible(False)
    _quieten(axes)


def _quieten(axes: "Axes") -> None:
    """Axes that stand back behind what they measure."""
    axes.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    axes.spines[:].set_color(FAINT)
