"""The text of training is the text of evaluation."""

import pytest

from spatial_mllm_hf.data.conversations import Conversation
from spatial_mllm_hf.data.spatial_questions import SpatialQuestion
from spatial_mllm_hf.data.training_prompts import as_conversation
from spatial_mllm_hf.evaluation.vsibench import to_item
from spatial_mllm_hf.hub.tiny_checkpoint import tiny_processor
from spatial_mllm_hf.pipelines.pipeline_inputs_spatial_mllm import as_messages as messages_of_pipeline
from spatial_mllm_hf.training.conversation_messages import as_messages

QUESTIONS = (
    SpatialQuestion("1", "rooms", "a", "object_counting", "How many chair(s) are in this room?", None, "3"),
    SpatialQuestion("2", "rooms", "a", "object_rel_distance", "Which is closest?", ("A. bed", "B. sofa"), "B"),
)


def render(messages: list, **options: bool) -> str:
    return tiny_processor().apply_chat_template(messages, tokenize=False, **options)


@pytest.mark.parametrize("question", QUESTIONS, ids=["number", "choice"])
@pytest.mark.parametrize("style", ["sft", "grpo"])
def test_training_asks_what_evaluation_asks(question: SpatialQuestion, style: str) -> None:
    taught = as_messages(as_conversation(question, style))  # type: ignore[arg-type]
    asked = messages_of_pipeline({"video": question.video_path, "question": to_item(question, style).prompt})
    prompt = render(asked, add_generation_prompt=True)
    assert render(taught[:1], add_generation_prompt=True) == prompt
    assert render(taught) == f"{prompt}<answer>{question.ground_truth}</answer><|im_end|>\n"


def test_media_stand_where_their_tags_stand() -> None:
    turns = (
        ("human", "<image>\n <video> \nWhich? <image> or not"),
        ("gpt", " B\n"),
        ("human", " And now? "),
        ("gpt", "A"),
    )
    conversation = Conversation("a", ("v.mp4",), ("1.png", "2.png"), turns)
    messages = as_messages(conversation, lambda path: f"folder/{path}", lambda path: f"pictures/{path}")
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[0]["content"] == [
        {"type": "image", "image": "pictures/1.png"},
        {"type": "video", "video": "folder/v.mp4"},
        {"type": "text", "text": "Which? "},
        {"type": "image", "image": "pictures/2.png"},
        {"type": "text", "text": "or not"},
    ]
    assert [message["content"] for message in messages[1:]] == [
        [{"type": "text", "text": "B"}],
        [{"type": "text", "text": " And now? "}],
        [{"type": "text", "text": "A"}],
    ]
