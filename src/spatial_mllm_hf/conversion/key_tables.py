"""Names of weights in each checkpoint format: one table of prefixes for each, read in both directions.

The name that all formats have in common is that of our modules (`model.visual.`, `model.language_model.`,
`model.spatial_encoder.`, `model.connector.`, `lm_head.`), as transformers 5 lays Qwen2.5-VL out. The same renaming at
`from_pretrained` is transformers' work, told by `modeling/key_mapping_spatial_mllm.py`; a test holds the two together.
"""

from collections.abc import Collection, Iterable
from typing import Literal

Format = Literal["v1.1", "v1.0", "qwen2.5-vl", "vggt", "transformers"]

VISION, LANGUAGE = "model.visual.", "model.language_model."
SPATIAL, CONNECTOR, HEAD = "model.spatial_encoder.", "model.connector.", "lm_head."
EMBEDDINGS = f"{LANGUAGE}embed_tokens.weight"
PARTS = {"vision": VISION, "spatial": SPATIAL, "connector": CONNECTOR, "language": LANGUAGE, "head": HEAD}
GEOMETRY_HEAD_PREFIXES = {"camera": "camera_head.", "depth": "depth_head.", "points": "point_head."}

# Prefix in the file → ours. What no prefix fits keeps its name (`lm_head.`).
_QWEN = (("visual.", VISION), ("model.", LANGUAGE))
PREFIXES: dict[Format, tuple[tuple[str, str], ...]] = {
    # Public v1.1 (model_type spatial-mllm), and what this package writes.
    # The last is what SpatialMLLMModel, which has no head, calls its language model when it is saved.
    "v1.1": (
        *_QWEN,
        ("spatial_encoder.vggt_model.", SPATIAL),
        ("spatial_encoder.", SPATIAL),
        ("connector.", CONNECTOR),
        ("language_model.", LANGUAGE),
    ),
    # Public v1.0 (architectures Qwen2_5_VL_VGGTForConditionalGeneration).
    "v1.0": (*_QWEN, ("vggt_embedding_merger.", CONNECTOR), ("vggt.", SPATIAL)),
    "qwen2.5-vl": _QWEN,
    "vggt": (("", SPATIAL),),
    # Names of the modules, as transformers 5 writes with save_original_format=False.
    "transformers": (),
}
SPATIAL_MLLM_FORMATS: tuple[Format, ...] = ("v1.1", "v1.0", "transformers")


def to_module_name(name: str, layout: Format) -> str:
    """The name of our module's weight for a name in a file of this format.

    >>> to_module_name("vggt.aggregator.camera_token", "v1.0")
    'model.spatial_encoder.aggregator.camera_token'
    """
    for public, ours in PREFIXES[layout]:
        if name.startswith(public):
            return ours + name.removeprefix(public)
    return name


def from_module_name(name: str, layout: Format) -> str:
    """The other way round.

    >>> from_module_name("model.language_model.norm.weight", "v1.1")
    'model.norm.weight'
    """
    for public, ours in PREFIXES[layout]:
        if name.startswith(ours):
            return public + name.removeprefix(ours)
    return name


def part_of(name: str) -> str:
    """Which part of the model a module name belongs to, a key of `PARTS`, or "other"."""
    return next((part for part, prefix in PARTS.items() if name.startswith(prefix)), "other")


def detect_format(names: Collection[str]) -> Format:
    """The format of a checkpoint, told by the names in it.

    Raises:
        ValueError: if it is none of those known.
    """
    if _any_starts(names, "vggt_embedding_merger."):
        return "v1.0"
    if _any_starts(names, LANGUAGE, VISION):
        return "transformers"
    if _any_starts(names, "spatial_encoder.", "connector."):
        return "v1.1"
    if _any_starts(names, "aggregator."):
        return "vggt"
    if _any_starts(names, "visual.") and _any_starts(names, "model."):
        return "v1.0" if _any_starts(names, "vggt.") else "qwen2.5-vl"
    raise ValueError(
        f"The checkpoint's format is not known: its {len(names)} weights begin with {sorted(names)[:3]}. Expected the "
        "names of Spatial-MLLM v1.1 or v1.0, of Qwen2.5-VL, or of VGGT-1B."
    )


def _any_starts(names: Iterable[str], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in names)
