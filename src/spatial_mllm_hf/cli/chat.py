"""`spatial-mllm chat VIDEO`: sees a video once, then answers questions from the keyboard until there are no more.

Each question stands on its own: it is answered as if no other had been asked.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import common

PROMPT = "> "
ENDINGS = ("/quit", "/exit", "/q")


def chat(
    video: str = common.VideoArgument,
    model: str = common.ModelOption,
    frame_sampling: common.FrameSampling = common.SamplingOption,
    num_frames: int | None = common.NumFramesOption,
    max_new_tokens: int | None = common.MaxNewTokensOption,
    device: str = common.DeviceOption,
    dtype: str = common.DtypeOption,
    scene_cache: Path | None = common.SceneCacheOption,
) -> None:
    """Ask about a video, question after question. Ends with /quit or the end of the input; Ctrl-C stops an answer."""
    source = common.resolve_video(video)
    with common.Stages("load", "decode", "geometry", "encode") as stages:
        stages.begin("load")
        pipe = common.load_pipeline(model, device, dtype)
        scene = common.open_scene(pipe, source, stages, frame_sampling, num_frames, scene_cache)
    options: dict[str, Any] = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # not on every system
            import readline  # noqa: F401 - gives input() a history
        sys.stderr.write(f"{len(scene.frames[0])} frames seen. Each question stands on its own; /quit ends.\n")
    for question in _questions():
        try:
            scene.ask(question, streamer=common.answer_streamer(pipe.processor.tokenizer, stages), **options)
        except KeyboardInterrupt:
            sys.stdout.write("\n")


def _questions() -> Iterator[str]:
    """Lines that hold something, until the input ends, an ending is typed or Ctrl-C comes where a question would."""
    prompt = PROMPT if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line in ENDINGS:
            return
        if line:
            yield line
