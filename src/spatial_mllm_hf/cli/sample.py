"""`spatial-mllm sample VIDEO`: which frames the model would see, without asking it anything.

Given a folder of videos it takes one after the other, or several at once on Ray.
"""

import importlib.util
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from . import common

if TYPE_CHECKING:
    from ..processing.video_processing_spatial_mllm import SceneSample

FIGURES, CLOUDS, SCENES = (".png", ".pdf", ".svg"), (".ply",), (".glb",)
NEEDS_GEOMETRY = "Needs geometry, so not with --frame-sampling uniform."


def sample(
    video: str = typer.Argument(help="Video file, URL, a folder of frames as images, or a folder of videos."),
    model: str = common.ModelOption,
    frame_sampling: common.FrameSampling = common.SamplingOption,
    num_frames: int | None = common.NumFramesOption,
    device: str = common.DeviceOption,
    dtype: str = common.DtypeOption,
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
    out: Path | None = typer.Option(None, help="Write the chosen frames into this folder as PNG files."),
    contact_sheet: Path | None = common.ContactSheetOption,
    plot: Path | None = typer.Option(
        None,
        help=f"Draw what the sampler saw (candidates, coverage, map) into this .png, .pdf or .svg. {NEEDS_GEOMETRY}",
    ),
    ply: Path | None = typer.Option(None, help=f"Write the points it used, and all cameras, as PLY. {NEEDS_GEOMETRY}"),
    glb: Path | None = typer.Option(None, help=f"The same as binary glTF, y up. {NEEDS_GEOMETRY}"),
    max_points: int = typer.Option(300_000, min=1, help="Most points to write into --ply and --glb."),
    engine: common.EngineName = common.EngineOption,
    workers: int = common.WorkersOption,
) -> None:
    """Choose the frames of a video and show which."""
    common.check_picture(contact_sheet)
    _check_output("--plot", plot, FIGURES, "matplotlib", "plot")
    _check_output("--ply", ply, CLOUDS, "trimesh", "pointcloud")
    _check_output("--glb", glb, SCENES, "trimesh", "pointcloud")
    wants_scene = any(path is not None for path in (plot, ply, glb))
    if wants_scene and frame_sampling == "uniform":
        raise ValueError(
            "--plot, --ply and --glb show what space-aware sampling saw, and --frame-sampling uniform looks at no "
            "geometry: leave it out (--plot compares the choice with uniform frames)."
        )
    if engine == "local":
        common.resolve_device(device)
    common.resolve_dtype(dtype)
    common.check_workers(engine, workers)
    options = {"frame_sampling": frame_sampling, "num_frames": num_frames}
    options = {name: value for name, value in options.items() if value is not None}
    load = partial(_load_video_processor, common.absolute_model(model), frame_sampling, device, dtype)
    from . import sample_folder
    from .evaluate import make_engine

    if videos := sample_folder.videos_in(video if engine == "local" else os.path.abspath(video)):
        if wants_scene or contact_sheet is not None:
            raise ValueError("--plot, --ply, --glb and --contact-sheet show one video, and this is a folder of videos.")
        out = None if out is None else out.absolute()
        sample_folder.sample_videos(videos, load, options, out, make_engine(engine, workers))
        return
    source = common.resolve_video(video)
    with common.Stages("load", "decode", "geometry") as stages:
        stages.begin("load")
        processor = load()
        if wants_scene:
            scene = processor.sample_scene(source, progress=stages.begin, **options)
            pixels, metadata = scene.frames, scene.metadata
        else:
            pixels, metadata = processor.choose_frames(source, progress=stages.begin, **options)
    frames = _as_pictures(pixels, metadata)
    _print(frames, metadata, as_json)
    if out is not None:
        write_frames(frames, out)
    if contact_sheet is not None:
        common.write_contact_sheet(frames, contact_sheet)
    if wants_scene:
        _write_scene(scene, Path(video).name, plot, ply, glb, max_points)


def _check_output(option: str, path: Path | None, suffixes: tuple[str, ...], module: str, extra: str) -> None:
    """Looks at the name of a file to be written and for the library that writes it, before the work is done.

    Raises:
        ValueError: for another suffix, or a library that is not installed.
    """
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        found = path.suffix or "no suffix"
        raise ValueError(f"{option} {path}: expected a name that ends in {' or '.join(suffixes)}, got {found}.")
    if importlib.util.find_spec(module) is None:
        raise ValueError(f'{option} needs {module}, which is not installed: pip install "spatial-mllm-hf[{extra}]".')


def _write_scene(
    scene: "SceneSample", title: str, plot: Path | None, ply: Path | None, glb: Path | None, max_points: int
) -> None:
    from . import point_cloud, sampling_figure

    if plot is not None:
        sampling_figure.write_sampling_figure(scene, plot, title)
    if ply is not None:
        point_cloud.write_ply(scene, ply, max_points)
    if glb is not None:
        point_cloud.write_glb(scene, glb, max_points)


def _load_video_processor(model: str, frame_sampling: str, device: str, dtype: str) -> Any:
    common.quiet_transformers()
    from ..processing.video_processing_spatial_mllm import SpatialMLLMVideoProcessor

    if frame_sampling == "uniform" and model == common.DEFAULT_MODEL:
        return SpatialMLLMVideoProcessor()  # no model has a say in this
    processor = common.load_processor(common.check_model(model))
    if frame_sampling == "space_aware":
        processor.load_geometry(device=common.resolve_device(device), dtype=common.resolve_dtype(dtype))
    return processor.video_processor


def _as_pictures(pixels: Any, metadata: Any) -> list[dict[str, Any]]:
    from ..pipelines.pipeline_spatial_mllm import describe_frames

    return describe_frames(pixels, metadata)


def describe_choice(frames: list[dict[str, Any]], metadata: Any) -> dict[str, Any]:
    """What was chosen out of what, as JSON."""
    coverage = None
    if metadata.total_voxels:
        coverage = {
            "covered_voxels": metadata.covered_voxels,
            "total_voxels": metadata.total_voxels,
            "share": round(metadata.covered_voxels / metadata.total_voxels, 4),
        }
    return {
        "frame_sampling": metadata.frame_sampling,
        "total_frames": metadata.total_num_frames,
        "frames": [{"index": frame["index"], "timestamp": frame["timestamp"]} for frame in frames],
        "coverage": coverage,
    }


def _print(frames: list[dict[str, Any]], metadata: Any, as_json: bool) -> None:
    choice = describe_choice(frames, metadata)
    if as_json:
        sys.stdout.write(json.dumps(choice, indent=2) + "\n")
        return
    coverage = choice["coverage"]
    table = Table("frame", "time (s)", title=f"{len(frames)} of {metadata.total_num_frames} frames")
    for frame in frames:
        table.add_row(str(frame["index"]), "" if frame["timestamp"] is None else f"{frame['timestamp']:.2f}")
    console = Console()
    console.print(table)
    if coverage is not None:
        console.print(
            f"coverage: {coverage['covered_voxels']} of {coverage['total_voxels']} voxels ({coverage['share']:.1%})"
        )


def write_frames(frames: list[dict[str, Any]], folder: Path) -> None:
    """Writes frames as PNG files, named by their order and number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        frame["image"].save(folder / f"{number:03d}_frame_{frame['index']:06d}.png")
