"""Training steps with and without the feature cache, at the real widths of all parts.

    python benchmarks/bench_feature_cache.py [--device cuda] [--frames 16] [--size 640x480] [--divide-depth 1]

A step decodes a rendered walk, or reads its features from disk, and runs forward and backward with the connector and
the language model trained; no optimizer, which the cache does not change. Weights are random, in bfloat16 on
accelerators and in float32 on CPUs. `--divide-depth 12` leaves every part a twelfth of its layers and lets a CPU
finish; the connector has none to leave out, so that it weighs more and the cache gains less than at full depth, as it
does with fewer and smaller frames. On a CPU the process's own seconds are counted, so that others at work do not show.
Prints a markdown table.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from transformers import logging

from spatial_mllm_hf.data.conversations import Conversation
from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room, write_clip
from spatial_mllm_hf.hub.tiny_checkpoint import tiny_processor, vision_token_ids
from spatial_mllm_hf.modeling.configuration_spatial_mllm import SpatialMLLMConfig
from spatial_mllm_hf.modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration
from spatial_mllm_hf.training.cached_encoders import attach_cached_features, digest_encoders, encode_media
from spatial_mllm_hf.training.collator import FAILURES, TASKS, SampleCollator
from spatial_mllm_hf.training.feature_cache import FeatureCache, describe_encoders
from spatial_mllm_hf.training.media import MediaSettings
from spatial_mllm_hf.training.sample_encoding import SampleEncoder
from spatial_mllm_hf.training.samples import TrainingSample
from spatial_mllm_hf.training.trained_parts import select_trained_parts

CACHED: dict[str, tuple[str, ...]] = {
    "no cache": (),
    "VGGT cached": ("vggt",),
    "VGGT and vision tower cached": ("vggt", "vision_tower"),
}
ANSWER = "<answer>3</answer>"  # text is short: the tiny tokenizer has a token for each byte


def make_model(divisor: int, device: torch.device) -> SpatialMLLMForConditionalGeneration:
    """Qwen2.5-VL-3B with VGGT-1B and the v1.1 connector at their widths; the tiny tokenizer's vocabulary."""
    from transformers.initialization import no_init_weights

    tokenizer = tiny_processor().tokenizer
    vision_depth, layers = max(1, 32 // divisor), max(1, 24 // divisor)
    config = SpatialMLLMConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": max(1, 36 // divisor),
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={
            "depth": vision_depth,
            "hidden_size": 1280,
            "out_hidden_size": 2048,
            "tokens_per_second": 2,
            "fullatt_block_indexes": [depth for depth in (7, 15, 23, 31) if depth < vision_depth] or [vision_depth - 1],
        },
        spatial_config={"num_hidden_layers": layers, "patch_embed_num_hidden_layers": layers, "heads": []},
        **vision_token_ids(tokenizer),
        tie_word_embeddings=True,
    )
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    with no_init_weights(), device:  # where it is needed: random weights take a CPU a minute
        model = SpatialMLLMForConditionalGeneration._from_config(config, dtype=dtype)
    model.tie_weights()
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.02, 0.02)
    return model


def train_steps(
    model: SpatialMLLMForConditionalGeneration, encode: SampleEncoder, cached: tuple[str, ...], steps: int
) -> float:
    """Seconds of a step, the first one left out."""
    collate = SampleCollator(model.config, encode.processor.tokenizer.pad_token_id, cached)
    turns = (("human", "<video>\nHow many?"), ("gpt", ANSWER))
    sample = TrainingSample(Conversation("walk", ("walk.mp4",), (), turns), "bench")
    handle = attach_cached_features(model.model)
    model.train()
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter
    started = 0.0
    for step in range(steps + 1):
        if step == 1:
            started = clock()
        batch = collate([encode(sample)])
        if batch[FAILURES]:
            raise ValueError(batch[FAILURES][0].reason)
        inputs = {
            name: value.to(model.device) for name, value in batch.items() if name not in (TASKS, FAILURES, "labels")
        }
        logits = model(**inputs, logits_to_keep=len(ANSWER) + 2, use_cache=False).logits
        logits.float().square().mean().backward()
        model.zero_grad()
    if model.device.type != "cpu":
        torch.accelerator.synchronize()
    handle.remove()
    return (clock() - started) / steps


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--divide-depth", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    width, height = map(int, arguments.size.split("x"))
    model = make_model(arguments.divide_depth, torch.device(arguments.device))
    select_trained_parts(model, ["connector", "language_model"])
    processor = tiny_processor()
    settings = MediaSettings(arguments.frames, width * height // 2, width * height * 21 // 20)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        room = make_room(seed=7)
        extrinsics, intrinsics = camera_path(room, 2 * arguments.frames, (width, height))
        write_clip(render(room, extrinsics, intrinsics, (width, height)).rgb, folder / "walk.mp4", fps=8)
        seconds = {}
        for kind, cached in CACHED.items():
            cache = None
            if cached:
                weights = digest_encoders(model.model, "vision_tower" in cached)
                described = describe_encoders(weights, settings, processor, str(model.dtype), -1)
                cache = FeatureCache(folder / "cache", described, "vision_tower" in cached)
                paths = [str(folder / "walk.mp4")]
                cache.write(
                    "video", paths, encode_media(model.model, processor, settings, "video", paths, len(cached) > 1)
                )
            seconds[kind] = train_steps(
                model, SampleEncoder(processor, folder, settings, cache=cache), cached, arguments.steps
            )
    print(f"{arguments.device}, {arguments.frames} frames of {arguments.size}, depth / {arguments.divide_depth}\n")
    print("| | samples a second | against no cache |\n|---|---|---|")
    for kind, each in seconds.items():
        print(f"| {kind} | {1 / each:.3g} | {seconds['no cache'] / each:.2f}x |")


if __name__ == "__main__":
    main()
