"""Positions in time, height and width."""

import pytest
import torch

from spatial_mllm_hf.modeling.position_ids_spatial_mllm import IMAGE, TEXT, VIDEO, sequence_positions


def positions(types: list[int], images: list = (), videos: list = (), strides: list = ()) -> torch.Tensor:
    return sequence_positions(types, iter(images), iter(videos), iter(strides), merge_size=2)


def test_text_counts_up_in_all_three() -> None:
    assert positions([TEXT] * 3).tolist() == [[0, 1, 2]] * 3


def test_text_after_a_long_video_starts_after_its_last_time_step() -> None:
    time, height, width = positions([TEXT, *[VIDEO] * 3, TEXT], videos=[(3, 2, 2)], strides=[2.0]).tolist()
    assert time == [0, 1, 3, 5, 6]
    assert height == width == [0, 1, 1, 1, 6]


def test_text_after_a_wide_image_starts_after_its_last_column() -> None:
    time, height, width = positions([*[IMAGE] * 6, TEXT], images=[(1, 4, 6)]).tolist()
    assert time == [0] * 6 + [3]
    assert height == [0, 0, 0, 1, 1, 1, 3]
    assert width == [0, 1, 2, 0, 1, 2, 3]


def test_fractional_strides_are_cut_to_whole_positions() -> None:
    time = positions([VIDEO] * 4, videos=[(4, 2, 2)], strides=[0.75])[0].tolist()
    assert time == [0, 0, 1, 2]


def test_pictures_side_by_side_are_told_apart() -> None:
    time, height, _ = positions([IMAGE] * 2, images=[(1, 2, 2), (1, 2, 2)]).tolist()
    assert time == [0, 1]
    assert height == [0, 1]


@pytest.mark.parametrize(
    ("types", "grids", "message"),
    [
        ([VIDEO] * 4, [], "video placeholders for which no video was given"),
        ([VIDEO] * 3, [(1, 4, 4)], "has 3 video placeholder tokens in a row where the video given needs 4"),
        ([VIDEO] * 2 + [TEXT] * 2, [(1, 4, 4)], "has 2 video placeholder tokens"),
    ],
)
def test_placeholders_that_do_not_fit_are_refused(types: list[int], grids: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        positions(types, videos=grids)
