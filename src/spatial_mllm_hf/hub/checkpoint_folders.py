"""Complete checkpoint folders out of conversion plans: weights, configuration, processor, code, card, report.

Each function writes a new folder, whole or not at all, and returns the account of every weight.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedConfig

from ..conversion.checkpoint_reading import Checkpoint
from ..conversion.checkpoint_writing import parse_size, write_weights
from ..conversion.companions import (
    GENERATION_FILE,
    REPORT_FILE,
    TOKENIZER_FILES,
    copy_files,
    copy_licences,
    has_tokenizer,
    write_json,
    write_official_processor,
    write_official_tokenizer,
)
from ..conversion.coverage import CoverageReport
from ..conversion.merge import ConnectorVersion, plan_merge
from ..conversion.new_folder import new_folder
from ..conversion.planning import ConversionPlan
from ..conversion.public_formats import plan_extract_vggt, plan_from_official, plan_to_official
from ..modeling.configuration_spatial_mllm import GEOMETRY_HEADS, SpatialMLLMConfig
from ..processing.processing_spatial_mllm import SpatialMLLMProcessor
from .model_card import write_model_card

DEFAULT_SHARD_SIZE = "4GB"
# Told how many bytes of weights there are to write, gives what to call with the bytes just written.
Progress = Callable[[int], Callable[[int], None]]


def _no_progress(_total: int) -> Callable[[int], None]:
    return lambda _bytes: None


def merge(
    qwen: Checkpoint,
    vggt: Checkpoint,
    out: str | Path,
    connector: ConnectorVersion = "v1.1",
    heads: Sequence[str] = GEOMETRY_HEADS,
    dtype: torch.dtype | None = torch.bfloat16,
    max_shard_size: str = DEFAULT_SHARD_SIZE,
    strict: bool = True,
    progress: Progress = _no_progress,
) -> CoverageReport:
    """Writes a Spatial-MLLM made of Qwen2.5-VL and VGGT; see `conversion.merge.plan_merge`.

    Raises:
        ValueError: if the sources do not fit, or `out` exists.
        OSError: if the disk is full.
    """
    plan = plan_merge(qwen, vggt, connector, heads, dtype, strict)
    with new_folder(out) as folder:
        report = _write(plan, folder, "merge", max_shard_size, progress)
        _complete(report, folder, qwen.folder)
        copy_licences(qwen.folder, folder, "qwen2_5_vl")
        copy_licences(vggt.folder, folder, "vggt")
        _finish(report, folder)
    return report


def from_official(
    source: Checkpoint,
    out: str | Path,
    dtype: torch.dtype | None = None,
    heads: Sequence[str] | None = None,
    max_shard_size: str = DEFAULT_SHARD_SIZE,
    strict: bool = True,
    progress: Progress = _no_progress,
) -> CoverageReport:
    """Writes a public v1.1 or v1.0 checkpoint as one of this package; see `conversion.public_formats`.

    Raises:
        ValueError: if the source is no complete Spatial-MLLM, or `out` exists.
        OSError: if the disk is full.
    """
    plan = plan_from_official(source, dtype, heads, strict)
    with new_folder(out) as folder:
        report = _write(plan, folder, "from-official", max_shard_size, progress)
        _complete(report, folder, source.folder)
        copy_licences(source.folder, folder, "")
        _finish(report, folder)
    return report


def to_official(
    source: Checkpoint,
    out: str | Path,
    dtype: torch.dtype | None = None,
    max_shard_size: str = DEFAULT_SHARD_SIZE,
    strict: bool = True,
    progress: Progress = _no_progress,
) -> CoverageReport:
    """Writes the public layout that the official code loads; see `conversion.public_formats`.

    Raises:
        ValueError: if the source is no complete Spatial-MLLM, or `out` exists.
        OSError: if the disk is full.
    """
    plan = plan_to_official(source, dtype, strict)
    with new_folder(out) as folder:
        report = _write(plan, folder, "to-official", max_shard_size, progress)
        if has_tokenizer(source.folder):
            copy_files((*TOKENIZER_FILES, GENERATION_FILE), source.folder, folder)
            write_official_tokenizer(folder)
            write_official_processor(source.folder, folder)
        else:
            report.notes.append(_no_tokenizer_note(source.folder))
        copy_licences(source.folder, folder, "")
        write_json(report.to_dict(), folder / REPORT_FILE)
    return report


def extract_vggt(
    source: Checkpoint, out: str | Path, dtype: torch.dtype | None = None, progress: Progress = _no_progress
) -> CoverageReport:
    """Writes the VGGT of a Spatial-MLLM in VGGT-1B's layout, in one file as there.

    Raises:
        ValueError: if the source is no Spatial-MLLM, or `out` exists.
        OSError: if the disk is full.
    """
    plan = plan_extract_vggt(source, dtype)
    with new_folder(out) as folder:
        report = _write(plan, folder, "extract-vggt", None, progress)
        copy_licences(source.folder, folder, "")
        write_json(report.to_dict(), folder / REPORT_FILE)
    return report


def _write(
    plan: ConversionPlan, folder: Path, conversion: str, max_shard_size: str | None, progress: Progress
) -> CoverageReport:
    """Configuration and weights."""
    limit = None if max_shard_size is None else parse_size(max_shard_size)
    if isinstance(plan.config, PreTrainedConfig):
        plan.config.save_pretrained(folder)
    else:
        write_json(plan.config, folder / "config.json")
    write_weights(plan.tensors, folder, limit, progress(plan.nbytes))
    return plan.report(conversion)


def _complete(report: CoverageReport, folder: Path, source: Path) -> None:
    """Processor, tokenizer and generation settings, as far as the source has them."""
    if has_tokenizer(source):
        processor = SpatialMLLMProcessor.from_pretrained(source, trust_remote_code=False)
        heads = set(SpatialMLLMConfig.from_pretrained(folder).spatial_config.heads)
        if "points" not in heads and {"camera", "depth"} <= heads:
            processor.video_processor.geometry_source = "depth"
        processor.save_pretrained(folder)
        copy_files(TOKENIZER_FILES, source, folder)
    else:
        report.notes.append(_no_tokenizer_note(source))
    if not copy_files((GENERATION_FILE,), source, folder):
        _generation_config(folder).save_pretrained(folder)


def _generation_config(folder: Path) -> GenerationConfig:
    text = SpatialMLLMConfig.from_pretrained(folder).text_config
    ids = {name: getattr(text, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(**{name: value for name, value in ids.items() if value is not None})


def _finish(report: CoverageReport, folder: Path) -> None:
    write_json(report.to_dict(), folder / REPORT_FILE)
    write_model_card(folder)


def _no_tokenizer_note(source: Path) -> str:
    return (
        f"{source.name} has no tokenizer or no image settings: neither has the new folder, and it cannot be published."
    )
