"""Names of weights: one table for each public checkpoint format, from its names to ours.

Our module names are the public v1.1 ones inside transformers 5's Qwen2.5-VL layout, so only prefixes differ. The
tables are registered with transformers, which renames at load and, the other way round, at save: what we write
carries public v1.1 names whatever was read. Patterns follow transformers' own for Qwen2.5-VL (flat lookaheads,
anchored prefixes), because it has to be able to reverse them.
"""

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

LANGUAGE_MODEL = r"^model(?!\.(language_model|visual|spatial_encoder|connector))"

# Applied in order at load, in reverse order at save: v1.1 stands last, so its names are the ones written.
V1_0_RENAMINGS = (
    (r"^vggt_embedding_merger", "model.connector"),
    (r"^vggt\.", "model.spatial_encoder."),
)
V1_1_RENAMINGS = (
    (r"^visual", "model.visual"),
    (r"^spatial_encoder", "model.spatial_encoder"),
    (r"^connector", "model.connector"),
    (LANGUAGE_MODEL, "model.language_model"),
)
# Relative to the inner SpatialMLLMModel, which applies it on its own and inside the generator.
INNER_RENAMINGS = ((r"^spatial_encoder\.vggt_model", "spatial_encoder"),)
BARE_MODEL_RENAMINGS = ((LANGUAGE_MODEL, "model.language_model"),)

# A Spatial-MLLM checkpoint of either format, read for its VGGT alone.
VGGT_PREFIXES = {r"^(model\.)?spatial_encoder\.(vggt_model\.)?": "", r"^vggt\.": ""}

# The other parts of such a checkpoint, which VGGT alone has no use for.
SPATIAL_MLLM_PARTS = (
    r"^(model\.)?(visual|language_model|connector|layers|embed_tokens|norm)\.",
    r"^lm_head\.",
    r"^vggt_embedding_merger\.",
)

# Weights of public files that this package leaves out, and why.
DROPPED_KEYS = {
    r"(^|\.)track_head\.": "VGGT's point tracker: neither the language model nor the sampler reads it",
}


def register_key_mappings() -> None:
    """Registers the tables; again is harmless (remote code can be executed twice)."""
    tables = {
        "SpatialMLLMForConditionalGeneration": (*V1_0_RENAMINGS, *V1_1_RENAMINGS),
        "SpatialMLLMModel": (*INNER_RENAMINGS, *BARE_MODEL_RENAMINGS),
    }
    for class_name, table in tables.items():
        renamings = [WeightRenaming(source, target) for source, target in table]
        register_checkpoint_conversion_mapping(class_name, renamings, overwrite=True)
