"""Draws what a VGGT of `spatial-mllm train geometry` makes of a room: depth and points, next to the truth.

    python examples/geometry_picture.py VGGT ROOMS OUT.png [--room 0]

VGGT: folder of the checkpoint. ROOMS: folder of `spatial-mllm data rooms --geometry`; best of rooms held out.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spatial_mllm_hf import VGGTModel
from spatial_mllm_hf.training.geometry import RoomClips
from spatial_mllm_hf.training.geometry_losses import scene_targets
from spatial_mllm_hf.training.recipes import read_recipe

RECIPE = read_recipe("tiny_geometry")
NUM_FRAMES, UNIT = RECIPE["num_frames"][1], RECIPE["unit"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vggt", type=Path)
    parser.add_argument("rooms", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--room", type=int, default=0, help="which of the folder's")
    arguments = parser.parse_args()
    clip = RoomClips(arguments.rooms, NUM_FRAMES)[arguments.room]
    inputs = (clip["depth"][None], clip["extrinsics"][None], clip["intrinsics"][None])
    targets = scene_targets(*inputs, UNIT)
    with torch.no_grad():
        output = VGGTModel.from_pretrained(arguments.vggt).eval()(clip["frames"][None], heads=("depth", "points"))
    if output.depth is None or output.world_points is None:
        raise SystemExit(f"{arguments.vggt} has no heads for depth and points.")

    figure = Figure(figsize=(12, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    pictures, plans = figure.subfigures(2, 1, height_ratios=(1.1, 1))
    depths = {"true depth": targets.depth[0], "predicted depth": output.depth[0, ..., 0]}
    rows = {"frame": clip["frames"].permute(0, 2, 3, 1), **{name: UNIT * depth for name, depth in depths.items()}}
    farthest = float(UNIT * targets.depth.max())
    for row, (name, images) in zip(pictures.subplots(len(rows), NUM_FRAMES), rows.items()):
        for axes, image in zip(row, images):
            axes.imshow(image, cmap="viridis_r", vmin=0, vmax=None if name == "frame" else farthest)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    points = {"true points": targets.points[0], "predicted points": output.world_points[0]}
    draw_plans(plans, {name: UNIT * place for name, place in points.items()}, rows["frame"])
    figure.savefig(arguments.out, dpi=110)


def draw_plans(figure: Any, points: dict[str, torch.Tensor], colours: torch.Tensor) -> None:
    """Points `[S, H, W, 3]` in metres from above, the first camera at 0, 0 and looking up the page."""
    panels = figure.subplots(1, len(points), sharex=True, sharey=True)
    for axes, (name, place) in zip(panels, points.items()):
        x, _, z = place.reshape(-1, 3).T
        axes.scatter(x, z, s=1, c=colours.reshape(-1, 3).clamp(0, 1))
        axes.plot(0, 0, "^", color="black")
        axes.set(title=f"{name}, from above", aspect="equal", xlabel="metres to the right", ylabel="metres ahead")


if __name__ == "__main__":
    main()
