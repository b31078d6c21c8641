"""What training at the real size needs of each GPU's memory: tables for recipes under DDP, FSDP2 and ZeRO-3.

    python benchmarks/training_memory.py [--gpus 1 8 16 64] [--docs]

No weights are needed: the model is made on the meta device. Counted exactly are weights, gradients, AdamW's two
moments, DDP's buckets, and GRPO's reference, as the trainers keep them:

- `dtype: float32` with `bf16: true` keeps all weights, gradients and moments in float32; arithmetic is bfloat16 by
  autocast. Under LoRA the rest of the model may be bfloat16; adapters are float32.
- DDP holds all of it on every GPU, and each gradient a second time in the buckets that it sends.
- FSDP2 splits every tensor by rows; this is the first process, which has the larger rest.
- ZeRO-3 splits weights in bfloat16, and of those that are trained weights and moments in float32 and gradients in
  bfloat16, as DeepSpeed's source says. It has not been run here.

Estimated is what else a step needs, for one sample of 16 frames of 644x476 (GRPO: a question's rollouts at their full
length): either forward and backward of what is trained, every tensor of it followed from the operator that makes it to
its end, or the temporary copy of `adamw_torch`, whichever is more. The frozen encoders, which run before, need less.
CUDA itself (about 1 GiB) and what its allocator cannot use are not in it.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from activation_memory import peak_bytes_of_step
from full_size import full_size_config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from transformers.initialization import no_init_weights

from spatial_mllm_hf.modeling.configuration_spatial_mllm import SpatialMLLMConfig
from spatial_mllm_hf.modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration
from spatial_mllm_hf.training.grpo import lora_config
from spatial_mllm_hf.training.grpo_recipe import GRPORecipe
from spatial_mllm_hf.training.grpo_trainer import ENCODERS, TRAINED_PARTS
from spatial_mllm_hf.training.recipes import load_recipe
from spatial_mllm_hf.training.sft import prepare_model
from spatial_mllm_hf.training.sft_recipe import SFTRecipe
from spatial_mllm_hf.training.trained_parts import part_of, select_trained_parts

Layout = Literal["DDP", "FSDP2", "ZeRO-3"]
Recipe = SFTRecipe | GRPORecipe
GIB = 2**30
DOCS = Path(__file__).parents[1] / "docs" / "training.md"
MARKS = "<!-- training memory: {} begins -->", "<!-- training memory: {} ends -->"
VOCABULARY, VIDEO_TOKEN, IMAGE_TOKEN = 151936, 151656, 151655
BF16, FP32 = 2, 4  # bytes

# What is computed: a title, a recipe and what is changed of it.
LORA = ["--lora_rank", "16", "--dtype", "bfloat16"]
RUNS: tuple[tuple[str, str, list[str]], ...] = (
    ("`sft_paper`", "sft_paper", []),
    ("`sft_v1_1_135k`, `sft_v1_1_820k`", "sft_v1_1_135k", []),
    ("the same, `gradient_checkpointing: true`", "sft_v1_1_135k", ["--gradient_checkpointing", "true"]),
    ("`sft_paper`, LoRA", "sft_paper", [*LORA, "--trained_parts", "{language_model: 1e-4}"]),
    ("`grpo_paper`", "grpo_paper", []),
    ("`grpo_paper`, LoRA", "grpo_paper", LORA),
)
PATCHES = (34, 46)  # of a frame of 644x476
TEXT_TOKENS, ANSWER_TOKENS = 172, 10
MAX_LIVE_PARAMETERS = SUB_GROUP = 10**9  # stage3_max_live_parameters, sub_group_size of recipes/accelerate/zero3.json


@dataclass(frozen=True)
class States:
    """Bytes that a process holds from step to step."""

    weights: int
    gradients: int
    moments: int
    buckets: int = 0
    reference: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.buckets + self.reference


def count_states(model: nn.Module, layout: Layout = "DDP", gpus: int = 1, reference: nn.Module | None = None) -> States:
    """What the first of `gpus` processes holds. Weights that a reference shares with the model count once."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    everything = [*model.parameters()]
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    own = {id(parameter) for parameter in everything}
    others = [] if reference is None else [each for each in reference.parameters() if id(each) not in own]
    if layout == "DDP":
        gradients = _bytes(trained)
        buckets = gradients if gpus > 1 else 0
        return States(_bytes(everything) + buffers, gradients, 2 * gradients, buckets, _bytes(others))
    learnt = sum(_share(each, gpus) for each in trained)
    if layout == "FSDP2":  # accelerate has what is trained in float32, whatever it was
        frozen = [each for each in everything if not each.requires_grad]
        weights = FP32 * learnt + sum(_share(each, gpus) * each.element_size() for each in frozen)
        kept = sum(_share(each, gpus) * each.element_size() for each in others)
        return States(weights + buffers, FP32 * learnt, 2 * FP32 * learnt, 0, kept)
    weights = BF16 * sum(_share(each, gpus) for each in everything) + FP32 * learnt
    kept = BF16 * sum(_share(each, gpus) for each in others)
    return States(weights + buffers, BF16 * learnt, 2 * FP32 * learnt, 0, kept)


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _share(parameter: nn.Parameter, gpus: int) -> int:
    """Elements of the first process: rows, rounded up."""
    rows = len(parameter) if parameter.ndim else 1
    return -(-rows // gpus) * (parameter.numel() // max(1, rows))


def make_model(recipe: Recipe, config: SpatialMLLMConfig, dtype: torch.dtype | None = None) -> nn.Module:
    """The model as a recipe trains it, on the meta device."""
    model = _on_meta(config, dtype or (torch.bfloat16 if recipe.dtype == "auto" else getattr(torch, recipe.dtype)))
    with torch.device("meta"):
        if isinstance(recipe, SFTRecipe):
            return prepare_model(model, recipe)
        select_trained_parts(model, TRAINED_PARTS)
        if (lora := lora_config(recipe)) is None:
            return model
        from peft import get_peft_model

        return get_peft_model(model, lora)


def _on_meta(config: SpatialMLLMConfig, dtype: torch.dtype) -> SpatialMLLMForConditionalGeneration:
    with torch.device("meta"), no_init_weights():
        model = SpatialMLLMForConditionalGeneration._from_config(config, dtype=dtype)
    model.tie_weights()
    return model


def make_reference(recipe: Recipe, model: nn.Module, layout: Layout) -> nn.Module | None:
    """What GRPO holds its policy to, where that is a model of its own: under DDP with the policy's encoders."""
    if not isinstance(recipe, GRPORecipe) or recipe.lora_rank is not None or recipe.beta == 0:
        return None
    reference = _on_meta(model.config, model.dtype)
    if layout == "DDP":
        for name in ENCODERS:
            setattr(reference.model, name, getattr(model.model, name))
    return reference.requires_grad_(False)


def step_bytes(recipe: Recipe, model: nn.Module) -> int:
    """Most bytes alive at once in forward and backward of what is trained, weights and gradients aside.

    The model is not of use on the meta device any more after this.
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    model.train()
    if recipe.gradient_checkpointing:
        whole.gradient_checkpointing_enable()
    is_grpo = isinstance(recipe, GRPORecipe)
    rows = recipe.per_device_train_batch_size
    text = TEXT_TOKENS + (recipe.max_completion_length if is_grpo else 0)
    num_visual = recipe.num_frames // 2 * (PATCHES[0] // 2) * (PATCHES[1] // 2)

    def step() -> None:
        hidden = whole.config.text_config.hidden_size
        with torch.autocast("cpu", torch.bfloat16):
            if is_grpo:  # features are made once, before
                visual = torch.empty(rows, num_visual, hidden, dtype=whole.dtype)
            else:
                visual = _visual_features(whole, rows, recipe.num_frames)
            words = whole.get_input_embeddings()(torch.zeros(rows, text, dtype=torch.long))
            embeddings = torch.cat([visual.to(words.dtype), words], dim=1)  # [B, L, hidden]
            states = whole.model.language_model(
                inputs_embeds=embeddings,
                position_ids=torch.zeros(4, rows, embeddings.shape[1], dtype=torch.long),
                attention_mask={"full_attention": None},
                use_cache=False,
            ).last_hidden_state
            logits = whole.lm_head(states[:, -ANSWER_TOKENS:])  # of GRPO in pieces of a few tokens, too
        cross_entropy(logits.float().flatten(0, 1), torch.zeros(rows * ANSWER_TOKENS, dtype=torch.long)).backward()

    with FakeTensorMode():
        _pretend(model)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return peak_bytes_of_step(step, [*model.parameters(), *model.buffers(), *gradients])


def _pretend(model: nn.Module) -> None:
    """Puts tensors of a pretended CPU in place of those on the meta device, which autocast does not know."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in made:
                    made[id(tensor)] = _pretended(tensor)
                if tensor is not None:
                    tensors[name] = made[id(tensor)]


def _pretended(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    if not isinstance(tensor, nn.Parameter):
        return empty
    parameter = nn.Parameter(empty, requires_grad=tensor.requires_grad)
    if tensor.requires_grad:
        parameter.grad = torch.empty_like(empty)
    return parameter


def _visual_features(model: nn.Module, rows: int, num_frames: int) -> torch.Tensor:
    """What connector and merger make of the encoders' outputs."""
    h, w = PATCHES
    vision, spatial = model.config.vision_config, model.config.spatial_config
    fused = model.model.connector(torch.empty(rows, num_frames, h, w, 2 * spatial.embed_dim, dtype=model.dtype))
    patches = torch.empty(rows * num_frames // 2 * h * w, vision.hidden_size, dtype=model.dtype)
    return fused + model.model.visual.merger(patches).unflatten(0, (rows, -1))


def gathered_bytes(model: nn.Module, layout: Layout) -> int:
    """Of weights that a sharded run has whole at once, in bfloat16."""
    total = sum(parameter.numel() for parameter in model.parameters())
    if layout == "DDP":
        return 0
    if layout == "ZeRO-3":
        return BF16 * min(total, MAX_LIVE_PARAMETERS)
    layers = sorted(sum(each.numel() for each in module.parameters()) for module in _layers(model))
    return BF16 * (total - sum(layers) + sum(layers[-2:]))  # what is in no layer stays; one layer runs, one is fetched


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that FSDP2 gathers one by one."""
    for child in module.children():
        if type(child).__name__ in SpatialMLLMForConditionalGeneration._no_split_modules:
            yield child
        else:
            yield from _layers(child)


def optimizer_bytes(model: nn.Module, layout: Layout, gpus: int) -> int:
    """What a step of the optimizer makes beside its states.

    `adamw_torch` makes the roots of all second moments of a group at once, and a part is a group; DeepSpeed makes
    gradients in float32.
    """
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            elements = parameter.numel() if layout == "DDP" else _share(parameter, gpus)
            parts[part_of(name)] = parts.get(part_of(name), 0) + elements
    largest = FP32 * max(parts.values())
    return min(largest, FP32 * SUB_GROUP) if layout == "ZeRO-3" else largest


def load(recipe: str, changes: list[str]) -> Recipe:
    """A recipe that comes along."""
    kind = GRPORecipe if recipe.startswith("grpo") else SFTRecipe
    return load_recipe(recipe, ["--use_cpu", "true", "--media_folder", str(Path(__file__).parent), *changes], kind)


def states_table(config: SpatialMLLMConfig) -> str:
    """What one GPU holds of each run, part by part."""
    lines = [
        "| run | trained | weights | gradients | moments | reference | all |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, name, changes in RUNS:
        recipe = load(name, changes)
        model = make_model(recipe, config)
        states = count_states(model, reference=make_reference(recipe, model, "DDP"))
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        parts = (states.weights, states.gradients, states.moments, states.reference, states.total)
        row = f"| {trained / 1e9:.3f} B | {' | '.join(f'{part / GIB:.1f}' for part in parts)} |"
        if not lines[-1].endswith(row):  # else a run that differs from the last in its steps alone
            lines.append(f"| {title} {row}")
    return "\n".join(lines)


def layouts_table(config: SpatialMLLMConfig, gpus: Iterable[int]) -> str:
    """What each GPU holds, and its highest need with what a step takes, for each run, layout and number of GPUs."""
    gpus = list(gpus)
    lines = [f"| run | | {' | '.join(f'{count} GPU' + 's' * (count > 1) for count in gpus)} |"]
    lines.append("|---|---|" + "---|" * len(gpus))
    for title, name, changes in RUNS:
        recipe = load(name, changes)
        # Sharded weights are bfloat16 where they are computed with, and so is what is computed.
        alone, sharded = (step_bytes(recipe, make_model(recipe, config, dtype)) for dtype in (None, torch.bfloat16))
        for layout in get_args(Layout):
            model = make_model(recipe, config)
            reference = make_reference(recipe, model, layout)
            working = gathered_bytes(model, layout) + (alone if layout == "DDP" else sharded)
            cells = []
            for count in gpus:
                held = count_states(model, layout, count, reference).total
                most = held + max(working, optimizer_bytes(model, layout, count))
                cells.append(f"{held / GIB:.1f} → {most / GIB:.0f}")
            lines.append(f"| {title} | {layout} | {' | '.join(cells)} |")
            title = ""  # once is enough
    return "\n".join(lines)


def put_into_docs(name: str, table: str) -> None:
    """Replaces what stands between a table's marks in docs/training.md."""
    begin, end = (mark.format(name) for mark in MARKS)
    before, marked, rest = DOCS.read_text().partition(begin)
    if not marked or end not in rest:
        sys.exit(f"{DOCS} has no marks {begin} ... {end}")
    DOCS.write_text(f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 16, 64])
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/training.md")
    arguments = parser.parse_args()
    config = full_size_config(VOCABULARY, VIDEO_TOKEN, IMAGE_TOKEN)
    tables = {"states": states_table(config), "layouts": layouts_table(config, arguments.gpus)}
    for name, table in tables.items():
        print(f"{table}\n")
        if arguments.docs:
            put_into_docs(name, table)


if __name__ == "__main__":
    main()
