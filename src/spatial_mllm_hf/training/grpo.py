"""Runs of GRPO, from a recipe to a checkpoint.

    train_grpo(load_recipe("grpo_paper", ["--model", "runs/cold-start", ...], GRPORecipe))

Logged are, besides TRL's own: the mean accuracy of each task, and, with `log_completions`, tables of prompts,
completions and rewards (`OUT/completions/*.parquet`).
"""

from pathlib import Path
from typing import Any

from datasets import Dataset

from ..modeling.lora_spatial_mllm import LORA_TARGET_MODULES
from ..modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration
from ..processing.processing_spatial_mllm import SpatialMLLMProcessor
from .grpo_questions import grpo_rows
from .grpo_recipe import GRPORecipe
from .grpo_trainer import SpatialMLLMGRPOTrainer
from .rewards import accuracy_reward, format_reward, length_reward
from .samples import ConversationDataset


def run_grpo(recipe: GRPORecipe) -> dict[str, Any]:
    """Trains and writes the checkpoint, or the adapter, with the processor into `output_dir`.

    Returns:
        Number of steps, and what was logged "first" and "last": "reward", "kl", "completions/mean_length", the accuracy
        of each task, ...
    """
    trainer = make_trainer(recipe)
    trainer.train(resume_from_checkpoint=recipe.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    ends = {"first": logged[0], "last": logged[-1]} if logged else {}
    return {"steps": trainer.state.global_step, **ends}


def make_trainer(recipe: GRPORecipe) -> SpatialMLLMGRPOTrainer:
    """The trainer, its data looked at and its model read.

    Raises:
        ValueError: for data, a checkpoint or settings that cannot be trained with.
    """
    rows = grpo_rows(ConversationDataset(recipe.sources, recipe.form, recipe.seed), Path(recipe.media_folder))
    options: dict[str, Any] = {"revision": recipe.revision} if recipe.revision else {}
    if options:
        recipe.model_init_kwargs = options  # of the reference, which TRL reads
    model = SpatialMLLMForConditionalGeneration.from_pretrained(
        recipe.model, dtype=recipe.dtype, attn_implementation=recipe.attn_implementation, **options
    )
    processor = SpatialMLLMProcessor.from_pretrained(recipe.model, **options)
    if recipe.frame_sampling == "space_aware":
        processor.bind_geometry(model)
    return SpatialMLLMGRPOTrainer(
        model,
        [format_reward, accuracy_reward, *([length_reward] if recipe.length_reward else [])],
        recipe,
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
        processor_kwargs=recipe.processor_kwargs(),
        peft_config=lora_config(recipe),
    )


def lora_config(recipe: GRPORecipe) -> Any:
    """PEFT's settings of the adapters, None where the language model is trained whole.

    Raises:
        ValueError: if adapters are wanted and PEFT is not installed.
    """
    if recipe.lora_rank is None:
        return None
    try:
        from peft import LoraConfig
    except ModuleNotFoundError as error:
        raise ValueError('lora_rank needs PEFT: pip install "spatial-mllm-hf[train]".') from error
    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=LORA_TARGET_MODULES,
        task_type="CAUSAL_LM",
    )
