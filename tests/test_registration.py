"""What `import spatial_mllm_hf` does and leaves alone, each time in a fresh interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# What a process does with the tiny checkpoint once everything is imported. `first` runs before.
USE_EVERYTHING = """
import json, sys
{first}
import importlib
import spatial_mllm_hf
importlib.import_module("spatial_mllm_hf")
importlib.reload(spatial_mllm_hf)
import transformers
from transformers import pipeline

folder = sys.argv[1]
found = {{
    name: type(getattr(transformers, name).from_pretrained(folder)).__name__
    for name in ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM",
                 "AutoModelForCausalLM", "AutoProcessor", "AutoVideoProcessor")
}}
pipe = pipeline("video-question-answering", model=folder)
found["pipeline"] = type(pipe).__name__
found["vggt"] = type(transformers.AutoConfig.for_model("spatial-mllm-vggt")).__name__
found["answer"] = pipe(question="Where?", max_new_tokens=3)["generated_text"]
found["finders"] = sum(type(finder).__module__.startswith("spatial_mllm_hf") for finder in sys.meta_path)
found["same"] = type(pipe.model) is spatial_mllm_hf.SpatialMLLMForConditionalGeneration
print(json.dumps(found))
"""

LIGHT = """
import json, sys
import spatial_mllm_hf
heavy = [name for name in ("torch", "torchvision", "transformers", "numpy", "PIL", "av") if name in sys.modules]
print(json.dumps({"heavy": heavy, "names": dir(spatial_mllm_hf)}))
"""

# Notes what can be told of Qwen2.5-VL, before our package is imported and after it has been used.
PLAIN_QWEN = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2_5_VLConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

tiny, out = map(Path, sys.argv[1:])
settings = json.loads((tiny / "config.json").read_text())
KEPT = ("text_config", "vision_config", "tie_word_embeddings", "image_token_id", "video_token_id")

def note(name):
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(**{key: settings[key] for key in KEPT})
    model = qwen.Qwen2_5_VLForConditionalGeneration(config).eval()
    tokens = torch.tensor([[5, 6, *[config.video_token_id] * 4, 7]])
    video = torch.linspace(-1, 1, 16 * 1176).view(16, 1176)
    types = (tokens == config.video_token_id).int() * 2
    inputs = dict(input_ids=tokens, pixel_values_videos=video, video_grid_thw=torch.tensor([[1, 4, 4]]),
                  mm_token_type_ids=types)
    with torch.no_grad():
        logits = model(**inputs).logits
        model.save_pretrained(out / name)
        again = AutoModelForImageTextToText.from_pretrained(out / name)
        same_after_loading = torch.equal(again(**inputs).logits, logits)
    mappings = {
        cls: repr([(type(rule).__name__, rule.source_patterns, rule.target_patterns)
                   for rule in get_checkpoint_conversion_mapping(cls) or []])
        for cls in ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLModel")
    }
    return {
        "logits": logits,
        "same_after_loading": same_after_loading,
        "class": type(again).__name__,
        "keys": sorted(load_file(out / name / "model.safetensors")),
        "config": json.loads((out / name / "config.json").read_text()),
        "sub_configs": sorted((key, value.__name__) for key, value in Qwen2_5_VLConfig.sub_configs.items()),
        "auto_config": type(AutoConfig.from_pretrained(out / name)).__name__,
        "mappings": mappings,
        "methods": {name: getattr(qwen.Qwen2_5_VLModel, name).__module__
                    for name in ("forward", "get_video_features", "get_image_features", "get_rope_index")},
        "unexpected": qwen.Qwen2_5_VLPreTrainedModel._keys_to_ignore_on_load_unexpected,
    }

before = note("before")
import spatial_mllm_hf
model = AutoModelForImageTextToText.from_pretrained(tiny)
model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2)
model.save_pretrained(out / "ours")
after = note("after")
report = {name: (torch.equal(before[name], after[name]) if name == "logits" else before[name] == after[name])
          for name in before}
print(json.dumps({"unchanged": report, "after": {key: after[key] for key in after if key != "logits"},
                  "used": type(model).__name__, "finite": bool(torch.isfinite(before["logits"]).all())}))
"""


def run_fresh(code: str, *arguments: Any) -> dict[str, Any]:
    """Runs code in an interpreter of its own; its last line of output is JSON."""
    environment = dict(os.environ)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_import_is_light_and_names_what_is_public() -> None:
    found = run_fresh(LIGHT)
    assert found["heavy"] == []
    promised = {
        "SpatialMLLMConfig",
        "VGGTConfig",
        "SpatialMLLMModel",
        "SpatialMLLMForConditionalGeneration",
        "VGGTModel",
        "SpatialMLLMProcessor",
        "SpatialMLLMVideoProcessor",
        "VideoQuestionAnsweringPipeline",
    }
    assert promised <= set(found["names"])


def test_every_public_name_is_there() -> None:
    import spatial_mllm_hf

    assert dir(spatial_mllm_hf) == sorted(spatial_mllm_hf.__all__)
    for name in set(spatial_mllm_hf.__all__) - {"__version__"}:
        assert getattr(spatial_mllm_hf, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    import spatial_mllm_hf

    with pytest.raises(AttributeError, match="SpatialMLM"):
        _ = spatial_mllm_hf.SpatialMLM


@pytest.mark.parametrize(
    "first",
    [
        "import spatial_mllm_hf",
        "from transformers import AutoModelForImageTextToText, AutoProcessor, AutoVideoProcessor, pipeline",
        "import transformers.modeling_utils",
        "from spatial_mllm_hf.pipelines import pipeline_spatial_mllm",
    ],
    ids=["ours", "auto classes", "modeling_utils", "a submodule of ours"],
)
def test_auto_classes_know_ours_in_any_order_of_imports(tiny_checkpoint: Path, first: str) -> None:
    found = run_fresh(USE_EVERYTHING.format(first=first), tiny_checkpoint)
    assert len(found.pop("answer")) == 3
    assert found == {
        "AutoConfig": "SpatialMLLMConfig",
        "AutoModel": "SpatialMLLMModel",
        "AutoModelForImageTextToText": "SpatialMLLMForConditionalGeneration",
        "AutoModelForMultimodalLM": "SpatialMLLMForConditionalGeneration",
        "AutoModelForCausalLM": "SpatialMLLMForConditionalGeneration",
        "AutoProcessor": "SpatialMLLMProcessor",
        "AutoVideoProcessor": "SpatialMLLMVideoProcessor",
        "pipeline": "VideoQuestionAnsweringPipeline",
        "vggt": "VGGTConfig",
        "finders": 1,
        "same": True,
    }


def test_plain_qwen_in_the_same_process_is_untouched(tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = run_fresh(PLAIN_QWEN, tiny_checkpoint, tmp_path)
    assert found["used"] == "SpatialMLLMForConditionalGeneration"
    assert found["finite"]
    changed = [name for name, unchanged in found["unchanged"].items() if not unchanged]
    assert changed == []
    after = found["after"]
    assert after["same_after_loading"]
    assert after["class"] == "Qwen2_5_VLForConditionalGeneration"
    assert after["auto_config"] == "Qwen2_5_VLConfig"
    assert {name for name, _ in after["sub_configs"]} == {"vision_config", "text_config"}
    assert not any("spatial" in key or "connector" in key for key in after["keys"])
    assert "spatial_config" not in after["config"]
