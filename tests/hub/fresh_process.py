"""Run by tests in a process of its own that cannot import this package: python fresh_process.py CHECKPOINT CLIP OUT.

Loads the checkpoint (folder or repository) in every way that its card promises, answers, saves what it loaded into OUT,
and prints what came out as JSON.
"""

import json
import sys
from typing import Any


class Absent:
    """Makes this package impossible to import."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "spatial_mllm_hf":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Absent())

from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoVideoProcessor,
    pipeline,
)

REMOTE = {"trust_remote_code": True}
SPACE_AWARE = {"frame_sampling": "space_aware", "num_frames": 4, "return_metadata": True}


def main(checkpoint: str, clip: str, out: str) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, **REMOTE)
    processor = AutoProcessor.from_pretrained(checkpoint, **REMOTE)
    loaders = (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoVideoProcessor)
    report: dict[str, Any] = {
        "classes": [type(loader.from_pretrained(checkpoint, **REMOTE)).__name__ for loader in loaders],
        "model": type(model).__name__,
        "processor": type(processor).__name__,
        "version": model.config.to_dict().get("spatial_mllm_hf_version"),
    }
    messages = [{"role": "user", "content": [{"type": "video", "video": clip}, {"type": "text", "text": "How many?"}]}]
    report["chosen"] = []
    for bind in (lambda: processor.bind_geometry(model), processor.load_geometry):
        bind()
        inputs = processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=dict(SPACE_AWARE),
        )
        report["chosen"].append(inputs.pop("video_metadata")[0].frames_indices)
    tokens = model.generate(**inputs, max_new_tokens=4)[:, inputs["input_ids"].shape[1] :]
    report["answer"] = processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    report["pipelines"] = []
    for task in ((), ("video-question-answering",)):
        pipe = pipeline(*task, model=checkpoint, **REMOTE)
        answer = pipe(video=clip, question="How many?", num_frames=4, max_new_tokens=4, return_frames=True)
        frames = [frame["index"] for frame in answer["frames"][0]]
        report["pipelines"].append([type(pipe).__name__, answer["generated_text"], frames])
    model.save_pretrained(f"{out}/parts")
    processor.save_pretrained(f"{out}/parts")
    pipe.save_pretrained(f"{out}/pipeline")
    assert not any(name.startswith("spatial_mllm_hf") for name in sys.modules)
    sys.stdout.write("\n" + json.dumps(report) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
