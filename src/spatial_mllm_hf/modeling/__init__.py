"""Configurations and models. Files here import only their siblings: copied into one folder, they are remote code."""

# The Auto classes have to stand before our classes are made, because their import is what registers ours
# (see `spatial_mllm_hf.registration`). Imported from here, half-made modules never meet.
import transformers.models.auto.modeling_auto as _modeling_auto  # noqa: F401
