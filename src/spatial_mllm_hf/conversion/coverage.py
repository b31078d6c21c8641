"""What became of every weight of a conversion: taken, renamed, dropped with the reason, newly made."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .key_tables import part_of


@dataclass(frozen=True)
class WeightRow:
    """One weight: its name where it came from (None if new) and where it went (None if dropped).

    Attributes:
        source: name in the checkpoint that was read.
        target: name in the one that was written.
        part: "vision", "spatial", "connector", "language", "head" or "other".
        numel, nbytes: its parameters, and its bytes as written (as read, if dropped).
        reason: why it was dropped or made.
    """

    source: str | None
    target: str | None
    part: str
    numel: int
    nbytes: int
    reason: str = ""

    @property
    def fate(self) -> str:
        """ "taken", "renamed", "dropped" or "new"."""
        if self.target is None:
            return "dropped"
        if self.source is None:
            return "new"
        return "taken" if self.source == self.target else "renamed"


FATES = ("taken", "renamed", "dropped", "new")


@dataclass
class CoverageReport:
    """The whole account of a conversion.

    Attributes:
        conversion: what was done, such as "merge".
        sources: what it was made from: `{"role", "name", "format", "licence"}` each.
        target_format: format of the weights written.
        dtype: their types and how many parameters have each.
        rows: each weight.
        notes: what the user should know besides.
    """

    conversion: str
    sources: list[dict[str, str]]
    target_format: str
    rows: list[WeightRow]
    dtype: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def totals(self) -> dict[str, dict[str, int]]:
        """Weights, parameters and bytes of each fate."""
        result = {fate: {"weights": 0, "parameters": 0, "bytes": 0} for fate in FATES}
        for row in self.rows:
            entry = result[row.fate]
            entry["weights"] += 1
            entry["parameters"] += row.numel
            entry["bytes"] += row.nbytes
        return result

    def parts(self) -> dict[str, dict[str, int]]:
        """Weights, parameters and bytes of each part written."""
        result: dict[str, dict[str, int]] = {}
        for row in self.rows:
            if row.target is not None:
                entry = result.setdefault(row.part, {"weights": 0, "parameters": 0, "bytes": 0})
                entry["weights"] += 1
                entry["parameters"] += row.numel
                entry["bytes"] += row.nbytes
        return result

    def reasons(self) -> dict[str, dict[str, Counter]]:
        """For dropped and for new weights: how many, and how many parameters, each reason accounts for."""
        result: dict[str, dict[str, Counter]] = {"dropped": {}, "new": {}}
        for row in self.rows:
            if row.fate in result:
                counted = result[row.fate].setdefault(row.reason, Counter())
                counted.update(weights=1, parameters=row.numel)
        return result

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON holds it, with every weight's row."""
        return {
            "conversion": self.conversion,
            "sources": self.sources,
            "target_format": self.target_format,
            "dtype": self.dtype,
            "totals": self.totals(),
            "parts": self.parts(),
            "notes": self.notes,
            "weights": [{"fate": row.fate, **asdict(row)} for row in self.rows],
        }


def make_row(
    source: str | None, target: str | None, module_name: str, shape: Iterable[int], dtype: torch.dtype, reason: str = ""
) -> WeightRow:
    """A row; `module_name` is the weight's name inside our model, which tells its part."""
    numel = math.prod(shape)
    return WeightRow(source, target, part_of(module_name), numel, numel * dtype.itemsize, reason)


def count_dtypes(dtypes: Sequence[tuple[torch.dtype, int]]) -> dict[str, int]:
    """Parameters of each type, the most frequent first."""
    counted: Counter = Counter()
    for dtype, numel in dtypes:
        counted[str(dtype).removeprefix("torch.")] += numel
    return dict(counted.most_common())
