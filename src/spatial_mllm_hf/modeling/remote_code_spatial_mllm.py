"""The code that a saved checkpoint carries, so that it works where this package is not installed.

It is the package's own files of `modeling/`, `processing/` and `pipelines/`, laid flat beside the weights with nothing
rewritten, and the names of the classes in `config.json` (`auto_map`, `custom_pipelines`) by which transformers finds
them under `trust_remote_code=True`.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_imports
from transformers.utils import cached_file, logging

logger = logging.get_logger(__name__)

_GENERATOR = "modeling_spatial_mllm.SpatialMLLMForConditionalGeneration"
AUTO_MAP = {
    "AutoConfig": "configuration_spatial_mllm.SpatialMLLMConfig",
    "AutoModel": "modeling_spatial_mllm.SpatialMLLMModel",
    "AutoModelForImageTextToText": _GENERATOR,
    "AutoModelForMultimodalLM": _GENERATOR,
    "AutoModelForCausalLM": _GENERATOR,
    "AutoProcessor": "processing_spatial_mllm.SpatialMLLMProcessor",
    "AutoVideoProcessor": "video_processing_spatial_mllm.SpatialMLLMVideoProcessor",
}
CUSTOM_PIPELINES = {
    "video-question-answering": {
        "impl": "pipeline_spatial_mllm.VideoQuestionAnsweringPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "type": "multimodal",
    }
}
# The files that these name; what else there is, they import.
CODE_ENTRIES = tuple(
    dict.fromkeys(
        f"{name.split('.')[0]}.py"
        for name in (*AUTO_MAP.values(), *(str(t["impl"]) for t in CUSTOM_PIPELINES.values()))
    )
)
FOLDERS = ("modeling", "processing", "pipelines")
IS_REMOTE = __name__.startswith("transformers_modules.")


def copy_remote_code(folder: Path, origin: str | None = None, revision: str | None = None) -> list[Path]:
    """Copies the code into a checkpoint's folder.

    Args:
        folder: where to; exists already.
        origin: folder or repository that this code was itself loaded from, when it is remote code.
        revision: of that repository.

    Returns:
        The files written. Running as remote code, none (with a warning) if some cannot be got from `origin` any more:
        weights have to be saved all the same.
    """
    if IS_REMOTE:
        find = _finder_in_origin(origin, revision)
    else:
        find = find_in_package
    try:
        files = collect_code(find)
    except OSError as error:
        logger.warning(f"The code of this model could not be copied beside its weights in {folder}: {error}")
        return []
    targets = [(file, folder / file.name) for file in files]
    missing = [pair for pair in targets if not (pair[1].exists() and pair[1].samefile(pair[0]))]
    return [Path(shutil.copyfile(file, target)) for file, target in missing]


def collect_code(find: Callable[[str], Path]) -> list[Path]:
    """All files of code: those that `AUTO_MAP` and `CUSTOM_PIPELINES` name, and what they import of each other.

    Args:
        find: gives the path of a file by its name.

    Raises:
        FileNotFoundError: if one is not there.
    """
    waiting = list(CODE_ENTRIES)
    found: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = find(name)
            waiting += [f"{module}.py" for module in get_relative_imports(found[name])]
    return [found[name] for name in sorted(found)]


def find_in_package(name: str) -> Path:
    """Path of a code file in the installed package."""
    package = Path(__file__).resolve().parent.parent
    return next(package / folder / name for folder in FOLDERS if (package / folder / name).exists())


def _finder_in_origin(origin: str | None, revision: str | None) -> Callable[[str], Path]:
    beside = Path(__file__).resolve().parent

    def find(name: str) -> Path:
        if (beside / name).exists():
            return beside / name
        if not origin:
            raise FileNotFoundError(f"{name} is not there, and where the model came from is not known.")
        return Path(cached_file(origin, name, revision=revision))

    return find
