"""Two checkpoints, tensor by tensor, across formats and types."""

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..modeling.key_mapping_spatial_mllm import DROPPED_KEYS
from .checkpoint_reading import Checkpoint, StoredTensor
from .checkpoint_writing import Progress
from .key_tables import EMBEDDINGS, HEAD, PARTS, detect_format, part_of, to_module_name


@dataclass
class Comparison:
    """What two checkpoints have in common, by our module names.

    Attributes:
        equal: weights with the same bits.
        rounded: weights of different types, equal once the wider is rounded to the narrower.
        different: weights of the same shape with other values, and the largest difference.
        shapes: weights of different shapes, with both.
        only_a, only_b: weights that only one of them has.
        ignored: weights that only one has and that no model of ours reads, with the reason.
    """

    equal: list[str] = field(default_factory=list)
    rounded: list[str] = field(default_factory=list)
    different: dict[str, float] = field(default_factory=dict)
    shapes: dict[str, list[list[int]]] = field(default_factory=dict)
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether they are the same model, up to the rounding of types."""
        return bool(self.equal or self.rounded) and not (self.different or self.shapes or self.only_a or self.only_b)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; JSON has no number for infinity, which stands as text."""
        different = {name: gap if math.isfinite(gap) else str(gap) for name, gap in self.different.items()}
        return {"same": self.same, **asdict(self), "different": different}


def compare(
    a: Checkpoint, b: Checkpoint, parts: Collection[str] = (), progress: Progress = lambda _: None
) -> Comparison:
    """Compares two checkpoints of any formats.

    Args:
        a, b: the checkpoints.
        parts: keys of `key_tables.PARTS` to look at; all by default.
        progress: told the bytes of `a` compared, after each weight.

    Raises:
        ValueError: for an unknown part, or parts that neither has.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(f"parts must be some of {list(PARTS)}, got {unknown}.")
    left, right = _by_module_name(a, parts), _by_module_name(b, parts)
    if not left and not right:
        raise ValueError(f"Neither {a.folder} nor {b.folder} holds weights of the parts {sorted(parts)}.")
    result = Comparison()
    for name, stored in left.items():
        if name not in right:
            _note_absent(name, a, result.only_a, result)
            continue
        _compare_weight(name, (a, stored), (b, right[name]), result)
        progress(stored.nbytes)
    for name in right:
        if name not in left:
            _note_absent(name, b, result.only_b, result)
    return result


def _by_module_name(checkpoint: Checkpoint, parts: Collection[str]) -> dict[str, StoredTensor]:
    layout = detect_format(checkpoint.tensors)
    named = {to_module_name(name, layout): stored for name, stored in checkpoint.tensors.items()}
    return {name: stored for name, stored in named.items() if not parts or part_of(name) in parts}


def _note_absent(name: str, owner: Checkpoint, only: list[str], result: Comparison) -> None:
    """Puts down a weight that only its owner has."""
    reasons = [reason for pattern, reason in DROPPED_KEYS.items() if re.search(pattern, name)]
    named = _by_module_name(owner, ()) if name == f"{HEAD}weight" else {}
    if EMBEDDINGS in named and owner.are_equal(named[name].name, named[EMBEDDINGS].name):
        reasons = ["the same as the embeddings, to which the other checkpoint ties it"]
    if reasons:
        result.ignored[name] = reasons[0]
    else:
        only.append(name)


def _compare_weight(
    name: str, left: tuple[Checkpoint, StoredTensor], right: tuple[Checkpoint, StoredTensor], result: Comparison
) -> None:
    (a, in_a), (b, in_b) = left, right
    if in_a.shape != in_b.shape:
        result.shapes[name] = [list(in_a.shape), list(in_b.shape)]
        return
    narrow = min(in_a.dtype, in_b.dtype, key=_precision)
    largest = 0.0
    for x, y in _aligned(a.pieces(in_a.name), b.pieces(in_b.name)):
        x, y = x.to(narrow), y.to(narrow)
        if not torch.equal(_bits(x), _bits(y)):
            same = (x == y) | (x.isnan() & y.isnan())
            gap = (x.double() - y.double()).abs().masked_fill(same, 0)
            largest = max(largest, float(gap.nan_to_num(nan=torch.inf).max()))
            largest = largest or torch.finfo(torch.float64).tiny  # -0.0 and 0.0: other bits, the same number
    if largest:
        result.different[name] = largest
    elif in_a.dtype == in_b.dtype:
        result.equal.append(name)
    else:
        result.rounded.append(name)


def _precision(dtype: torch.dtype) -> tuple[int, float]:
    """Orders types from narrow to wide; of two with as many bytes, the one with the coarser steps is narrower."""
    return dtype.itemsize, -torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous().view(torch.uint8)


def _aligned(
    left: Iterator[torch.Tensor], right: Iterator[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of flat pieces of equal length out of two streams that are cut at different places."""
    x, y = next(left, None), next(right, None)
    while x is not None and y is not None:
        length = min(len(x), len(y))
        yield x[:length], y[:length]
        x = x[length:] if length < len(x) else next(left, None)
        y = y[length:] if length < len(y) else next(right, None)
