"""`spatial-mllm ask VIDEO QUESTION`: the answer on stdout as it comes, progress on stderr.

Several questions (`-q`) are answered on one scene: the video is decoded, encoded and read once.
"""

import json
import sys
from pathlib import Path
from typing import Any

import typer

from . import common


def ask(
    video: str = common.VideoArgument,
    question: str | None = typer.Argument(None, help="What to ask about it."),
    more: list[str] = typer.Option([], "--question", "-q", help="A question; give it several times for several."),
    model: str | None = common.NamedModelOption,
    frame_sampling: common.FrameSampling = common.SamplingOption,
    num_frames: int | None = common.NumFramesOption,
    max_new_tokens: int | None = common.MaxNewTokensOption,
    device: str = common.DeviceOption,
    dtype: str = common.DtypeOption,
    scene_cache: Path | None = common.SceneCacheOption,
    as_json: bool = typer.Option(False, "--json", help="Print answers, frames and settings as JSON instead."),
    contact_sheet: Path | None = common.ContactSheetOption,
) -> None:
    """Answer questions about a video."""
    questions = [*([] if question is None else [question]), *more]
    if not questions:
        raise ValueError('There is no question: spatial-mllm ask VIDEO "QUESTION", or -q "..." several times.')
    if not all(text.strip() for text in questions):
        raise ValueError("The question is empty.")
    common.check_picture(contact_sheet)
    source = common.resolve_video(video)
    model = common.model_or_embedded(model)
    answers = []
    with common.Stages("load", "decode", "geometry", "encode") as stages:
        stages.begin("load")
        pipe = common.load_pipeline(model, device, dtype)
        scene = common.open_scene(pipe, source, stages, frame_sampling, num_frames, scene_cache)
        options: dict[str, Any] = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
        for text in questions:
            if not as_json:
                options["streamer"] = common.answer_streamer(pipe.processor.tokenizer, stages)
                if len(questions) > 1:
                    stages.end()
                    sys.stdout.write(f"Q: {text}\nA: ")
            answers.append(scene.ask(text, **options)["generated_text"])
    frames = scene.frames[0]
    if contact_sheet is not None:
        common.write_contact_sheet(frames, contact_sheet)
    if as_json:
        pairs = [{"question": text, "answer": answer} for text, answer in zip(questions, answers)]
        report = {
            **(pairs[0] if len(pairs) == 1 else {"answers": pairs}),
            "video": video,
            "model": model,
            "frame_sampling": frame_sampling,
            "frames": [{"index": frame["index"], "timestamp": frame["timestamp"]} for frame in frames],
        }
        sys.stdout.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
