"""The categories that questions may name, and the annotators' labels that stand for each.

Source: VSI-Bench's preparation of ScanNet, which the public VLM-3R generator took over. Nine classes come from
ScanNet's benchmark of 20, which groups labels by NYU40 (every kind of sofa is a "sofa"); the rest are names out of
ScanNet200, which keeps the annotators' words apart. Structure (wall, floor, ceiling) and what cannot be told apart or
counted (cabinet, curtain, shelf, box, otherfurniture) has no category. Labels that mean the same are merged as in the
benchmark's own annotation: its scenes hold no "desk", "trash can", "recycling bin" or "mouse". One further ScanNet200
name of VLM-3R's 27 occurs in none of the benchmark's scenes and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

# NYU40 names -> category. "refridgerator" is how ScanNet's table of labels spells it.
NYU40_CATEGORIES: Mapping[str, str] = {
    "bed": "bed",
    "chair": "chair",
    "sofa": "sofa",
    "table": "table",
    "desk": "table",
    "window": "window",
    "bookshelf": "bookshelf",
    "counter": "counter",
    "refridgerator": "refrigerator",
    "refrigerator": "refrigerator",
}

# ScanNet200 names -> category.
SCANNET200_CATEGORIES: Mapping[str, str] = {
    **{
        name: name
        for name in (
            "door",
            "pillow",
            "monitor",
            "lamp",
            "towel",
            "tv",
            "nightstand",
            "plant",
            "keyboard",
            "backpack",
            "printer",
            "closet",
            "microwave",
            "washing machine",
            "mirror",
            "fan",
            "oven",
            "piano",
            "radiator",
            "telephone",
            "clock",
            "guitar",
            "mattress",
        )
    },
    "trash can": "trash bin",
    "recycling bin": "trash bin",
    "mouse": "computer mouse",
}

SCANNET_CATEGORIES: frozenset[str] = frozenset({*NYU40_CATEGORIES.values(), *SCANNET200_CATEGORIES.values()})


def scannet_category(nyu40_name: str, scannet200_name: str) -> str | None:
    """The category of an object that carries these two labels, or None where questions do not name it.

    ScanNet200's name decides where both have one, being the narrower; the benchmark's one mattress is no bed either.
    """
    return SCANNET200_CATEGORIES.get(scannet200_name) or NYU40_CATEGORIES.get(nyu40_name)
