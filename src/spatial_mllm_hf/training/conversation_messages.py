"""From a conversation to the messages of a chat template, worded as evaluation and the pipeline word them.

There a message holds its media and then the bare question. The LLaVA form puts white space between a tag and the
question (`"<video>\\nHow many?"`), which is dropped, so that a model is asked as it was taught.
"""

import re
from collections.abc import Callable
from typing import Any

from ..data.conversations import IMAGE_TAG, VIDEO_TAG, Conversation

Messages = list[dict[str, Any]]
_TAG = re.compile(f"({re.escape(VIDEO_TAG)}|{re.escape(IMAGE_TAG)})")


def as_messages(
    conversation: Conversation,
    find_video: Callable[[str], Any] = lambda path: path,
    find_image: Callable[[str], Any] = lambda path: path,
) -> Messages:
    """Messages of user and assistant, in turns.

    Args:
        conversation: the sample.
        find_video, find_image: give, for a path of the row, what the processor is to read.
    """
    videos, images = iter(conversation.videos), iter(conversation.images)
    messages: Messages = []
    for speaker, text in conversation.turns:
        if speaker == "gpt":
            messages.append({"role": "assistant", "content": [{"type": "text", "text": text.strip()}]})
            continue
        content: list[dict[str, Any]] = []
        for part in _TAG.split(text):
            if part == VIDEO_TAG:
                content.append({"type": "video", "video": find_video(next(videos))})
            elif part == IMAGE_TAG:
                content.append({"type": "image", "image": find_image(next(images))})
            elif part := (part.lstrip() if content else part):
                content.append({"type": "text", "text": part})
        messages.append({"role": "user", "content": content})
    return messages
