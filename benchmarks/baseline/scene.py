"""Many questions about one video, each answered from scratch, as the public evaluation does."""

from collections.abc import Sequence
from typing import Any


def answer_separately(pipe: Any, video: Any, questions: Sequence[str], **generate_kwargs: Any) -> list[str]:
    """The answer to each question: the video is decoded, sampled and encoded anew for every one.

    Args:
        pipe: a "video-question-answering" pipeline.
        video: whatever the pipeline takes as a video.
        questions: one call of the pipeline each.
        generate_kwargs: further arguments of every call.
    """
    return [pipe(video=video, question=question, **generate_kwargs)["generated_text"] for question in questions]
