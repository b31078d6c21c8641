"""Fixtures that all tests share. Nothing here or below reaches a network."""

import os
from pathlib import Path

# Before anything imports the Hub's client, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models gain nothing from threads, and test processes that share cores lose much.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

import spatial_mllm_hf  # noqa: F401 - registers with the Auto classes

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def reference() -> Path:
    """Numbers of the public code on tiny checkpoints in the public formats; see `tests/reference/README.md`."""
    return REFERENCE


@pytest.fixture(scope="session")
def media() -> Path:
    """A folder of real clips, named by SPATIAL_MLLM_MEDIA."""
    folder = os.environ.get("SPATIAL_MLLM_MEDIA")
    if not folder:
        pytest.skip("SPATIAL_MLLM_MEDIA does not name a folder of real clips")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete tiny checkpoint as `spatial-mllm make-tiny` writes it. Read only."""
    from spatial_mllm_hf.hub.tiny_checkpoint import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def room_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short mp4 walk through a synthetic room: 24 frames of 160x120, 8 a second."""
    from spatial_mllm_hf.data.synthetic_rendering import render
    from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room, write_clip

    room = make_room(seed=7)
    extrinsics, intrinsics = camera_path(room, num_frames=24, size=(160, 120))
    path = tmp_path_factory.mktemp("clips") / "room.mp4"
    write_clip(render(room, extrinsics, intrinsics, size=(160, 120)).rgb, path, fps=8)
    return path
