"""A tiny complete checkpoint with random weights: under 4 MB, for tests and first steps.

It has every part of the real one (both encoders with all heads, connector, language model, tokenizer with Qwen's
special tokens, chat template, processor, generation config) at sizes that answer within seconds on a laptop. Its
answers are meaningless; everything on the way to them is not.
"""

import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from ..conversion.new_folder import is_taken
from ..modeling.configuration_spatial_mllm import SpatialMLLMConfig
from ..modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration
from ..processing.processing_spatial_mllm import SpatialMLLMProcessor
from ..processing.video_processing_spatial_mllm import SpatialMLLMVideoProcessor

# Qwen2.5-VL's special tokens in the order of its vocabulary.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
SYSTEM_PROMPT = "You are a helpful assistant."
# Renders messages as Qwen2.5-VL's template does: ChatML, a vision placeholder for each picture and video.
CHAT_TEMPLATE = (
    "{%- set system = '" + SYSTEM_PROMPT + "' -%}"
    "{%- if messages[0]['role'] != 'system' -%}{{ '<|im_start|>system\n' + system + '<|im_end|>\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'video' or 'video' in part -%}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- elif part['type'] == 'image' or 'image' in part -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif 'text' in part -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
PRINTABLE = range(0x20, 0x7F)
PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 140 * 140}
CANDIDATE_SIZE = 112


def write_tiny_checkpoint(folder: str | os.PathLike, seed: int = 0) -> Path:
    """Writes the checkpoint into `folder`, which is made if need be. Returns its path.

    Raises:
        ValueError: if the folder exists and is not empty.
    """
    folder = untaken_folder(folder)
    processor = tiny_processor()
    model = tiny_model(processor.tokenizer, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def untaken_folder(folder: str | os.PathLike) -> Path:
    """The folder, looked at before anything is made for it.

    Raises:
        ValueError: if it exists and is not empty.
    """
    folder = Path(folder)
    if is_taken(folder):
        raise ValueError(f"{folder} exists and is not an empty folder; name a new one.")
    return folder


def tiny_processor() -> SpatialMLLMProcessor:
    """The processor: bytes as tokens, frames of at most 140 x 140 pixels."""
    return SpatialMLLMProcessor(
        image_processor=Qwen2VLImageProcessor(size=dict(PIXELS)),
        tokenizer=byte_tokenizer(),
        video_processor=SpatialMLLMVideoProcessor(size=dict(PIXELS), candidate_size=CANDIDATE_SIZE),
        chat_template=CHAT_TEMPLATE,
    )


def tiny_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> SpatialMLLMForConditionalGeneration:
    """The model, its random weights set by `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SpatialMLLMForConditionalGeneration(tiny_config(tokenizer))
    model.generation_config = GenerationConfig(
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=_unprintable_tokens(tokenizer),  # random bytes would upset a terminal
        repetition_penalty=1.5,  # random weights like to repeat themselves
    )
    return model.eval()


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> SpatialMLLMConfig:
    """All parts at a width of 32 or 64; weights drawn wide enough that each part shows in the logits."""
    spread = 0.1
    return SpatialMLLMConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": spread,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "tokens_per_second": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1, 3],
            "initializer_range": spread,
        },
        spatial_config={
            "img_size": 56,
            "embed_dim": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "patch_embed_num_hidden_layers": 3,
            "patch_embed_num_attention_heads": 2,
            "dpt_hidden_size": 16,
            "dpt_neck_hidden_sizes": [8, 12, 16, 16],
            "dpt_layer_indices": [0, 1, 2, 3],
            "camera_num_hidden_layers": 2,
            "camera_num_attention_heads": 8,
            "layer_scale_init_value": 1.0,
            "initializer_range": spread,
        },
        **vision_token_ids(tokenizer),
        tie_word_embeddings=True,
        dtype="float32",
    )


def vision_token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The fields of a configuration that say which tokens stand for pictures and videos."""
    tokens = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {field: tokenizer.convert_tokens_to_ids(token) for field, token in tokens.items()}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    )
    fast.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    return fast


def _unprintable_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """All tokens but printable ASCII and the end of a turn."""
    kept = {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    kept |= {tokenizer.encode(chr(byte), add_special_tokens=False)[0] for byte in PRINTABLE}
    return sorted(set(range(len(tokenizer))) - kept)
