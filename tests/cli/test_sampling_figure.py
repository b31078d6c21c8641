"""`sample --plot`: what is drawn is what the sampler saw."""

import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from spatial_mllm_hf.cli.sampling_figure import (
    MOST_THUMBNAILS,
    choose_thumbnails,
    coverage_shares,
    draw_sampling,
    label_picks,
    write_sampling_figure,
)
from spatial_mllm_hf.cli.sampling_map import map_axes, stack_voxels
from spatial_mllm_hf.processing.video_processing_spatial_mllm import SceneSample

from .conftest import WALK_FPS, Command, Walk
from .scenes import HEIGHT, WIDTH, make_sample, scatter_points

TIMES = "\N{MULTIPLICATION SIGN}"
UNPARSABLE = r"$\frac$.mp4"  # as mathematics


@pytest.fixture(scope="module")
def figure(walk: Walk) -> Figure:
    return draw_sampling(walk.sample)


def panels(figure: Figure) -> tuple[Axes, Axes, Axes, Axes]:
    """Contact sheet, timeline, coverage and map."""
    sheet, timeline, coverage, scene = figure.axes
    return sheet, timeline, coverage, scene


def drawn(artists: Iterable[Artist], gid: str) -> Any:
    """The one artist of that name."""
    (found,) = [artist for artist in artists if artist.get_gid() == gid]
    return found


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def seen_sets(sample: SceneSample) -> list[set[int]]:
    """The voxels that each candidate sees."""
    sightings = sample.sightings
    return [set(sightings.voxels[sightings.frames == frame].tolist()) for frame in range(sightings.num_frames)]


# ---------------------------------------------------------------------------------------------- a: sheet and timeline


def test_the_sheet_shows_the_candidates_and_frames_the_chosen(walk: Walk, figure: Figure) -> None:
    sheet, *_ = panels(figure)
    chosen = set(walk.sample.selection.order)
    assert len(sheet.images) == 12
    for position, image in enumerate(sheet.images):
        assert image.get_gid() == f"candidate_{position}"
        assert (image.get_alpha() == 1.0) == (position in chosen)
        thumbnail, candidate = np.asarray(image.get_array()), walk.sample.candidates[position]
        assert np.allclose(thumbnail.mean(axis=(0, 1)), candidate.mean(dim=(1, 2)), atol=0.01)
    frames = [(patch.get_x(), patch.get_y()) for patch in sheet.patches]
    corners = [(image.get_extent()[0], image.get_extent()[3]) for image in sheet.images]
    assert frames == [corners[position] for position in sorted(chosen)]
    for rank, position in enumerate(walk.sample.selection.order, start=1):
        badge = drawn(sheet.texts, f"pick_{position}")
        assert badge.get_text() == str(rank)
        assert np.allclose(badge.get_position(), corners[position], atol=0.06)


def test_the_timeline_marks_the_chosen_at_their_seconds(walk: Walk, figure: Figure) -> None:
    _, timeline, *_ = panels(figure)
    selection = walk.sample.selection
    ticks = drawn(timeline.collections, "timeline_candidates").get_segments()
    assert np.allclose([segment[0][0] for segment in ticks], np.arange(12) / WALK_FPS, atol=1e-3)
    marks = drawn(timeline.collections, "timeline_chosen").get_segments()
    assert np.allclose([segment[0][0] for segment in marks], np.array(selection.indices) / WALK_FPS, atol=1e-3)
    labels = {int(text.get_text()): text.get_position()[0] for text in timeline.texts}
    expected = {rank: position / WALK_FPS for rank, position in enumerate(selection.order, start=1)}
    assert labels == pytest.approx(expected, abs=1e-3)
    assert timeline.get_xlabel() == "seconds"


def test_without_a_rate_the_timeline_counts_frames() -> None:
    _, timeline, *_ = panels(draw_sampling(make_sample(scatter_points(5))))
    ticks = drawn(timeline.collections, "timeline_candidates").get_segments()
    assert [segment[0][0] for segment in ticks] == [0, 1, 2, 3, 4]
    assert timeline.get_xlabel() == "frame number"
    assert all(place == round(place) for place in timeline.get_xticks())


def test_labels_on_the_timeline_do_not_touch() -> None:
    figure = draw_sampling(make_sample(scatter_points(90, 14, 14), num_frames=60))
    _, timeline, *_ = panels(figure)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in timeline.texts]
    assert len(boxes) == 60
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_of_many_candidates_the_sheet_shows_the_chosen_and_some_others() -> None:
    chosen = {3: "1", 77: "2", 78: "3", 127: "4"}
    shown = choose_thumbnails(128, chosen)
    assert len(shown) == MOST_THUMBNAILS
    assert shown == sorted(set(shown))
    assert set(chosen) <= set(shown)
    assert max(np.diff(shown)) <= 4  # evenly: 128 over 64 is every other
    assert choose_thumbnails(64, chosen) == list(range(64))
    everything = {position: "" for position in range(128)}
    assert choose_thumbnails(128, everything) == list(range(128))


def test_thumbnails_keep_the_shape_of_a_portrait_video() -> None:
    sample = make_sample(scatter_points(7, height=56, width=28))
    sheet, *_ = panels(draw_sampling(sample))
    assert len(sheet.images) == 7
    for image in sheet.images:
        left, right, bottom, top = image.get_extent()
        assert (bottom - top) / (right - left) == pytest.approx(2)
        assert np.asarray(image.get_array()).shape[:2] == (56, 28)


# ---------------------------------------------------------------------------------------------- b: coverage


def test_the_curves_are_unions_of_what_frames_see(walk: Walk, figure: Figure) -> None:
    """Against plain sets."""
    _, _, coverage, _ = panels(figure)
    seen, order = seen_sets(walk.sample), walk.sample.selection.order
    total = len(set().union(*seen))
    chosen = [len(set().union(*(seen[frame] for frame in order[:k]))) / total for k in range(1, 5)]
    evenly = ([0], [0, 11], [0, 6, 11], [0, 4, 7, 11])  # round(linspace(0, 11, k)), halves to even
    uniform = [len(set().union(*(seen[frame] for frame in frames))) / total for frames in evenly]
    lines = {line.get_label().split(":")[0]: line for line in coverage.lines}
    assert list(lines["chosen by coverage"].get_xdata()) == [1, 2, 3, 4]
    assert np.allclose(lines["chosen by coverage"].get_ydata(), chosen)
    assert np.allclose(lines["at even steps in time"].get_ydata(), uniform)
    legend = [text.get_text() for text in coverage.get_legend().get_texts()]
    assert legend == [f"chosen by coverage: {chosen[-1]:.1%}", f"at even steps in time: {uniform[-1]:.1%}"]


def test_greedy_choice_starts_no_worse_than_any_single_frame(walk: Walk) -> None:
    chosen, uniform = coverage_shares(walk.sample)
    best = max(len(seen) for seen in seen_sets(walk.sample)) / walk.sample.selection.total_voxels
    assert chosen[0] == pytest.approx(best)
    assert uniform[0] <= chosen[0]


# ---------------------------------------------------------------------------------------------- c: the map


def test_the_map_shows_the_walk_as_it_is_seen_from_above(walk: Walk, figure: Figure) -> None:
    """In metres, not mirrored, with the first camera looking up the page."""
    *_, scene = panels(figure)
    path = drawn(scene.lines, "map_path").get_xydata()
    plane = map_axes(walk.sample.extrinsics.double().numpy())
    rotation, translation = walk.sample.extrinsics[..., :3].double(), walk.sample.extrinsics[..., 3:].double()
    centres = -(rotation.mT @ translation)[..., 0].numpy()
    assert np.allclose(path, centres @ plane.T, atol=1e-6)
    first, last = walk.extrinsics[0, :, :3], walk.extrinsics[:, :, :3]
    in_room = -np.einsum("sij,si->sj", last, walk.extrinsics[:, :, 3])
    right, forward = first[0, :2], first[2, :2] / np.linalg.norm(first[2, :2])
    expected = (in_room - in_room[0])[:, :2] @ np.stack([right, forward], axis=1)
    assert np.allclose(path - path[0], expected, atol=0.02)  # "up" is an estimate
    assert scene.get_aspect() == 1.0


def test_wedges_point_where_the_chosen_look(walk: Walk, figure: Figure) -> None:
    *_, scene = panels(figure)
    wedges = [path.vertices[:3] for path in drawn(scene.collections, "map_wedges").get_paths()]
    order = walk.sample.selection.order
    path = drawn(scene.lines, "map_path").get_xydata()
    plane = map_axes(walk.sample.extrinsics.double().numpy())
    for position, (tip, left, right) in zip(order, wedges, strict=True):
        assert np.allclose(tip, path[position], atol=1e-6)
        looks = walk.sample.extrinsics[position, 2, :3].double().numpy() @ plane.T
        middle = (left + right) / 2 - tip
        assert middle @ looks / np.linalg.norm(middle) / np.linalg.norm(looks) == pytest.approx(1, abs=1e-2)
        assert np.linalg.det([right - tip, left - tip]) > 0  # the picture's left side is on the left
    assert np.allclose(drawn(scene.lines, "map_chosen").get_xydata(), path[order])
    labels = [text.get_text() for text in scene.texts]
    assert labels[:4] == ["1", "2", "3", "4"]


def test_labels_on_the_map_do_not_touch(walk: Walk) -> None:
    """Round a circle, and 44 in a row."""
    for sample in (walk.sample, make_sample(scatter_points(44, 14, 14), num_frames=44)):
        figure = draw_sampling(sample)
        *_, scene = panels(figure)
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in scene.texts]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


@pytest.mark.parametrize("size", [0.01, 1, 3000])
def test_the_scale_is_as_long_as_it_says(size: float) -> None:
    *_, scene = panels(draw_sampling(make_sample(scatter_points(1) * size), unit="m"))
    (left, _), (right, _) = drawn(scene.lines, "map_scale").get_xydata()
    label = scene.texts[-1].get_text()
    assert label.endswith(" m")
    assert right - left == pytest.approx(float(label.removesuffix(" m")))
    inches = (right - left) / np.ptp(scene.get_xlim()) * scene.bbox.width / scene.get_figure().dpi
    assert 0.4 < inches <= 1.1


def test_voxels_that_only_unchosen_frames_see_are_paler() -> None:
    """Three cameras before three walls; the third sees the least and is not chosen."""
    points = torch.zeros(3, HEIGHT, WIDTH, 3)
    rows, columns = torch.meshgrid(torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1, WIDTH), indexing="ij")
    for camera, width in enumerate((1.0, 0.9, 0.5)):
        points[camera] = torch.stack([2 * camera + width * columns, rows, 2 + 0 * rows], dim=-1)
    sample = make_sample(points)
    assert set(sample.selection.order) == {0, 1}
    *_, scene = panels(draw_sampling(sample))
    picture = drawn(scene.images, "map_voxels")
    left, right, bottom, top = picture.get_extent()
    pixels = np.asarray(picture.get_array())
    row = int((2 - bottom) / (top - bottom) * len(pixels))
    shades = [pixels[row, int((x - left) / (right - left) * pixels.shape[1])] for x in (0.5, 2.5, 4.25, 1.5)]
    assert np.allclose(shades[0], shades[1], atol=0.05)
    assert shades[2].mean() > shades[0].mean() + 0.3
    assert shades[2].max() - shades[2].min() < 0.05  # grey, not blue
    assert np.allclose(shades[3], 1)  # nothing there
    drawn_at = left + np.flatnonzero((pixels < 1).any(axis=(0, 2))) / pixels.shape[1] * (right - left)
    assert (drawn_at.min(), drawn_at.max()) == pytest.approx((0, 4.5), abs=sample.sightings.voxel_size)
    assert "voxels that only others see" in words(draw_sampling(sample))


def test_stacks_hold_all_voxels() -> None:
    """Their volume comes back whatever way the map lies; a tower counts its storeys."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0][:2]
    cells = np.array([(0, storey, 0) for storey in range(5)] + [(4, 0, 2)])
    seen = np.arange(6) < 5
    for plane in (turn, np.array([[1.0, 0, 0], [0, 0, 1]])):
        voxels, voxels_seen, (left, right, bottom, top) = stack_voxels((cells * 0.2) @ plane.T, seen, plane, 0.2)
        area = (right - left) * (top - bottom) / voxels.size
        assert voxels.sum() * area == pytest.approx(6 * 0.2**2)
        assert voxels_seen.sum() * area == pytest.approx(5 * 0.2**2)
    assert voxels.max() == pytest.approx(5)


def test_stacks_of_a_thin_scene_stay_a_picture() -> None:
    """Voxels are a twentieth of the shortest side, so a scan of a wall can be 100,000 of them wide."""
    places = np.array([[0.0, 0.0], [100_000.0, 0.0]])
    voxels, _, _ = stack_voxels(places, np.array([True, True]), np.eye(3)[:2], 1.0)
    assert voxels.size < 10_000


def test_the_map_stands_up_where_cameras_look_down() -> None:
    """The first camera's z is along "up": the axes are still perpendicular and of length 1, forwards is -y."""
    looking_down = np.array([[[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], [[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]])
    rolled = np.array([[[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]], [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]])
    opposite = np.array([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], [[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]]])
    for rotation in (looking_down, rolled, opposite, rolled[:1]):
        plane = map_axes(np.concatenate([rotation, np.zeros((len(rotation), 3, 1))], axis=-1))
        assert np.allclose(plane @ plane.T, np.eye(2))


# ---------------------------------------------------------------------------------------------- unusual videos


def test_one_candidate_and_repeats(tmp_path: Path) -> None:
    sample = make_sample(scatter_points(1), num_frames=4)
    write_sampling_figure(sample, tmp_path / "one.png")
    sheet, timeline, coverage, scene = panels(draw_sampling(sample))
    label = f"1 {TIMES}4"
    assert [axes.texts[0].get_text() for axes in (sheet, timeline, scene)] == [label] * 3
    assert all(np.allclose(line.get_ydata(), 1) for line in coverage.lines)
    assert list(timeline.get_xticks()) == [0]
    assert "1 of 1 candidate frame chosen (4 with repeats)" in " ".join(words(draw_sampling(sample)))


def test_picks_are_labelled_by_their_first_rank() -> None:
    assert label_picks([5, 2, 5, 0, 5]) == {5: f"1 {TIMES}3", 2: "2", 0: "4"}


def test_no_voxels_at_all(tmp_path: Path) -> None:
    sample = make_sample(scatter_points(3), torch.zeros(3, HEIGHT, WIDTH))
    write_sampling_figure(sample, tmp_path / "none.png")
    figure = draw_sampling(sample)
    _, _, coverage, scene = panels(figure)
    assert list(coverage.lines) == []
    assert list(scene.images) == []
    assert np.allclose(drawn(scene.lines, "map_path").get_xydata(), [(0, 0), (1, 0), (2, 0)])
    assert any("no point was confident enough" in text for text in words(figure))


# ---------------------------------------------------------------------------------------------- files and the command


def test_the_suffix_decides_the_format_and_the_title_is_taken_as_it_is(tmp_path: Path) -> None:
    sample = make_sample(scatter_points(2))
    begins = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for suffix, magic in begins.items():
        path = tmp_path / "new" / f"figure.{suffix}"
        write_sampling_figure(sample, path, title=UNPARSABLE)
        assert path.read_bytes().startswith(magic)
    assert UNPARSABLE in words(draw_sampling(sample, title=UNPARSABLE))
    assert f"<!-- {UNPARSABLE} -->" in (tmp_path / "new" / "figure.svg").read_text()


def test_sample_draws_and_prints_as_before(
    run: Command, tiny_checkpoint: Path, room_clip: Path, tmp_path: Path
) -> None:
    options = ("sample", room_clip, "--model", tiny_checkpoint, "-n", 4)
    plain = run(*options, "--json")
    result = run(*options, "--json", "--plot", tmp_path / "seen.png")
    assert result.code == 0, result.err
    assert result.out == plain.out
    assert min(Image.open(tmp_path / "seen.png").size) > 1000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--plot", "seen.gif"), "--plot seen.gif: expected a name that ends in .png or .pdf or .svg, got .gif"),
        (("--plot", "seen.png", "--frame-sampling", "uniform"), "--frame-sampling uniform looks at no geometry"),
    ],
)
def test_a_mistake_is_named_before_a_model_is_looked_for(
    run: Command, room_clip: Path, options: tuple[str, ...], says: str
) -> None:
    result = run("sample", room_clip, "--model", "no such folder", *options)
    assert result.code == 2
    assert says in result.error


def test_without_matplotlib_the_extra_is_named(run: Command, room_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("sample", room_clip, "--model", "no such folder", "--plot", "seen.png")
    assert result.code == 2
    assert '--plot needs matplotlib, which is not installed: pip install "spatial-mllm-hf[plot]"' in result.error


def test_the_example_draws_a_picture(
    picture_example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, smaller in {"NUM_FRAMES": 9, "DPI": 40}.items():
        monkeypatch.setattr(picture_example, name, smaller)
    monkeypatch.setattr(sys, "argv", ["sampling_picture.py", str(tmp_path / "room.png")])
    picture_example.main()
    assert capsys.readouterr().out.startswith(f"Wrote {tmp_path / 'room.png'}: 8 of 9 frames see")
    assert Image.open(tmp_path / "room.png").width == 480  # 12 inches
    assert picture_example.DEFAULT_PATH.stat().st_size < 300_000


@pytest.mark.slow
def test_the_example_draws_the_picture_of_the_docs(
    picture_example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sampling_picture.py", str(tmp_path / "room.png")])
    picture_example.main()
    again, kept = Image.open(tmp_path / "room.png"), Image.open(picture_example.DEFAULT_PATH)
    assert again.size == kept.size
    difference = np.abs(np.asarray(again.convert("RGB"), int) - np.asarray(kept.convert("RGB"), int))
    assert difference.mean() < 6  # of 255: fonts and encoders differ a little
