"""Labels of ScanNet and the categories of questions."""

import pytest

from spatial_mllm_hf.data.object_classes import SCANNET_CATEGORIES, scannet_category

# Of ScanNet's scenes in VSI-Bench's annotation.
VSIBENCH = {
    *("backpack", "bed", "bookshelf", "chair", "clock", "closet", "computer mouse", "counter", "door", "fan", "guitar"),
    *(
        "keyboard",
        "lamp",
        "mattress",
        "microwave",
        "mirror",
        "monitor",
        "nightstand",
        "oven",
        "piano",
        "pillow",
        "plant",
    ),
    *("printer", "radiator", "refrigerator", "sofa", "table", "telephone", "towel", "trash bin", "tv"),
    *("washing machine", "window"),
}


def test_the_categories_are_those_of_the_benchmark() -> None:
    assert VSIBENCH == SCANNET_CATEGORIES


@pytest.mark.parametrize(
    ("nyu40", "scannet200", "category"),
    [
        ("chair", "office chair", "chair"),
        ("sofa", "couch", "sofa"),
        ("desk", "desk", "table"),
        ("table", "coffee table", "table"),
        ("refridgerator", "refrigerator", "refrigerator"),
        ("otherprop", "trash can", "trash bin"),
        ("otherprop", "recycling bin", "trash bin"),
        ("otherprop", "mouse", "computer mouse"),
        ("television", "tv", "tv"),
        ("bed", "mattress", "mattress"),
        ("wall", "wall", None),
        ("cabinet", "kitchen cabinet", None),
        ("otherfurniture", "stool", None),
        ("otherprop", "desk", None),
    ],
)
def test_labels(nyu40: str, scannet200: str, category: str | None) -> None:
    assert scannet_category(nyu40, scannet200) == category
