"""Frames from Qwen2.5-VL's patches: the processor's last two steps undone.

The geometry branch needs frames; the model's inputs hold normalised patches. Cutting into patches loses nothing, so
the frames are put back together here and no input is added to Qwen2.5-VL's. Which images are one scene is told here
too.

Shapes: T groups of t frames (Qwen2.5-VL's pairs, or single ones), h x w patches of p x p pixels, m x m patches merged
into a token.
"""

from collections.abc import Sequence

import torch


def frames_from_patches(
    patches: torch.Tensor,
    grid_thw: Sequence[int],
    patch_size: int,
    merge_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> torch.Tensor:
    """Patches `[T * h * w, 3 * t * p * p]` of one clip or image → its frames `[t * T, 3, H, W]`, float32 in [0, 1].

    Args:
        patches: rows in the order of Qwen2.5-VL's processors: merge windows row by row, patches of a window row by row.
        grid_thw: T, h and w.
        mean, std: the normalisation that was applied, for each colour channel.
    """
    T, h, w = (int(size) for size in grid_thw)
    m, p = merge_size, patch_size
    x = patches.float().view(T, h // m, w // m, m, m, 3, -1, p, p)
    x = x.permute(0, 6, 5, 1, 3, 7, 2, 4, 8).reshape(-1, 3, h * p, w * p)
    mean_map = torch.tensor(list(mean), device=x.device).view(3, 1, 1)
    std_map = torch.tensor(list(std), device=x.device).view(3, 1, 1)
    return (x * std_map + mean_map).clamp(0, 1)


def image_scenes(image_grid_thw: torch.Tensor, num_images_per_sample: torch.Tensor | None) -> list[list[int]]:
    """Indices of the images that are one scene: those of one sample and one size, in their order."""
    grids = image_grid_thw.tolist()
    if num_images_per_sample is None:
        return [[index] for index in range(len(grids))]
    counts = torch.as_tensor(num_images_per_sample).tolist()
    if sum(counts) != len(grids):
        raise ValueError(
            f"num_images_per_sample={counts} adds up to {sum(counts)}, but image_grid_thw holds {len(grids)} images."
        )
    samples = [sample for sample, count in enumerate(counts) for _ in range(count)]
    scenes: dict[tuple[int, ...], list[int]] = {}
    for index, (sample, grid) in enumerate(zip(samples, grids)):
        scenes.setdefault((sample, *grid), []).append(index)
    return list(scenes.values())
