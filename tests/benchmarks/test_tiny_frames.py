"""The measure of what the tiny model says about frames."""

import json
from pathlib import Path

import numpy as np
from tiny_frames import places_of

from spatial_mllm_hf.data.conversations import read_conversations

TWO = "<think>chair -0.5 1.5 and 2.0 -3.0; trash bin 0.0 2.5. chair 210°, trash bin 15°, turn 165°, back</think>"


def test_a_categorys_mean_place(tmp_path: Path) -> None:
    file = tmp_path / "frames.jsonl"
    rows = []
    for number, text in enumerate((TWO, "<think>chair 0.0 0.0</think>")):
        turns = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": text}]
        rows.append({"id": str(number), "image": ["a.png"], "conversations": turns})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(list(read_conversations(file))) == 2
    places = places_of(file)
    np.testing.assert_allclose(places["chair"], [0.5, -0.5])
    np.testing.assert_allclose(places["trash bin"], [0.0, 2.5])
