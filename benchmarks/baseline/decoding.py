"""Reads chosen frames by decoding a video from its start, without an index and without seeking.

Shapes: K frames asked for, H x W pixels as stored: a rotation that the file states is not applied.
"""

from collections.abc import Sequence
from os import PathLike, fspath

import av
import numpy as np


def decode_sequentially(path: str | PathLike, indices: Sequence[int]) -> np.ndarray:
    """Frames with the given numbers, uint8 `[K, H, W, 3]`, in the order asked for.

    Decodes up to the last one wanted, with as many threads as FFmpeg chooses; only those wanted become RGB.

    Raises:
        ValueError: if a number is negative or beyond the last frame.
    """
    wanted = set(indices)
    pixels: dict[int, np.ndarray] = {}
    with av.open(fspath(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                pixels[number] = frame.to_ndarray(format="rgb24")
            if len(pixels) == len(wanted):
                break
    if missing := sorted(wanted - set(pixels)):
        raise ValueError(f"indices must be frames of {fspath(path)}, which has no frame {missing[0]}.")
    return np.stack([pixels[number] for number in indices])
