"""A full-size Spatial-MLLM (random weights, bfloat16) answers a question: time and memory of each part.

    python benchmarks/full_size.py [--frames 4] [--size 640x480] [--new-tokens 8] [--device cpu]

Weights are made in memory, so nothing is downloaded; the words that come out mean nothing. Prints a markdown table.
Memory is the process's resident memory (on an accelerator: what torch has allocated there), sampled every 20 ms:
"above weights" is the highest value while a part ran, less the value once the model was made.
"""

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import BatchFeature, logging
from transformers import __version__ as version

from spatial_mllm_hf.data.synthetic_rendering import render
from spatial_mllm_hf.data.synthetic_rooms import camera_path, make_room
from spatial_mllm_hf.hub.tiny_checkpoint import tiny_processor
from spatial_mllm_hf.modeling.configuration_spatial_mllm import SpatialMLLMConfig
from spatial_mllm_hf.modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration
from spatial_mllm_hf.processing.processing_spatial_mllm import SpatialMLLMProcessor
from spatial_mllm_hf.processing.video_processing_spatial_mllm import SpatialMLLMVideoProcessor

PAGE = 4096
PARTS = ("geometry for sampling", "processor", "vision tower", "VGGT", "connector")
GIB = 2**30


def full_size_config(tokenizer_size: int, video_token_id: int, image_token_id: int) -> SpatialMLLMConfig:
    """Qwen2.5-VL-3B with VGGT-1B and the v1.1 connector; the tiny tokenizer's ids for the placeholders."""
    return SpatialMLLMConfig(
        text_config={
            "vocab_size": max(151936, tokenizer_size),
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={"depth": 32, "hidden_size": 1280, "out_hidden_size": 2048, "tokens_per_second": 2},
        image_token_id=image_token_id,
        video_token_id=video_token_id,
        tie_word_embeddings=True,
    )


def make_model(config: SpatialMLLMConfig, device: torch.device) -> SpatialMLLMForConditionalGeneration:
    """The model with uniform random weights; drawing them normally would take minutes."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = SpatialMLLMForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                parameter.uniform_(-0.02, 0.02, generator=generator)
    return model.to(device).eval()


class Meter:
    """Times and highest memory of named parts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = {}
        self.peaks: dict[str, int] = {}
        self.base = 0
        self._running: list[str] = []
        self._stop = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def memory(self) -> int:
        """Bytes in use now."""
        if self.device.type == "cpu":
            return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
        return torch.accelerator.max_memory_allocated(self.device)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measures what runs inside."""
        self.synchronize()
        self._running.append(name)
        started = time.perf_counter()
        yield
        self.synchronize()
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)
        self._note()
        self._running.remove(name)

    def watch(self, module: torch.nn.Module, method: str, name: str) -> None:
        """Measures a method of a module under a name."""
        inner = getattr(module, method)

        def measured(*args: object, **kwargs: object) -> object:
            with self.part(name):
                return inner(*args, **kwargs)

        setattr(module, method, measured)

    def synchronize(self) -> None:
        """Waits for the accelerator."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def _note(self) -> None:
        now = self.memory()
        for name in self._running:
            self.peaks[name] = max(self.peaks.get(name, 0), now)

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self._note()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--size", default="640x480", help="of the clip, WIDTHxHEIGHT")
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    device = torch.device(arguments.device)
    width, height = (int(side) for side in arguments.size.split("x"))
    meter = Meter(device)

    tiny = tiny_processor()
    processor = SpatialMLLMProcessor(
        tiny.image_processor, tiny.tokenizer, SpatialMLLMVideoProcessor(), chat_template=tiny.chat_template
    )
    with meter.part("make weights"):
        model = make_model(full_size_config(len(tiny.tokenizer), tiny.video_token_id, tiny.image_token_id), device)
    meter.base = meter.memory()
    meter.watch(model.model.visual, "forward", "vision tower")
    meter.watch(model.model.spatial_encoder, "encode", "VGGT")
    meter.watch(model.model.connector, "forward", "connector")
    meter.watch(model.model.language_model, "forward", "language model")

    room = make_room(seed=7)
    clip = render(room, *camera_path(room, 2 * arguments.frames, (width, height)), (width, height)).rgb
    with meter.part("geometry for sampling"):
        processor.bind_geometry(model)
        frames, metadata = processor.video_processor.choose_frames(
            clip, frame_sampling="space_aware", num_frames=arguments.frames
        )
    messages = [{"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": "How big?"}]}]
    with meter.part("processor"):
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(device)
    with torch.no_grad(), meter.part("answer, whole"):
        count = arguments.new_tokens
        model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False)
    report(model, meter, arguments.frames, metadata.total_num_frames, inputs)


def report(
    model: SpatialMLLMForConditionalGeneration, meter: Meter, frames: int, candidates: int, inputs: BatchFeature
) -> None:
    """Prints what was measured as a markdown table."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    print(f"{parameters / 1e9:.2f} B parameters, weights {weights / GIB:.2f} GiB, of which:")
    for name, part in model.model.named_children():
        print(f"  {name}: {sum(parameter.numel() for parameter in part.parameters()) / 1e9:.2f} B")
    print(f"{meter.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, transformers {version}")
    print(f"{frames} of {candidates} frames, grid {inputs['video_grid_thw'].tolist()[0]}, ", end="")
    print(f"{inputs['input_ids'].shape[1]} prompt tokens\n")
    prefill, *decoded = meter.seconds["language model"]
    rows = [(name, sum(meter.seconds[name]), meter.peaks[name]) for name in PARTS]
    rows.append(("language model, prompt", prefill, meter.peaks["language model"]))
    print("| part | seconds | peak memory above weights (GiB) |\n|---|---|---|")
    for name, seconds, peak in rows:
        print(f"| {name} | {seconds:.1f} | {(peak - meter.base) / GIB:.2f} |")
    print(f"| language model, each new token | {sum(decoded) / len(decoded):.2f} | |")
    print(
        f"| answer of {len(decoded) + 1} tokens, frames chosen | {sum(meter.seconds['answer, whole']):.1f} | ", end=""
    )
    print(f"{(meter.peaks['answer, whole'] - meter.base) / GIB:.2f} |")
    print(f"\nhighest memory in all: {max(meter.peaks.values()) / GIB:.2f} GiB")


if __name__ == "__main__":
    main()
