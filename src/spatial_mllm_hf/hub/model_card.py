"""The model card: `model_card.md` at the top of the project, filled in from a checkpoint's own headers and settings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from ..conversion.checkpoint_reading import read_json
from ..conversion.companions import PROCESSOR_FILE, REPORT_FILE
from ..conversion.inspection import CheckpointFacts, inspect_checkpoint
from ..conversion.key_tables import GEOMETRY_HEAD_PREFIXES
from ..conversion.merge import ZERO_REASON
from ..conversion.sources import UNKNOWN_LICENCE
from ..modeling.version_spatial_mllm import __version__

TEMPLATE = Path(__file__).parent / "model_card.md"
CARD = "README.md"
PIPELINE_TAG = "video-text-to-text"
TAGS = ("spatial-mllm", "spatial-reasoning", "video-question-answering", "vggt", "qwen2_5_vl")
UNNAMED = "path/to/this/folder"
UNITS = {"MiB": 2**20, "GiB": 2**30}
PART_NAMES = {
    "vision": "vision tower",
    "spatial": "VGGT",
    "connector": "connector",
    "language": "language model",
    "head": "language-model head",
    "other": "other",
}
SETTINGS = {
    "num_frames": "frames shown to the model (`num_frames`)",
    "num_candidate_frames": "frames that space-aware sampling chooses from (`num_candidate_frames`)",
    "candidate_size": "longer side of those in pixels (`candidate_size`)",
    "geometry_source": "geometry for sampling (`geometry_source`)",
    "size": "pixels a frame (`size`)",
    "second_per_grid": "seconds between frame pairs, as told to the model (`second_per_grid`)",
}


def write_model_card(
    folder: Path,
    repo_id: str | None = None,
    results: Sequence[EvalResult] = (),
    datasets: Sequence[str] = (),
) -> None:
    """Renders the card into a folder's README.md.

    Args:
        folder: a complete checkpoint folder of this package.
        repo_id: repository it is going to; the usage examples name it.
        results: evaluation results for the metadata (`model-index`) and a table.
        datasets: Hub data sets that it was trained on.
    """
    render_model_card(folder, repo_id, results, datasets).save(folder / CARD)


def render_model_card(
    folder: Path,
    repo_id: str | None = None,
    results: Sequence[EvalResult] = (),
    datasets: Sequence[str] = (),
) -> ModelCard:
    """The card as an object; see `write_model_card`."""
    facts = inspect_checkpoint(folder)
    video = _video_settings(folder)
    report = read_json(folder / REPORT_FILE) if (folder / REPORT_FILE).exists() else {}
    name = (repo_id or UNNAMED).split("/")[-1]
    unit = "GiB" if facts.memory["float32"] > UNITS["GiB"] else "MiB"
    return ModelCard.from_template(
        _metadata(facts, report, name, results, datasets),
        template_path=str(TEMPLATE),
        title=name if repo_id else "Spatial-MLLM",
        model_id=repo_id or UNNAMED,
        untrained=_is_untrained(report),
        connector_sentence=f"Connector: {facts.connector}.",
        heads_sentence=_heads_sentence(facts.heads),
        settings=[(text, _setting(video[key])) for key, text in SETTINGS.items() if key in video],
        num_frames=video.get("num_frames", 16),
        dtypes=list(facts.memory),
        unit=unit,
        memory=_memory_rows(facts, UNITS[unit]),
        results=list(results),
        licences=_licences(facts, report),
        version=__version__,
    )


def read_results(path: Path) -> list[EvalResult]:
    """Evaluation results out of a JSON file in the Hub's `model-index` form.

    Raises:
        ValueError: if the file has another form.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    index: Any = content.get("model-index") if isinstance(content, dict) else content
    try:
        return model_index_to_eval_results(index)[1]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f'{path} is not in the form of a model-index: [{{"name": ..., "results": [{{"task": ..., "dataset": ..., '
            f'"metrics": [...]}}]}}] ({type(error).__name__}: {error}).'
        ) from error


def _metadata(
    facts: CheckpointFacts,
    report: dict[str, Any],
    name: str,
    results: Sequence[EvalResult],
    datasets: Sequence[str],
) -> ModelCardData:
    licences = [licence for _, licence in _licences(facts, report) if licence != UNKNOWN_LICENCE]
    known = sorted(dict.fromkeys(licences))
    return ModelCardData(
        language="en",
        license="other" if known else "unknown",
        license_name="-and-".join(known) or None,
        license_link=f"https://huggingface.co/{facts.base_models[0]}" if facts.base_models else None,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=list(TAGS),
        base_model=facts.base_models or None,
        datasets=list(datasets) or None,
        model_name=name,
        eval_results=list(results) or None,
    )


def _licences(facts: CheckpointFacts, report: dict[str, Any]) -> list[tuple[str, str]]:
    """Source and licence: the public backbones by their sizes, or what the sources of a conversion stated."""
    known = []
    for stated in facts.licences:
        if stated != UNKNOWN_LICENCE and not stated.endswith("(its own card)"):
            licence, name = stated.rstrip(")").split(" (")
            known.append((name, licence))
    return known or [(source["name"], source["licence"]) for source in report.get("sources", [])]


def _is_untrained(report: dict[str, Any]) -> bool:
    return any(weight["reason"] == ZERO_REASON for weight in report.get("weights", []))


def _video_settings(folder: Path) -> dict[str, Any]:
    file = folder / PROCESSOR_FILE
    return read_json(file).get("video_processor", {}) if file.exists() else {}


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['shortest_edge']:,} to {value['longest_edge']:,}"
    return str(value)


def _heads_sentence(heads: Sequence[str]) -> str:
    absent = [head for head in GEOMETRY_HEAD_PREFIXES if head not in heads]
    sentence = f"VGGT's geometry heads: {', '.join(heads) or 'none'}"
    return f"{sentence} (left out: {', '.join(absent)})." if absent else f"{sentence}."


def _memory_rows(facts: CheckpointFacts, unit: int) -> list[list[str]]:
    rows = []
    for part, counted in facts.parts.items():
        sizes = facts.memory_by_part[part]
        rows.append(
            [PART_NAMES[part], _count(counted["parameters"]), *(f"{size / unit:.2f}" for size in sizes.values())]
        )
    total = sum(counted["parameters"] for counted in facts.parts.values())
    rows.append(["all", _count(total), *(f"{size / unit:.2f}" for size in facts.memory.values())])
    return rows


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e7 else f"{parameters / 1e6:.2f} M"


def stated_card(folder: Path) -> ModelCard | None:
    """The card that lies in a folder, None without one."""
    return ModelCard.load(folder / CARD) if (folder / CARD).exists() else None


def is_untouched(folder: Path) -> bool:
    """Whether the folder's card is the one that this package rendered there, with nothing changed by hand."""
    card = stated_card(folder)
    return card is not None and str(card) == str(render_model_card(folder))


__all__ = ["is_untouched", "read_results", "render_model_card", "stated_card", "write_model_card"]
