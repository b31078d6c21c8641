"""The command, run in this process."""

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from transformers.utils import logging

from spatial_mllm_hf.cli.main import main


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
