"""Checkpoints of a trainer under the public names of weights, read back under them.

transformers' Trainer goes on from a checkpoint by `load_state_dict`, which knows the names of modules alone, and passes
over what it does not find: the weights would stay as they were when training began. And FSDP2 gives the model's class
another name, for which no public names are registered.
"""

import os
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import is_peft_available

from ..modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration

ARGUMENTS_FILE = "training_args.bin"


class PublicNamesMixin:
    """Goes before transformers' Trainer, or one of its subclasses, among the bases."""

    args: Any
    model: Any
    processing_class: Any
    is_fsdp_enabled: bool

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The weights of a checkpoint of this trainer; all of them, or an error."""
        wanted = self.model if model is None else model
        if self.is_fsdp_enabled or _is_adapted(wanted):  # their own files have the names of modules
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        read = SpatialMLLMForConditionalGeneration.from_pretrained(resume_from_checkpoint, dtype=wanted.dtype)
        wanted.load_state_dict(read.state_dict())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """As transformers'; weights that were gathered from several processes get their public names too."""
        if state_dict is None or _is_adapted(self.model):
            super()._save(output_dir, state_dict=state_dict)  # type: ignore[misc]
            return
        if not self.args.should_save:
            return
        folder = output_dir or self.args.output_dir
        plain = _without_weights(self.model)
        tied = getattr(plain, "all_tied_weights_keys", {})
        plain.save_pretrained(folder, state_dict={name: state_dict[name] for name in state_dict if name not in tied})
        self.processing_class.save_pretrained(folder)
        torch.save(self.args, os.path.join(folder, ARGUMENTS_FILE))


def _without_weights(model: Any) -> PreTrainedModel:
    """The same model of its own class, on the meta device."""
    with torch.device("meta"):
        plain = SpatialMLLMForConditionalGeneration(model.config)
    plain.generation_config = model.generation_config
    return plain.to(model.dtype)


def _is_adapted(model: Any) -> bool:
    if not is_peft_available():
        return False
    from peft import PeftModel

    return isinstance(model, PeftModel)
