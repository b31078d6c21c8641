"""Spatial-MLLM for the Hugging Face ecosystem: questions about 3D space, answered from ordinary video.

Importing this is light: torch and transformers come with the first class that is touched. It also arranges that
transformers' Auto classes and `pipeline` know this package's, whichever of the two is imported first.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from .registration import install

_PUBLIC = {
    "SpatialMLLMConfig": "modeling.configuration_spatial_mllm",
    "SpatialConnectorConfig": "modeling.configuration_spatial_mllm",
    "VGGTConfig": "modeling.configuration_spatial_mllm",
    "SpatialMLLMModel": "modeling.modeling_spatial_mllm",
    "SpatialMLLMForConditionalGeneration": "modeling.modeling_spatial_mllm",
    "VGGTModel": "modeling.modeling_vggt",
    "PointMap": "modeling.vggt_geometry",
    "SpatialMLLMProcessor": "processing.processing_spatial_mllm",
    "SpatialMLLMVideoProcessor": "processing.video_processing_spatial_mllm",
    "FrameSelection": "processing.frame_sampling_spatial_mllm",
    "select_frames": "processing.frame_sampling_spatial_mllm",
    "VideoQuestionAnsweringPipeline": "pipelines.pipeline_spatial_mllm",
}
__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from .modeling.configuration_spatial_mllm import SpatialConnectorConfig, SpatialMLLMConfig, VGGTConfig
    from .modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration, SpatialMLLMModel
    from .modeling.modeling_vggt import VGGTModel
    from .modeling.vggt_geometry import PointMap
    from .pipelines.pipeline_spatial_mllm import VideoQuestionAnsweringPipeline
    from .processing.frame_sampling_spatial_mllm import FrameSelection, select_frames
    from .processing.processing_spatial_mllm import SpatialMLLMProcessor
    from .processing.video_processing_spatial_mllm import SpatialMLLMVideoProcessor


# The one that files saved by this package carry lies in modeling/version_spatial_mllm.py, which is also their code.
__version__ = importlib.metadata.version("spatial-mllm-hf")


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


install()
