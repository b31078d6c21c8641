"""The three folders, copied flat into a checkpoint, are remote code: nothing rewritten, this package not installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "spatial_mllm_hf"
MODEL = "modeling_spatial_mllm.SpatialMLLM"
AUTO_MAP = {
    "AutoConfig": "configuration_spatial_mllm.SpatialMLLMConfig",
    "AutoModel": f"{MODEL}Model",
    "AutoModelForImageTextToText": f"{MODEL}ForConditionalGeneration",
    "AutoProcessor": "processing_spatial_mllm.SpatialMLLMProcessor",
}
PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "spatial_mllm_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from transformers import AutoModelForImageTextToText, AutoProcessor

checkpoint, clip = sys.argv[1:]
processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained(checkpoint, trust_remote_code=True)
messages = [{"role": "user", "content": [{"type": "video", "video": clip}, {"type": "text", "text": "How many?"}]}]
options = {"frame_sampling": "space_aware", "num_frames": 4, "return_metadata": True}
for bind in (lambda: processor.bind_geometry(model), processor.load_geometry):
    bind()
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs=dict(options),
    )
    print(inputs.pop("video_metadata")[0].frames_indices)
print(model.generate(**inputs, max_new_tokens=4)[0, -4:].tolist())
assert not any(name.startswith("spatial_mllm_hf") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def remote_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    for part in ("modeling", "processing", "pipelines"):
        for path in (ROOT / part).glob("[!_]*.py"):
            assert not (folder / path.name).exists()
            shutil.copy(path, folder)
    for name in ("config.json", "processor_config.json"):
        settings = json.loads((folder / name).read_text())
        settings["auto_map"] = AUTO_MAP
        if "video_processor" in settings:
            video_processor = "video_processing_spatial_mllm.SpatialMLLMVideoProcessor"
            settings["video_processor"]["auto_map"] = {"AutoVideoProcessor": video_processor}
        (folder / name).write_text(json.dumps(settings))
    return folder


def test_a_flat_copy_answers_without_this_package(remote_checkpoint: Path, room_clip: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", PROGRAM, str(remote_checkpoint), str(room_clip)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    bound, loaded, tokens = (json.loads(line) for line in done.stdout.splitlines()[-3:])
    assert len(bound) == 4
    assert loaded == bound
    assert len(tokens) == 4
