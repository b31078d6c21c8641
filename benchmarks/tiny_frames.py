"""What the tiny model of rooms says about single frames of rooms that it has never seen (docs/tiny-rooms.md).

    spatial-mllm data reasoned tiny/sparse_held_out --frames 2 --questions 1 --out tiny/frames_held_out.jsonl
    python benchmarks/tiny_frames.py tiny/frames_model tiny/frames_held_out.jsonl --train tiny/frames.jsonl

Its answers are generated, greedily, and their maps compared with the true ones: which categories they name, and how far
off the places are, of categories that both maps have once. Beside it stands a model that never looks: each category at
its mean place in the training frames, each letter by lot.
"""

import argparse
import re
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor
from spatial_mllm_hf.data.conversations import Conversation, read_conversations
from spatial_mllm_hf.data.reasoned_answers import read_map
from spatial_mllm_hf.evaluation.answers import extract_answer
from spatial_mllm_hf.training.conversation_messages import as_messages
from spatial_mllm_hf.training.media import MediaSettings
from spatial_mllm_hf.training.recipes import read_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("frames", type=Path, help="conversations; the pictures lie in the folder of that name")
    parser.add_argument("--train", type=Path, required=True, help="those that it was trained on")
    arguments = parser.parse_args()
    mean_places = places_of(arguments.train)
    answer = Answerer(arguments.model, arguments.frames.with_suffix(""))
    named = found = true = 0
    errors: dict[str, list[float]] = defaultdict(list)
    letters: dict[str, list[float]] = defaultdict(list)
    for row in read_conversations(arguments.frames):
        truth, said = row.turns[1][1], answer(row)
        there, claimed = read_map(truth), read_map(said)
        named, true, found = named + len(claimed), true + len(there), found + len(there.keys() & claimed.keys())
        for category in there.keys() & claimed.keys():
            if len(there[category]) == len(claimed[category]) == 1:
                errors["model"].append(float(np.linalg.norm(there[category][0] - claimed[category][0])))
                errors["never looks"].append(float(np.linalg.norm(there[category][0] - mean_places[category])))
        if extract_answer(truth) in "ABCD":
            options = len(re.findall(r"^[A-D]\. ", row.turns[0][1], re.MULTILINE))
            letters["model"].append(float(extract_answer(said) == extract_answer(truth)))
            letters["never looks"].append(1 / options)
    print(f"Categories named: {found / named:.1%} are there, {found / true:.1%} of those there are named ({true}).")
    for name, values in errors.items():
        off = f"median {statistics.median(values):.2f} m, mean {statistics.fmean(values):.2f} m ({len(values)})"
        print(f"Places, {name}: off by {off}.")
    for name, values in letters.items():
        print(f"Multiple choice, {name}: {statistics.fmean(values):.1%} right ({len(values)}).")


class Answerer:
    """Answers the first question of a row about a picture."""

    def __init__(self, model: Path, pictures: Path) -> None:
        recipe = read_recipe("tiny_frames")
        self.options = MediaSettings(
            recipe["num_frames"], recipe["min_pixels"], recipe["max_pixels"]
        ).processor_kwargs()
        self.processor = SpatialMLLMProcessor.from_pretrained(model)
        self.model = SpatialMLLMForConditionalGeneration.from_pretrained(model).eval()
        self.pictures = pictures

    def __call__(self, row: Conversation) -> str:
        inputs = self.processor.apply_chat_template(
            as_messages(row, find_image=lambda path: str(self.pictures / path))[:1],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=self.options,
        )
        with torch.no_grad():
            said = self.model.generate(**inputs)
        text = self.processor.tokenizer.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return str(text)


def places_of(path: Path) -> dict[str, np.ndarray]:
    """The mean place of each category."""
    places: dict[str, list[np.ndarray]] = defaultdict(list)
    for row in read_conversations(path):
        for category, found in read_map(row.turns[1][1]).items():
            places[category] += found
    return {category: np.mean(found, axis=0) for category, found in places.items()}


if __name__ == "__main__":
    main()
