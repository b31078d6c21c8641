"""The model card: `model_card.md` at the top of the project, filled in from a checkpoint's own headers and settings."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from ..conversion.checkpoint_reading import Checkpoint, read_json
from ..conversion.companions import PROCESSOR_FILE, REPORT_FILE
from ..conversion.inspection import CheckpointFacts, inspect_checkpoint
from ..conversion.key_tables import CONNECTOR, GEOMETRY_HEAD_PREFIXES, detect_format, to_module_name
from ..conversion.merge import LAST_LAYER
from ..conversion.sources import UNKNOWN_LICENCE, is_repository
from ..modeling.version_spatial_mllm import __version__

TEMPLATE = Path(__file__).parent / "model_card.md"
CARD = "README.md"
PIPELINE_TAG = "video-text-to-text"
TAGS = ("spatial-mllm", "spatial-reasoning", "video-question-answering", "vggt", "qwen2_5_vl")
# Closes a card that this package wrote, with the hash of what stands above it.
MARKER = "\n<!-- written by spatial-mllm-hf; a push renders it anew as long as nothing is changed here: {} -->\n"
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
    text = str(render_model_card(folder, repo_id, results, datasets))
    (folder / CARD).unlink(missing_ok=True)  # of a download it is a link into the Hub's cache
    (folder / CARD).write_text(text + MARKER.format(_digest(text)), encoding="utf-8")


def add_to_card(folder: Path, results: Sequence[EvalResult] = (), datasets: Sequence[str] = ()) -> None:
    """Puts results and data sets into the metadata of a card that was written by hand; the text stays as it is."""
    card = stated_card(folder)
    if card is None or not (results or datasets):
        return
    data: Any = card.data
    if results:
        data.eval_results = list(results)
        data.model_name = data.get("model_name") or folder.name
    if datasets:
        data.datasets = sorted({*(data.get("datasets") or []), *datasets})
    card.save(folder / CARD)


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
        untrained=_is_untrained(folder),
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
    known = sorted(dict.fromkeys(part.split(" (")[0] for licence in licences for part in licence.split(", ")))
    base_models = [name for name, _ in _licences(facts, report) if is_repository(name)]
    return ModelCardData(
        language="en",
        license="other" if known else "unknown",
        license_name="-and-".join(known) or None,
        license_link=f"https://huggingface.co/{base_models[0]}" if base_models else None,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=list(TAGS),
        base_model=base_models or None,
        datasets=list(datasets) or None,
        model_name=name,
        eval_results=list(results) or None,
    )


def _licences(facts: CheckpointFacts, report: dict[str, Any]) -> list[tuple[str, str]]:
    """Source and licence: the public backbones by their sizes, or what the sources of a conversion stated."""
    sources = [(source["name"], source["licence"]) for source in report.get("sources", [])]
    if not facts.backbones:
        return sources
    others = [source for source in sources if is_repository(source[0]) and source[0] not in facts.base_models]
    return facts.backbones + others


def _is_untrained(folder: Path) -> bool:
    """Whether the connector's last layer is still at zero, where a merge starts it."""
    checkpoint = Checkpoint(folder)
    layout = detect_format(checkpoint.tensors)
    last = tuple(CONNECTOR + layer for layer in LAST_LAYER.values())
    names = [name for name in checkpoint.tensors if to_module_name(name, layout).startswith(last)]
    return bool(names) and not any(piece.any() for name in names for piece in checkpoint.pieces(name))


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
    """The card that lies in a folder, None without one.

    Raises:
        ValueError: if its metadata cannot be read.
    """
    if not (folder / CARD).exists():
        return None
    try:
        return ModelCard.load(folder / CARD)
    except yaml.YAMLError as error:
        raise ValueError(
            f"{folder / CARD}: the metadata is not valid YAML ({' '.join(str(error).split())})."
        ) from error


def is_untouched(folder: Path) -> bool:
    """Whether the folder's card is the one that this package rendered there, with nothing changed by hand."""
    text, _, digest = (folder / CARD).read_text(encoding="utf-8").rpartition(MARKER.split("{}")[0])
    return digest == _digest(text) + MARKER.split("{}")[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


__all__ = ["add_to_card", "is_untouched", "read_results", "render_model_card", "stated_card", "write_model_card"]
