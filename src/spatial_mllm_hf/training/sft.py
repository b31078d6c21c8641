"""Supervised fine-tuning (section 4.1 of the paper): answers to questions about videos, by transformers' Trainer.

The same call goes on with a run that was interrupted, from its last complete checkpoint: the losses are those of an
undisturbed run. Works alone and under `accelerate launch` (data parallelism, FSDP2, DeepSpeed).
"""

import logging
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, set_seed
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_enabled
from transformers.utils import is_peft_available

from ..modeling.lora_spatial_mllm import LORA_TARGET_MODULES
from ..modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration
from ..processing.processing_spatial_mllm import SpatialMLLMProcessor
from .cached_encoders import attach_cached_features, digest_encoders, encode_media
from .checkpoints import ADAPTER_FOLDER, hold_to_one_run, last_complete_checkpoint
from .collator import SampleCollator
from .feature_cache import FeatureCache, MediaKind, describe_encoders
from .sample_encoding import LOADING_ERRORS, EncodedDataset, SampleEncoder
from .samples import ConversationDataset
from .sft_recipe import SFTRecipe
from .sft_trainer import SFTTrainer
from .trained_parts import count_parameters, select_trained_parts

logger = logging.getLogger(__name__)

MODULES_OF_PARTS = {"connector": "connector", "vision_merger": "visual.merger"}  # trained whole beside adapters


def run_sft(recipe: SFTRecipe) -> dict[str, float]:
    """Trains, and leaves a complete checkpoint in `recipe.output_dir`. Returns the trainer's metrics.

    Raises:
        ValueError: for settings that do not fit together or the data, a folder of another run, or too many samples
            that fail to load.
        OSError: if the disk is full or the Hub cannot be reached.
    """
    trainer = make_trainer(recipe)
    with trainer.args.main_process_first(desc="settings of the run"):
        if trainer.is_world_process_zero():
            hold_to_one_run(recipe)
    encode = trainer.train_dataset.encode
    if encode.cache is not None:
        fill_feature_cache(trainer, encode)
    metrics = trainer.train(resume_from_checkpoint=last_complete_checkpoint(str(recipe.output_dir))).metrics
    metrics["failed_samples"] = len(trainer.failed)
    save_result(trainer)
    trainer.save_state()  # the losses of every step
    return metrics


def make_trainer(recipe: SFTRecipe) -> SFTTrainer:
    """All that a run needs, ready to train.

    Raises:
        ValueError: as `run_sft`.
    """
    seed = recipe.seed if recipe.data_seed is None else recipe.data_seed
    samples = ConversationDataset(recipe.sources, seed=seed)
    processor = SpatialMLLMProcessor.from_pretrained(recipe.model, revision=recipe.revision)
    set_seed(recipe.seed)  # of new weights
    model = load_model(recipe)
    cache = make_feature_cache(recipe, model, processor)
    settings = recipe.media_settings()
    dataset = EncodedDataset(
        samples, SampleEncoder(processor, Path(recipe.media_folder), settings, recipe.max_length, cache)
    )
    collate = SampleCollator(
        model.config, processor.tokenizer.pad_token_id, () if cache is None else recipe.cached_parts
    )
    if cache is not None:
        attach_cached_features(model.model)
    return SFTTrainer(
        model=prepare_model(model, recipe),
        args=recipe,
        train_dataset=dataset,
        data_collator=collate,
        processing_class=processor,
    )


def load_model(recipe: SFTRecipe) -> SpatialMLLMForConditionalGeneration:
    """The checkpoint that training starts from."""
    options: dict[str, Any] = {"dtype": recipe.dtype if recipe.dtype == "auto" else getattr(torch, recipe.dtype)}
    if recipe.attn_implementation is not None:
        options["attn_implementation"] = recipe.attn_implementation
    return SpatialMLLMForConditionalGeneration.from_pretrained(
        recipe.model, revision=recipe.revision, allow_missing_spatial=recipe.allow_missing_spatial, **options
    )


def prepare_model(model: SpatialMLLMForConditionalGeneration, recipe: SFTRecipe) -> PreTrainedModel:
    """The model with its trained parts chosen, or with adapters.

    Raises:
        ValueError: if adapters are wanted and PEFT is not installed.
    """
    select_trained_parts(model, recipe.trained_parts)
    for part, trained, total in count_parameters(model):
        logger.info("%s: %s of %s parameters are trained.", part, f"{trained:,}", f"{total:,}")
    if recipe.lora_rank is None:
        return model
    if not is_peft_available():
        raise ValueError('lora_rank needs peft, which is not installed: pip install "spatial-mllm-hf[train]".')
    from peft import LoraConfig, get_peft_model

    whole = [MODULES_OF_PARTS[part] for part in recipe.trained_parts if part in MODULES_OF_PARTS]
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=LORA_TARGET_MODULES,
        modules_to_save=whole or None,
    )
    return get_peft_model(model, config)


def make_feature_cache(
    recipe: SFTRecipe, model: SpatialMLLMForConditionalGeneration, processor: SpatialMLLMProcessor
) -> FeatureCache | None:
    """The cache that the recipe names, if it does.

    Raises:
        ValueError: where no process, or only the first, holds whole encoders.
    """
    if recipe.feature_cache is None:
        return None
    if is_fsdp_enabled():  # transformers' name for this very way of loading
        raise ValueError(
            "feature_cache: with fsdp_cpu_ram_efficient_loading only the first process reads the weights; set it to "
            "false in accelerate's configuration."
        )
    if is_deepspeed_zero3_enabled():
        raise ValueError("feature_cache: under DeepSpeed ZeRO-3 no process holds a whole encoder; use DDP or FSDP2.")
    has_vision_tower = "vision_tower" in recipe.cached_parts
    precision = f"{model.dtype}, autocast {'bfloat16' if recipe.bf16 else 'float16' if recipe.fp16 else 'none'}"
    dependencies = describe_encoders(
        digest_encoders(model.model, has_vision_tower),
        recipe.media_settings(),
        processor,
        precision,
        model.config.connector_config.spatial_embeds_layer_idx,
    )
    return FeatureCache(Path(recipe.feature_cache), dependencies, has_vision_tower)


def fill_feature_cache(trainer: SFTTrainer, encode: SampleEncoder) -> int:
    """Computes the features that the cache lacks, each process its share. Returns how many this process computed.

    Media that cannot be read are left out: their samples fail in training, where they are counted.
    """
    cache, accelerator = encode.cache, trainer.accelerator
    assert cache is not None
    model = accelerator.unwrap_model(trainer.model)
    backbone = (model.get_base_model() if hasattr(model, "get_base_model") else model).model
    place = backbone.device
    backbone.visual.to(accelerator.device), backbone.spatial_encoder.to(accelerator.device)
    was_training, count = backbone.training, 0
    backbone.eval()
    own = list_media(trainer.train_dataset)[accelerator.process_index :: accelerator.num_processes]
    is_silent = bool(trainer.args.disable_tqdm) or not trainer.is_local_process_zero()
    for kind, paths in tqdm(own, desc="Features", disable=is_silent):
        try:
            if cache.path_of(kind, paths).exists():
                continue
            with accelerator.autocast():
                features = encode_media(
                    backbone, encode.processor, encode.settings, kind, list(paths), cache.has_vision_tower
                )
        except LOADING_ERRORS as error:
            logger.warning("No features of %s: %s.", ", ".join(paths), error)
            continue
        cache.write(kind, paths, features)
        count += 1
    backbone.train(was_training)
    backbone.to(place)
    accelerator.wait_for_everyone()
    return count


def list_media(dataset: EncodedDataset) -> list[tuple[MediaKind, tuple[str, ...]]]:
    """Each video, and each set of images that one sample shows, of a data set once; what is missing is left out."""
    found: dict[tuple[MediaKind, tuple[str, ...]], None] = {}
    for sample in map(dataset.samples.__getitem__, range(len(dataset))):
        try:
            videos, images = dataset.encode.locate(sample)
        except OSError:  # the sample is going to fail
            continue
        found |= dict.fromkeys(("video", (path,)) for path in videos)
        if images:
            found["image", tuple(images)] = None
    return list(found)


def save_result(trainer: SFTTrainer) -> None:
    """The trained checkpoint with its processor. Of adapters, their folder, and the model with them merged in."""
    recipe = trainer.args
    folder = Path(str(recipe.output_dir))
    if recipe.lora_rank is None:
        trainer.save_model(str(folder))
        return
    trainer.save_model(str(folder / ADAPTER_FOLDER))
    if trainer.is_world_process_zero():
        from peft import PeftModel

        merged = PeftModel.from_pretrained(load_model(recipe), folder / ADAPTER_FOLDER).merge_and_unload()
        merged.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()
