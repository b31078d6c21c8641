"""Labels of a conversation: the answers and the `<|im_end|>` that ends each; all else is masked.

A model is never taught to ask, nor to write the header of its own turn, which generation is given. (The public code
v1.1 also teaches the line break after `<|im_end|>`, which nothing ever reads.)

Shape: L tokens.
"""

from typing import Any

import torch

IGNORED = -100  # of cross entropy
START, END = "<|im_start|>", "<|im_end|>"
ANSWER_HEADER = "assistant\n"  # after START


def answer_labels(input_ids: torch.Tensor, tokenizer: Any, num_answers: int) -> torch.Tensor:
    """Labels `[L]` of one conversation in the chat template's form.

    Args:
        input_ids: `[L]`.
        tokenizer: that made them.
        num_answers: turns of the model, which all have to be found.

    Raises:
        ValueError: if another number of answers is found.
    """
    start, end = tokenizer.convert_tokens_to_ids([START, END])
    header = tokenizer.encode(ANSWER_HEADER, add_special_tokens=False)
    tokens = input_ids.tolist()
    labels = torch.full_like(input_ids, IGNORED)
    found, position = 0, 0
    while position < len(tokens):
        first = position + 1 + len(header)
        if tokens[position] != start or tokens[position + 1 : first] != header:
            position += 1
            continue
        last = next((place for place in range(first, len(tokens)) if tokens[place] == end), None)
        if last is None:
            break
        labels[first : last + 1] = input_ids[first : last + 1]
        found, position = found + 1, last + 1
    if found != num_answers:
        raise ValueError(
            f"{num_answers} answers were expected between {START}assistant and {END}, found {found}: a text that holds "
            "such tokens itself cannot be trained on."
        )
    return labels
