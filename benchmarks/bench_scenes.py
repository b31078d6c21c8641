"""Questions on one scene against a whole run for each question, at the real width and a sixth of the depth."""

import statistics
import tempfile
from pathlib import Path

import torch
from baseline.scene import answer_separately
from full_size import full_size_config, make_model
from measuring import Comparison, compare, describe, timed
from transformers import logging

from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room, write_clip
from spatial_mllm_hf.hub.tiny_checkpoint import tiny_processor
from spatial_mllm_hf.pipelines.pipeline_spatial_mllm import VideoQuestionAnsweringPipeline
from spatial_mllm_hf.processing.processing_spatial_mllm import SpatialMLLMProcessor
from spatial_mllm_hf.processing.video_processing_spatial_mllm import SpatialMLLMVideoProcessor

QUESTIONS = (
    "How many chair(s) are in this room?",
    "What is the distance between the table and the sofa (in meters)?",
    "Which of these objects is the closest to the bed?",
    "What is the size of this room (in square meters)?",
)
FRAMES, CANDIDATES, SIZE = 4, 8, (640, 480)


def run(repeats: int, device: torch.device) -> list[Comparison]:
    """A question's cost on a scene that is open against asking it from scratch, and the cost of several questions."""
    logging.set_verbosity_error()
    pipe = make_pipeline(device)
    options = {"num_frames": FRAMES, "num_candidate_frames": CANDIDATES, "candidate_size": 224}
    one_token = {"max_new_tokens": 1, "do_sample": False}
    with tempfile.TemporaryDirectory() as folder:
        room = make_room(seed=7)
        clip = Path(folder) / "room.mp4"
        write_clip(render(room, *camera_path(room, 2 * FRAMES, SIZE), SIZE).rgb, clip, fps=8)
        opened: list[float] = []
        scene = pipe.open_scene(clip, **options)
        separate = answer_separately(pipe, clip, QUESTIONS[:2], max_new_tokens=8, do_sample=False, **options)
        together = [scene.ask(text, max_new_tokens=8, do_sample=False)["generated_text"] for text in QUESTIONS[:2]]
        same = sum(first == second for first, second in zip(separate, together))
        print(f"answers on the scene equal to asking separately: {same} of 2 (random weights, bfloat16)")
        setting = f"{FRAMES} frames of 640x480, real width, a sixth of the depth, bfloat16, no new tokens"
        row = compare(
            "a further question on a scene",
            setting,
            lambda: answer_separately(pipe, clip, QUESTIONS[:1], **one_token, **options),
            lambda: scene.ask(QUESTIONS[1], **one_token),
            repeats,
            target=15,
        )
        for _ in range(repeats):
            opened.append(timed(lambda: pipe.open_scene(clip, **options)))
    row.details = {"open": opened}
    first, further, opening = (statistics.median(values) for values in (row.baseline, row.ours, opened))
    rows = [row]
    for count in (1, 5, 20):  # put together from the three medians
        rows.append(
            Comparison(
                f"{count} question{'s' if count > 1 else ''} on a scene, opening included",
                "from the medians above",
                [count * first],
                [opening + count * further],
                details={"questions": count},
            )
        )
        print(describe(rows[-1]), flush=True)
    return rows


def make_pipeline(device: torch.device) -> VideoQuestionAnsweringPipeline:
    """Spatial-MLLM of random weights in bfloat16, with a sixth of the layers of each part, and the tiny tokenizer."""
    tiny = tiny_processor()
    config = full_size_config(len(tiny.tokenizer), tiny.video_token_id, tiny.image_token_id)
    config.text_config.num_hidden_layers //= 6
    config.text_config.layer_types = config.text_config.layer_types[: config.text_config.num_hidden_layers]
    config.vision_config.depth = 5
    config.vision_config.fullatt_block_indexes = [4]
    config.spatial_config.num_hidden_layers = config.spatial_config.patch_embed_num_hidden_layers = 4
    config.spatial_config.dpt_layer_indices = [0, 1, 2, 3]
    processor = SpatialMLLMProcessor(
        tiny.image_processor, tiny.tokenizer, SpatialMLLMVideoProcessor(), chat_template=tiny.chat_template
    )
    model = make_model(config, device)
    return VideoQuestionAnsweringPipeline(
        model=model, processor=processor, task="video-question-answering", device=device
    )
