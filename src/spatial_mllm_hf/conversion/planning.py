"""The plan of a conversion: which weight goes where, settled from headers before anything is read or written.

A plan is strict: each weight of the source has a place or a reason to be left out, each place has a weight or a reason
to be new. Anything else is an error that names what comes nearest.
"""

import copy
import difflib
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ..modeling.configuration_spatial_mllm import SpatialMLLMConfig
from ..modeling.key_mapping_spatial_mllm import DROPPED_KEYS
from ..modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration
from .checkpoint_reading import Checkpoint
from .checkpoint_writing import TensorToWrite
from .coverage import CoverageReport, WeightRow, count_dtypes, make_row
from .key_tables import EMBEDDINGS, GEOMETRY_HEAD_PREFIXES, HEAD, SPATIAL, Format, from_module_name, to_module_name

TIED_REASON = "the same as the embeddings (tie_word_embeddings)"
UNKNOWN_REASON = "unknown, left out because strict checking is off"
FRESH_REASON = "missing, made anew because strict checking is off"
SHOWN = 3
AnyConfig = TypeVar("AnyConfig", bound=PreTrainedConfig)
Expected = Mapping[str, tuple[int, ...]]


@dataclass
class ConversionPlan:
    """What a conversion will write.

    Attributes:
        config: the configuration to be written: ours, or the JSON of a public format.
        tensors: weights in the order in which they will be written.
        rows: every weight's account.
        target_format: names of the weights written.
        sources: for the report.
        notes: for the report.
    """

    config: PreTrainedConfig | dict[str, Any]
    tensors: list[TensorToWrite]
    rows: list[WeightRow]
    target_format: Format
    sources: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of weights that will be written."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def report(self, conversion: str) -> CoverageReport:
        """The account of it."""
        dtypes = count_dtypes([(tensor.dtype, torch.Size(tensor.shape).numel()) for tensor in self.tensors])
        return CoverageReport(conversion, self.sources, self.target_format, self.rows, dtypes, self.notes)


class WeightMatcher:
    """Gives the weights of one or more checkpoints their places in a model, and finds what does not fit.

    Args:
        expected: shape of each weight of the model, by module name.
        target: format to be written.
        dtype: type to be written; None keeps each weight's own.
        strict: whether unknown and missing weights are errors.
        heads: geometry heads of the model; weights of others are left out.
        tied: whether `lm_head.weight` is the embeddings'.
    """

    def __init__(
        self,
        expected: Expected,
        target: Format,
        dtype: torch.dtype | None,
        strict: bool = True,
        heads: Collection[str] | None = None,
        tied: bool = False,
    ) -> None:
        self.expected = dict(expected)
        self.target = target
        self.dtype = dtype
        self.strict = strict
        self.heads = heads
        self.tied = tied
        if tied:
            self.expected.pop(f"{HEAD}weight", None)
        self.tensors: list[TensorToWrite] = []
        self.rows: list[WeightRow] = []
        self._filled: set[str] = set()
        self._unknown: list[tuple[str, Format]] = []

    def take(self, checkpoint: Checkpoint, layout: Format) -> None:
        """Places all weights of a checkpoint.

        Raises:
            ValueError: for a weight of the wrong shape, or one that is there twice.
        """
        _refuse_quantised(checkpoint)
        for name, stored in checkpoint.tensors.items():
            ours = to_module_name(name, layout)
            reason = self._reason_to_drop(ours)
            if reason == TIED_REASON:
                _check_tied(checkpoint, name, layout)
            if reason == UNKNOWN_REASON:
                self._unknown.append((name, layout))
            if reason is not None:
                self.rows.append(make_row(name, None, ours, stored.shape, stored.dtype, reason))
                continue
            if self.expected[ours] != stored.shape:
                raise ValueError(
                    f"{stored.file.name}: {name!r} has shape {list(stored.shape)}, but the configuration makes it "
                    f"{list(self.expected[ours])}. The weights and config.json do not belong together."
                )
            if ours in self._filled:
                raise ValueError(f"{name!r} is the second weight for {ours!r}: the checkpoint holds it twice.")
            self._filled.add(ours)
            self._write(name, ours, stored.shape, stored.dtype, partial(checkpoint.pieces, name))

    def make(self, name: str, pieces: Callable[[], Iterator[torch.Tensor]], dtype: torch.dtype, reason: str) -> None:
        """Places a new weight."""
        self._filled.add(name)
        self._write(None, name, self.expected[name], dtype, pieces, reason)

    def missing(self) -> list[str]:
        """Module names that have no weight yet."""
        return [name for name in self.expected if name not in self._filled]

    def check(self, origin: str) -> None:
        """Ends the matching.

        Raises:
            ValueError: if strict and weights are unknown or missing, with the names that come nearest.
        """
        missing = self.missing()
        if not self.strict:
            for name in missing:
                self.make(name, partial(fresh_values, name, self.expected[name]), torch.float32, FRESH_REASON)
            return
        if self._unknown:
            examples = []
            for name, layout in self._unknown[:SHOWN]:
                places = [from_module_name(place, layout) for place in missing or self.expected]
                examples.append(f"{name!r} ({_nearest(name, places)})")
            raise ValueError(
                f"{origin}: {len(self._unknown)} weights are unknown, such as {'; '.join(examples)}"
                f"{f', and {len(missing)} are missing' if missing else '. Pass --no-strict to leave them out'}."
            )
        if missing:
            there = [row.source for row in self.rows if row.source is not None]
            names = [from_module_name(name, self.target) for name in missing[:SHOWN]]
            examples = [f"{name!r} ({_nearest(name, there)})" for name in names]
            raise ValueError(
                f"{origin}: {len(missing)} weights are missing, such as {'; '.join(examples)}. If it has fewer "
                "geometry heads, name those it has with --heads."
            )

    def _reason_to_drop(self, ours: str) -> str | None:
        if self.tied and ours == f"{HEAD}weight":
            return TIED_REASON
        if ours in self.expected:
            return None
        for pattern, reason in DROPPED_KEYS.items():
            if re.search(pattern, ours):
                return reason
        for head, prefix in GEOMETRY_HEAD_PREFIXES.items():
            if ours.startswith(SPATIAL + prefix) and self.heads is not None and head not in self.heads:
                return f"the {head} head is not among the heads asked for"
        return UNKNOWN_REASON

    def _write(
        self,
        source: str | None,
        ours: str,
        shape: Sequence[int],
        stored: torch.dtype,
        pieces: Callable[[], Iterator[torch.Tensor]],
        reason: str = "",
    ) -> None:
        dtype = self.dtype if self.dtype is not None and stored.is_floating_point else stored
        target = from_module_name(ours, self.target)
        self.tensors.append(TensorToWrite(target, tuple(shape), dtype, pieces))
        self.rows.append(make_row(source, target, ours, shape, dtype, reason))


def make_config(kind: type[AnyConfig], settings: dict[str, Any], origin: str) -> AnyConfig:
    """A configuration out of what a file says.

    Raises:
        ValueError: if a value has the wrong type or cannot be.
    """
    try:
        return kind(**_without_attention(settings))
    except (StrictDataclassError, TypeError, AttributeError, KeyError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{origin} does not describe such a model ({type(error).__name__}: {reason}).") from error


def _without_attention(settings: dict[str, Any]) -> dict[str, Any]:
    """A copy (transformers changes nested dictionaries) without attention backends, which can name code."""
    kept = {name: value for name, value in settings.items() if "attn_implementation" not in name}
    return {
        name: _without_attention(value) if isinstance(value, dict) else copy.deepcopy(value)
        for name, value in kept.items()
    }


def _refuse_quantised(checkpoint: Checkpoint) -> None:
    if checkpoint.config.get("quantization_config"):
        method = checkpoint.config["quantization_config"].get("quant_method", "an unnamed method")
        raise ValueError(f"{checkpoint.folder} is quantised ({method}): convert the checkpoint that it was made from.")


def _check_tied(checkpoint: Checkpoint, head: str, layout: Format) -> None:
    embeddings = from_module_name(EMBEDDINGS, layout)
    if embeddings not in checkpoint.tensors or not checkpoint.are_equal(head, embeddings):
        raise ValueError(
            f"{checkpoint.folder}: config.json says tie_word_embeddings, but {head!r} is not the embeddings. Set "
            "tie_word_embeddings to false there if the head is meant to be its own."
        )


def expected_weights(config: SpatialMLLMConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each weight of the model that a configuration makes, by module name; nothing is allocated."""
    with torch.device("meta"):
        model = SpatialMLLMForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def fresh_values(name: str, shape: Sequence[int], std: float = 0.02, seed: int = 0) -> Iterator[torch.Tensor]:
    """New values of a weight: biases 0, norms 1, all else normal; drawn row by row, equal for equal names and seeds."""
    if name.endswith("bias"):
        yield torch.zeros(torch.Size(shape).numel())
    elif len(shape) < 2:
        yield torch.ones(torch.Size(shape).numel())
    else:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        row = torch.Size(shape[1:]).numel()
        rows = max(1, 2**24 // row)
        for start in range(0, shape[0], rows):
            yield torch.empty(min(rows, shape[0] - start) * row).normal_(0, std, generator=generator)


def _nearest(name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"nearest known name: {near[0]!r}" if near else "nothing like it is known"
