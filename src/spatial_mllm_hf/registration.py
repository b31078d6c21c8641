"""Registers this package's classes with transformers' Auto classes and pipelines.

The Auto classes import torch, and `import spatial_mllm_hf` shall not. So each of transformers' registries gets ours
once it is imported itself: at once where that has happened, by an import hook (PEP 302) where it has not. transformers'
modules import each other in circles; the hook therefore waits until the outermost of its imports has ended.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType

TASK = "video-question-answering"


def _register_models() -> None:
    from transformers.models.auto import configuration_auto, modeling_auto

    from .modeling.configuration_spatial_mllm import SpatialMLLMConfig, VGGTConfig
    from .modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration, SpatialMLLMModel
    from .modeling.modeling_vggt import VGGTModel

    for config in (SpatialMLLMConfig, VGGTConfig):
        configuration_auto.AutoConfig.register(config.model_type, config, exist_ok=True)
    modeling_auto.AutoModel.register(SpatialMLLMConfig, SpatialMLLMModel, exist_ok=True)
    modeling_auto.AutoModel.register(VGGTConfig, VGGTModel, exist_ok=True)
    for auto_class in (
        modeling_auto.AutoModelForImageTextToText,
        modeling_auto.AutoModelForMultimodalLM,
        modeling_auto.AutoModelForCausalLM,
    ):
        auto_class.register(SpatialMLLMConfig, SpatialMLLMForConditionalGeneration, exist_ok=True)


def _register_processor() -> None:
    from transformers.models.auto.processing_auto import AutoProcessor

    from .modeling.configuration_spatial_mllm import SpatialMLLMConfig
    from .processing.processing_spatial_mllm import SpatialMLLMProcessor

    AutoProcessor.register(SpatialMLLMConfig, SpatialMLLMProcessor, exist_ok=True)


def _register_video_processor() -> None:
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor

    from .modeling.configuration_spatial_mllm import SpatialMLLMConfig
    from .processing.video_processing_spatial_mllm import SpatialMLLMVideoProcessor

    AutoVideoProcessor.register(SpatialMLLMConfig, SpatialMLLMVideoProcessor, exist_ok=True)


def _register_pipeline() -> None:
    from transformers.models.auto.modeling_auto import AutoModelForImageTextToText
    from transformers.pipelines import PIPELINE_REGISTRY

    from .pipelines.pipeline_spatial_mllm import VideoQuestionAnsweringPipeline

    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=VideoQuestionAnsweringPipeline,
            pt_model=AutoModelForImageTextToText,
            type="multimodal",
        )


def _register_configs() -> None:
    """The registry of models brings the configurations along: making a configuration class needs it anyway."""
    importlib.import_module("transformers.models.auto.modeling_auto")


REGISTRATIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.processing_auto": _register_processor,
    "transformers.models.auto.video_processing_auto": _register_video_processor,
    "transformers.pipelines": _register_pipeline,
}


def install() -> None:
    """Registers with what is imported already and waits for the rest. A second call changes nothing."""
    if any(isinstance(finder, _TransformersFinder) for finder in sys.meta_path):
        return
    imported = [name for name in REGISTRATIONS if name in sys.modules]
    sys.meta_path.insert(0, _TransformersFinder())
    for name in imported:
        REGISTRATIONS[name]()


class _TransformersFinder(importlib.abc.MetaPathFinder):
    """Finds transformers' modules where the other finders do, with a loader that reports when they are imported."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._waiting: list[str] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("transformers."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ReportingLoader(spec.loader, self)
        return spec

    def began(self) -> None:
        with self._lock:
            self._depth += 1

    def ended(self, name: str, imported: bool) -> None:
        with self._lock:
            self._depth -= 1
            if imported and name in REGISTRATIONS:
                self._waiting.append(name)
            waiting: list[str] = []
            if self._depth == 0:
                waiting, self._waiting = self._waiting, []
        for registry in waiting:
            REGISTRATIONS[registry]()


class _ReportingLoader(importlib.abc.Loader):
    """Another loader's work, reported to the finder."""

    def __init__(self, loader: importlib.abc.Loader, finder: _TransformersFinder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> object:  # get_source and the like, for tools that look at modules
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._finder.began()
        imported = False
        try:
            self._loader.exec_module(module)
            imported = True
        finally:
            self._finder.ended(module.__name__, imported)
