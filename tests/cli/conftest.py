"""The command, run in this process."""

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from transformers.utils import logging

from spatial_mllm_hf import SpatialMLLMVideoProcessor
from spatial_mllm_hf.cli.main import main
from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import Room, camera_path, make_room, write_clip
from spatial_mllm_hf.processing.video_processing_spatial_mllm import SceneSample

PICTURE_EXAMPLE = Path(__file__).parents[2] / "examples" / "sampling_picture.py"
WALK_SIZE, WALK_FPS = (112, 84), 8


class Result(NamedTuple):
    """How a run ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what was wrong; fails unless there is exactly one and it ends the output."""
        lines = self.err.splitlines()
        errors = [line for line in lines if line.startswith("spatial-mllm: error: ")]
        assert errors == lines[-1:], self.err
        assert "Traceback" not in self.err
        return errors[0].removeprefix("spatial-mllm: error: ")


Command = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs the command in this process."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main changes it
    monkeypatch.setenv("COLUMNS", "200")
    verbosity = logging.get_verbosity()

    def call(*arguments: Any) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["spatial-mllm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(int(ended.value.code or 0), *capsys.readouterr())

    yield call
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


class Walk(NamedTuple):
    """A walk through a room and what sampling 4 of its 12 frames saw of it, by the room's exact geometry.

    `from_world` `[4, 4]` takes the sample's world (the first camera) to the room.
    """

    room: Room
    extrinsics: np.ndarray
    sample: SceneSample
    from_world: np.ndarray


@pytest.fixture(scope="session")
def picture_example() -> ModuleType:
    """examples/sampling_picture.py as a module."""
    spec = importlib.util.spec_from_file_location(PICTURE_EXAMPLE.stem, PICTURE_EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def walk(picture_example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Read only."""
    room = make_room(seed=7)
    extrinsics, intrinsics = camera_path(room, 12, WALK_SIZE)
    frames = render(room, extrinsics, intrinsics, WALK_SIZE)
    clip = tmp_path_factory.mktemp("walk") / "walk.mp4"
    write_clip(frames.rgb, clip, WALK_FPS)
    processor = SpatialMLLMVideoProcessor(candidate_size=max(WALK_SIZE))
    processor.bind_geometry(picture_example.RoomGeometry(frames, extrinsics, intrinsics))
    sample = processor.sample_scene(str(clip), num_frames=4)
    from_world = np.linalg.inv(np.concatenate([extrinsics[0], [[0, 0, 0, 1]]]))
    return Walk(room, extrinsics, sample, from_world)
