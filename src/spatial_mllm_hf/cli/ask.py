"""`spatial-mllm ask VIDEO QUESTION`: the answer on stdout as it comes, progress on stderr."""

import json
import sys
from pathlib import Path
from typing import Any

import typer

from . import common


def ask(
    video: str = common.VideoArgument,
    question: str = typer.Argument(help="What to ask about it."),
    model: str = common.ModelOption,
    frame_sampling: common.FrameSampling = common.SamplingOption,
    num_frames: int | None = common.NumFramesOption,
    max_new_tokens: int | None = typer.Option(None, min=1, help="Longest answer. [default: the checkpoint's, or 256]"),
    device: str = common.DeviceOption,
    dtype: str = common.DtypeOption,
    as_json: bool = typer.Option(False, "--json", help="Print answer, frames and settings as JSON instead."),
    contact_sheet: Path | None = common.ContactSheetOption,
) -> None:
    """Answer a question about a video."""
    if not question.strip():
        raise ValueError("The question is empty.")
    common.check_picture(contact_sheet)
    source = common.resolve_video(video)
    with common.Stages("load", "decode", "geometry", "encode") as stages:
        stages.begin("load")
        pipe = _load_pipeline(model, device, dtype)
        options: dict[str, Any] = {"frame_sampling": frame_sampling, "num_frames": num_frames}
        options["max_new_tokens"] = max_new_tokens
        if not as_json:
            options["streamer"] = _answer_streamer(pipe.processor.tokenizer, stages)
        options = {name: value for name, value in options.items() if value is not None}
        answer = pipe(source, question, return_frames=True, progress=stages.begin, **options)
    frames = answer["frames"][0]
    if contact_sheet is not None:
        common.write_contact_sheet(frames, contact_sheet)
    if as_json:
        report = {
            "question": question,
            "answer": answer["generated_text"],
            "video": video,
            "model": model,
            "frame_sampling": frame_sampling,
            "frames": [{"index": frame["index"], "timestamp": frame["timestamp"]} for frame in frames],
        }
        sys.stdout.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def _load_pipeline(model: str, device: str, dtype: str) -> Any:
    torch_device, torch_dtype = common.resolve_device(device), common.resolve_dtype(dtype)
    common.check_model(model)
    common.quiet_transformers()
    from ..modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration
    from ..pipelines.pipeline_spatial_mllm import VideoQuestionAnsweringPipeline

    # By our own classes: a public v1.0 checkpoint calls itself plain Qwen2.5-VL, and the Auto classes believe it.
    return VideoQuestionAnsweringPipeline(
        model=SpatialMLLMForConditionalGeneration.from_pretrained(model, dtype=torch_dtype).eval(),
        processor=common.load_processor(model),
        device=torch_device,
        task="video-question-answering",
    )


def _answer_streamer(tokenizer: Any, stages: common.Stages) -> Any:
    from transformers import TextStreamer

    class AnswerStreamer(TextStreamer):
        """Prints tokens as they come; the first takes the progress bar away."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            stages.end()
            super().on_finalized_text(text, stream_end)

    return AnswerStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
