"""Positions in time, height and width for a sequence of text, images and videos (section 2.2 of arXiv 2409.12191).

transformers 5 lets the text that follows a video start after its height and width alone; the code that the public
checkpoints were trained and scored with starts it after the largest position, time included. The two differ as soon
as a video lasts longer than it is wide, so the latter is written out here.

Shapes: B samples, L tokens.
"""

from collections.abc import Iterator

import torch

TEXT, IMAGE, VIDEO = 0, 1, 2  # values of mm_token_type_ids
Grid = tuple[int, int, int]  # patches over time, height and width


def sequence_positions(
    token_types: list[int],
    image_grids: Iterator[Grid],
    video_grids: Iterator[Grid],
    video_strides: Iterator[float],
    merge_size: int,
) -> torch.Tensor:
    """Positions `[3, L]` of one sample without padding.

    Args:
        token_types: TEXT, IMAGE or VIDEO for each token; a vision token stands for `merge_size`² patches.
        image_grids, video_grids: grids of the images and videos still to come; consumed.
        video_strides: positions between two grid steps of each video in time; consumed.

    Raises:
        ValueError: if the placeholders do not fit the grids.
    """
    parts: list[torch.Tensor] = []
    start, position = 0, 0
    while start < len(token_types):
        kind = token_types[start]
        if kind == TEXT:
            end = _end_of_text(token_types, start)
            part = torch.arange(position, position + end - start).expand(3, -1)
        else:
            grid = next(image_grids if kind == IMAGE else video_grids, None)
            stride = next(video_strides, 1.0) if kind == VIDEO else 1.0
            part = _vision_positions(grid, stride, merge_size, kind) + position
            end = start + part.shape[1]
            _check_placeholders(token_types[start:end], kind, part.shape[1])
        parts.append(part)
        start, position = end, int(part.max()) + 1
    return torch.cat(parts, dim=1)


def _end_of_text(token_types: list[int], start: int) -> int:
    end = start
    while end < len(token_types) and token_types[end] == TEXT:
        end += 1
    return end


def _vision_positions(grid: Grid | None, stride: float, merge_size: int, kind: int) -> torch.Tensor:
    """Positions `[3, t * h/m * w/m]` of one image or video, counted from 0."""
    if grid is None:
        raise ValueError(
            f"The text has {_name(kind)} placeholders for which no {_name(kind)} was given: there must be one "
            f"{_name(kind)} for each placeholder, in the same order."
        )
    t, h, w = grid[0], grid[1] // merge_size, grid[2] // merge_size
    times = (torch.arange(t) * stride).long()
    return torch.stack(torch.meshgrid(times, torch.arange(h), torch.arange(w), indexing="ij")).flatten(1)


def _check_placeholders(token_types: list[int], kind: int, expected: int) -> None:
    found = sum(token_type == kind for token_type in token_types)
    if found != expected:
        raise ValueError(
            f"The text has {found} {_name(kind)} placeholder tokens in a row where the {_name(kind)} given needs "
            f"{expected}: pass the {_name(kind)}s that the text was made for."
        )


def _name(kind: int) -> str:
    return "image" if kind == IMAGE else "video"
