"""Runs in processes of their own: killed and continued, and spread over two."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .conftest import Values

RUNNER = str(Path(__file__).parent / "run_recipe.py")
PATIENCE_SECONDS = 300


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )


def finish(*arguments: str, **environment: str) -> None:
    process = start(*arguments, **environment)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, output


def curve(folder: Path) -> list[float]:
    """The loss of every step that a finished run logged."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_a_killed_run_goes_on_as_if_nothing_had_been(
    values: Values, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Killed in the second of three epochs, while it saves or just after."""
    recipe = write_recipe(per_device_train_batch_size=2, save_strategy="steps", save_steps=3, save_total_limit=2)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish(RUNNER, str(recipe), "--output_dir", str(undisturbed))
    process = start(RUNNER, str(recipe), "--output_dir", str(killed))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (killed / "checkpoint-6").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "model.safetensors").exists()
    finish(RUNNER, str(recipe), "--output_dir", str(killed))
    assert len(curve(undisturbed)) == 12
    assert curve(killed) == pytest.approx(curve(undisturbed), abs=1e-6)
    check_same_weights(undisturbed, killed)


def launch(recipe: Path, *changes: str, **environment: str) -> None:
    """On two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", str(port)]
    finish("-m", "torch.distributed.run", *options, RUNNER, str(recipe), *changes, **environment)


def test_two_processes_give_the_losses_of_one(write_recipe: Callable[..., Path], course: Path, tmp_path: Path) -> None:
    """Data parallelism and FSDP2, the latter with a feature cache; some batches are text alone, or fail to load."""
    lines = (course / "mixed.jsonl").read_text().splitlines()
    missing = lines[0].replace("room.mp4", "nowhere.mp4")
    source = tmp_path / "some.jsonl"
    source.write_text("\n".join([*lines[:4], missing, *lines[4:], lines[0]]) + "\n")
    recipe = write_recipe(sources=[str(source)], num_train_epochs=2, max_failed_share=0.5)
    one, two, sharded = (tmp_path / name for name in ("one", "two", "sharded"))
    finish(RUNNER, str(recipe), "--output_dir", str(one), "--per_device_train_batch_size", "2")
    launch(recipe, "--output_dir", str(two), "--per_device_train_batch_size", "1")
    cache = ["--feature_cache", str(tmp_path / "cache"), "--save_strategy", "steps", "--save_steps", "4"]
    launch(recipe, "--output_dir", str(sharded), "--per_device_train_batch_size", "1", *cache, SHARD="1")
    assert len(curve(one)) == 8
    assert curve(two) == pytest.approx(curve(one), abs=1e-3)
    assert curve(sharded) == pytest.approx(curve(one), abs=1e-3)
    assert curve(one)[-1] < curve(one)[0] - 1
    assert (sharded / "checkpoint-4" / "pytorch_model_fsdp.bin").exists()  # it was sharded indeed
    check_same_weights(one, two, sharded)


def check_same_weights(first: Path, *others: Path) -> None:
    expected = load_file(first / "model.safetensors")
    for other in others:
        found = load_file(other / "model.safetensors")
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, atol=1e-3, rtol=1e-3)
