"""The model that learns synthetic rooms, before it has learnt to talk: VGGT trained on geometry, all else new.

At most 10 M parameters and 15 MB, so that it can be trained on two CPU cores and shipped. Two choices beside size:

- A vision tower that merges neither patches nor frames (`spatial_merge_size` and `temporal_patch_size` 1): frames of
  84x56 pixels have 6x4 patches, and of eight frames of a walk, neighbours show different things.
- A tokenizer of bytes to which the phrases of questions, prompts and trains of thought are added as tokens: a question
  is a dozen of them, where letters would be hundreds. Any other text is read byte by byte.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from ..data.question_templates import TEMPLATES
from ..data.reasoned_answers import ANGLE_STEP
from ..data.relative_directions import DIRECTIONS
from ..data.spatial_questions import LETTERS
from ..data.synthetic_furniture import FURNITURE
from ..data.training_prompts import GRPO_INSTRUCTIONS, GRPO_THINKING, SFT_INSTRUCTIONS
from ..hub.tiny_checkpoint import CHAT_TEMPLATE, SYSTEM_PROMPT, byte_tokenizer, untaken_folder, vision_token_ids
from ..modeling.configuration_spatial_mllm import SpatialMLLMConfig
from ..modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration
from ..modeling.modeling_vggt import VGGTModel
from ..processing.processing_spatial_mllm import SpatialMLLMProcessor
from ..processing.video_processing_spatial_mllm import SpatialMLLMVideoProcessor

NUM_FRAMES = 8
FRAME_PIXELS = 84 * 56
SECOND_PER_GRID = 0.5  # as in training, so that answers see the positions that were learnt
CANDIDATE_SIZE = 84  # pixels; longer side of frames that the sampler chooses from
MOST_NEW_TOKENS = 256
_FARTHEST = 20  # metres or seconds, of numbers that are tokens


def write_start(folder: Path, vggt: Path, seed: int = 0, without_geometry: bool = False) -> Path:
    """Write the checkpoint that fine-tuning on rooms starts from.

    Args:
        folder: new or empty.
        vggt: folder of a VGGT, as `train geometry` leaves it.
        seed: of the new weights.
        without_geometry: the same model, but geometry is not added to what the vision tower sees: the twin that tells
            what geometry is good for.

    Raises:
        ValueError: if the folder is not empty.
        OSError: if there is no VGGT.
    """
    folder = untaken_folder(folder)
    geometry = VGGTModel.from_pretrained(vggt)
    processor = room_processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SpatialMLLMForConditionalGeneration(_config(processor.tokenizer, geometry))
    model.model.spatial_encoder.load_state_dict(geometry.state_dict())
    if without_geometry:
        model.config.spatial_fusion_scale = 0.0
    model.generation_config = GenerationConfig(
        max_new_tokens=MOST_NEW_TOKENS,
        do_sample=False,
        eos_token_id=processor.tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def room_processor() -> SpatialMLLMProcessor:
    """Frames of 84x56 pixels (or other sides of about that area), patches that are not merged, phrases as tokens."""
    size = {"shortest_edge": FRAME_PIXELS // 2, "longest_edge": FRAME_PIXELS}
    return SpatialMLLMProcessor(
        image_processor=Qwen2VLImageProcessor(size=dict(size), merge_size=1, temporal_patch_size=1),
        tokenizer=phrase_tokenizer(),
        video_processor=SpatialMLLMVideoProcessor(
            size=dict(size),
            merge_size=1,
            temporal_patch_size=1,
            num_frames=NUM_FRAMES,
            candidate_size=CANDIDATE_SIZE,
            second_per_grid=SECOND_PER_GRID,
        ),
        chat_template=CHAT_TEMPLATE,
    )


def phrase_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, Qwen's special tokens, and the phrases that questions, prompts and thoughts are made of."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(phrases())
    return tokenizer


def phrases() -> list[str]:
    """Each once, in a fixed order."""
    found = [f"system\n{SYSTEM_PROMPT}", "user\n", "assistant\n"]
    for templates in TEMPLATES.values():
        for template in templates.values():
            found += re.split(r"\{\w+\}", template.text)
    found += [GRPO_THINKING, *GRPO_INSTRUCTIONS.values(), *SFT_INSTRUCTIONS.values()]
    found += ["\nOptions:\n", *(f"{letter}. " for letter in LETTERS[:4])]
    found += ["<think>", "</think>\n<answer>", "</answer>", ", ", ": ", "; ", ". ", " to ", " and", ", turn"]
    found += [*FURNITURE, *sorted({word for words in DIRECTIONS.values() for word in words})]
    found += [f" {number / 10:.1f}" for number in range(-10 * _FARTHEST // 2, 10 * _FARTHEST + 1)]
    found += [f" {angle}°" for angle in range(0, 360, ANGLE_STEP)]
    return [phrase for phrase in dict.fromkeys(found) if len(phrase) > 1]


def _config(tokenizer: PreTrainedTokenizerFast, geometry: VGGTModel) -> SpatialMLLMConfig:
    hidden = 192
    spatial = geometry.config.to_dict()
    del spatial["_name_or_path"]  # where it lay on this machine is nobody's business
    return SpatialMLLMConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": 0.05,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": hidden,
            "spatial_merge_size": 1,
            "temporal_patch_size": 1,
            "tokens_per_second": 2,
            "window_size": 56,
            "fullatt_block_indexes": [0, 1],
            "initializer_range": 0.05,
        },
        spatial_config=spatial,
        **vision_token_ids(tokenizer),
        tie_word_embeddings=True,
        dtype="float32",
    )
