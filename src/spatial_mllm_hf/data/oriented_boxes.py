"""Oriented boxes of annotated scenes, in the form of VSI-Bench's meta information (data/meta_info/*.json there).

Metres, in the axes of the scene: z up, x and y along the floor. A box's own axes are the rows of `axes`, unit vectors
in the scene; `lengths[i]` is its whole extent along `axes[i]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_UNIT_TOLERANCE = 1e-2


@dataclass(frozen=True, eq=False)
class OrientedBox:
    """A box that may be turned any way.

    Attributes:
        centroid: `[3]`, metres in the scene.
        lengths: `[3]`, metres along the box's own axes.
        axes: `[3, 3]`, one unit axis a row, scene coordinates.
    """

    centroid: Array
    lengths: Array
    axes: Array

    @property
    def corners(self) -> Array:
        """`[8, 3]`; bit i of a corner's number says whether it is on the high side of axis i."""
        signs = (np.arange(8)[:, None] >> np.arange(3)) % 2 - 0.5
        return signs * self.lengths @ self.axes + self.centroid

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Lowest and highest scene coordinates, `[3]` each."""
        reach = np.abs(self.axes * self.lengths[:, None]).sum(0) / 2
        return self.centroid - reach, self.centroid + reach

    def to_dict(self) -> dict[str, list[float]]:
        """As VSI-Bench writes it: `centroid`, `axesLengths`, `normalizedAxes` (row by row), `min`, `max`."""
        low, high = self.bounds
        return {
            "centroid": self.centroid.tolist(),
            "axesLengths": self.lengths.tolist(),
            "normalizedAxes": self.axes.reshape(-1).tolist(),
            "min": low.tolist(),
            "max": high.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OrientedBox:
        """The inverse of `to_dict`; `min` and `max` follow from the rest and are not read.

        Raises:
            ValueError: if a key is missing, a number is not finite, or the axes are not unit vectors at right angles.
        """
        try:
            centroid, lengths, axes = (
                np.asarray(values[key], dtype=np.float64) for key in ("centroid", "axesLengths", "normalizedAxes")
            )
        except KeyError as error:
            raise ValueError(f"A box needs centroid, axesLengths and normalizedAxes; {error} is missing.") from error
        if centroid.shape != (3,) or lengths.shape != (3,) or axes.size != 9:
            shapes = [list(array.shape) for array in (centroid, lengths, axes)]
            raise ValueError(f"A box has 3 coordinates, 3 lengths and 9 numbers of axes, got shapes {shapes}.")
        axes = axes.reshape(3, 3)
        if not all(np.isfinite(array).all() for array in (centroid, lengths, axes)) or (lengths < 0).any():
            raise ValueError(f"A box's numbers must be finite and its lengths not negative, got {dict(values)}.")
        if np.abs(axes @ axes.T - np.eye(3)).max() > _UNIT_TOLERANCE:
            raise ValueError(
                "normalizedAxes must hold three unit vectors at right angles to each other, row by row, got "
                f"{axes.round(3).tolist()}."
            )
        return cls(centroid, lengths, axes)
