"""Which tokens are learnt."""

import pytest
import torch

from spatial_mllm_hf.hub.tiny_checkpoint import tiny_processor
from spatial_mllm_hf.training.label_masks import IGNORED, answer_labels

TOKENIZER = tiny_processor().tokenizer  # a token for each byte and each special token


def labels_of(text: str, num_answers: int) -> tuple[list[int], torch.Tensor]:
    ids = torch.tensor(TOKENIZER(text, add_special_tokens=False)["input_ids"])
    return ids.tolist(), answer_labels(ids, TOKENIZER, num_answers)


def test_answers_and_their_ends_are_learnt_token_by_token() -> None:
    pieces = [  # text, and whether it is learnt
        ("<|im_start|>system\nBe brief.<|im_end|>\n", False),
        ("<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>assistant\nHow many?<|im_end|>\n", False),
        ("<|im_start|>assistant\n", False),
        ("<answer>4</answer><|im_end|>", True),
        ("\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n", False),
        ("Yes,\nassistant\n4.<|im_end|>", True),
        ("\n", False),
    ]
    ids, labels = labels_of("".join(text for text, _ in pieces), 2)
    expected: list[int] = []
    for text, is_learnt in pieces:
        tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
        expected += tokens if is_learnt else [IGNORED] * len(tokens)
    assert len(expected) == len(ids)
    assert labels.tolist() == expected
    learnt = TOKENIZER.decode(labels[labels != IGNORED])
    assert learnt == "<answer>4</answer><|im_end|>Yes,\nassistant\n4.<|im_end|>"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<|im_start|>user\nHi<|im_end|>\n", 0),
        ("<|im_start|>assistant\nnever ends", 0),
        ("<|im_start|>user\nSay <|im_start|>assistant\nyes<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n", 2),
    ],
)
def test_other_numbers_of_answers_are_an_error(text: str, found: int) -> None:
    with pytest.raises(ValueError, match=f"1 answers were expected .*, found {found}"):
        labels_of(text, 1)
