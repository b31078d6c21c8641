"""Maps are read as `data reasoned` writes them."""

from pathlib import Path

import pytest

from spatial_mllm_hf.data.reasoned_answers import read_map
from spatial_mllm_hf.data.reasoned_rooms import reasoned_frames
from spatial_mllm_hf.data.synthetic_data_set import write_rooms
from spatial_mllm_hf.data.synthetic_scenes import SceneSettings

TWO = "<think>chair -0.5 1.5 and 2.0 -3.0; trash bin 0.0 2.5. chair 210°, trash bin 15°, turn 165°, back</think>"


def as_lists(answer: str) -> dict[str, list[list[float]]]:
    return {category: [place.tolist() for place in places] for category, places in read_map(answer).items()}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (f"{TWO}\n<answer>A</answer>", {"chair": [[-0.5, 1.5], [2.0, -3.0]], "trash bin": [[0.0, 2.5]]}),
        ("<think>tv 1.0 4.5</think>\n<answer>3</answer>", {"tv": [[1.0, 4.5]]}),
        ("<think></think>\n<answer>3</answer>", {}),
        ("chair 1.0 2.0", {}),  # not in thoughts
        ("<think>chair 1.0; tv; 2.0 3.0; bed 1.0 2.0", {"bed": [[1.0, 2.0]]}),  # cut off, and half of it broken
    ],
)
def test_maps_are_read(answer: str, expected: dict[str, list[list[float]]]) -> None:
    assert as_lists(answer) == expected


def test_every_object_of_a_written_map_is_found(tmp_path: Path) -> None:
    write_rooms(tmp_path / "rooms", 3, SceneSettings(8, (40, 30), compass=True, seen_share=2e-3), geometry=True)
    samples = list(reasoned_frames(tmp_path / "rooms", tmp_path / "frames", 1, 4))
    maps = [
        sample.turns[1][1].removeprefix("<think>").partition("</think>")[0].partition(". ")[0] for sample in samples
    ]
    drawn = [text for text in maps if text]
    assert len(drawn) > 3
    for sample, text in zip(samples, maps):
        found = as_lists(sample.turns[1][1])
        written = "; ".join(
            category + " and".join(f" {x:.1f} {y:.1f}" for x, y in places) for category, places in found.items()
        )
        assert written == text
