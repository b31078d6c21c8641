"""What lmms-eval finds by its entry point `lmms_eval.models`. Importing it is cheap, and needs no lmms-eval."""

from typing import Any

MODEL = "spatial_mllm"
CLASS_PATH = "spatial_mllm_hf.evaluation.lmms_eval_model.SpatialMLLM"


def manifest() -> Any:
    """The name of the model in lmms-eval and the class behind it, which is imported when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(MODEL, chat_class_path=CLASS_PATH)
