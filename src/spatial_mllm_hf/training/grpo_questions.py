"""Questions for GRPO out of conversations: a prompt, and what its rewards have to know.

A row of training is `{"prompt", "question_id", "question_type", "ground_truth", "answers"}`; the prompt is messages
that hold the video, and the other columns reach the rewards by these names. All that a run would stumble over in days
is looked at before it: kinds of questions, right answers, prompts that ask for thoughts, and each video.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.answers import extract_answer
from ..processing.video_decoding_spatial_mllm import index_video
from .conversation_messages import as_messages
from .media import locate_image, locate_video
from .rewards import THOUGHT, check_rewardable
from .samples import ConversationDataset, TrainingSample

MOST_NAMED = 5  # videos, in an error


def grpo_rows(samples: ConversationDataset | Sequence[TrainingSample], media_folder: Path) -> list[dict[str, Any]]:
    """The rows of training, in the order of the samples.

    Raises:
        ValueError: at a sample that cannot be rewarded, is more than one question, or does not ask for thoughts; and
            if videos are missing or cannot be read.
    """
    rows = [_row(samples[index], media_folder) for index in range(len(samples))]
    _check_videos(part["video"] for row in rows for part in row["prompt"][-1]["content"] if part["type"] == "video")
    return rows


def _row(sample: TrainingSample, media_folder: Path) -> dict[str, Any]:
    conversation = sample.conversation
    if len(conversation.turns) != 2:
        raise ValueError(f"{sample.label}: GRPO takes one question a row, got {len(conversation.turns) // 2}.")
    (_, question), (_, answer) = conversation.turns
    if THOUGHT not in question:
        raise ValueError(
            f"{sample.label}: the prompt asks for the answer alone, without {THOUGHT}. Write the data with the prompts "
            "of GRPO: --style grpo of `spatial-mllm data`."
        )
    metadata = conversation.metadata
    kind = str(metadata.get("question_type", ""))
    truth = str(metadata.get("ground_truth", extract_answer(answer)))
    check_rewardable(kind, truth, sample.label)
    try:
        messages = as_messages(
            conversation,
            lambda path: locate_video(media_folder, path),
            lambda path: locate_image(media_folder, path),
        )
    except FileNotFoundError as error:
        raise ValueError(f"{sample.label}: {error}.") from error
    return {
        "prompt": messages[:1],
        "question_id": sample.label,
        "question_type": kind,
        "ground_truth": truth,
        "answers": _answers(metadata.get("answers")),
    }


def _answers(answers: Any) -> list[str] | None:
    is_list = isinstance(answers, Sequence) and not isinstance(answers, str)
    return [str(answer) for answer in answers] if is_list and answers else None


def _check_videos(paths: Iterable[str]) -> None:
    problems = []
    for path in dict.fromkeys(paths):
        if path.startswith(("http://", "https://")):
            continue
        try:
            index_video(path)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        more = f" and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        raise ValueError(f"Videos cannot be read: {' '.join(problems[:MOST_NAMED])}{more}")
