"""What can be told of a checkpoint before and after its weights are read."""

import os
from typing import Any

from transformers import PreTrainedConfig

QWEN_ARCHITECTURE = "Qwen2_5_VLForConditionalGeneration"
HUB_OPTIONS = ("revision", "subfolder", "cache_dir", "token", "local_files_only", "force_download", "proxies")


def is_plain_qwen(name: Any, options: dict[str, Any]) -> bool:
    """Whether a checkpoint says of itself that it is Qwen2.5-VL; seen before gigabytes are loaded.

    Args:
        name: folder or repository.
        options: those of `from_pretrained`.
    """
    config = options.get("config")
    if config is None or isinstance(config, (str, os.PathLike)):
        hub_options = {key: options[key] for key in HUB_OPTIONS if key in options}
        config, _ = PreTrainedConfig.get_config_dict(config or name, **hub_options)
        return config.get("architectures") == [QWEN_ARCHITECTURE]
    return config.architectures == [QWEN_ARCHITECTURE]


def is_spatial_weight(key: str) -> bool:
    """Whether a weight of ours belongs to the geometry branch."""
    return key.removeprefix("model.").startswith(("spatial_encoder.", "connector."))


def missing_message(name: Any, lacking: str) -> str:
    """Says that a checkpoint lacks the geometry branch or some of it, and the way out."""
    return (
        f"{name} lacks {lacking} geometry branch: it is not a complete Spatial-MLLM checkpoint, and random geometry "
        "would give random answers. Pass allow_missing_spatial=True to start a new merge from it."
    )
