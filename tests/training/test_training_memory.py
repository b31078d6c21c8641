"""Memory that `benchmarks/training_memory.py` computes from recipes, against that of a real step of the tiny model."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from activation_memory import peak_bytes_of_step
from full_size import full_size_config
from grpo_runs import lower_case, make, prompts, settings
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from training_memory import (
    DOCS,
    IMAGE_TOKEN,
    VIDEO_TOKEN,
    VOCABULARY,
    count_states,
    make_model,
    make_reference,
    optimizer_bytes,
    states_table,
    step_bytes,
)
from transformers import TrainerCallback

from spatial_mllm_hf import SpatialMLLMConfig, SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor
from spatial_mllm_hf.training.grpo import lora_config
from spatial_mllm_hf.training.grpo_recipe import GRPORecipe
from spatial_mllm_hf.training.grpo_trainer import SpatialMLLMGRPOTrainer
from spatial_mllm_hf.training.sft import make_trainer
from spatial_mllm_hf.training.sft_recipe import SFTRecipe

MakeRecipe = Callable[..., SFTRecipe]
ADAPTED = {"lora_rank": 4, "dtype": "bfloat16", "bf16": True}


@pytest.fixture(scope="module")
def config(tiny_checkpoint: Path) -> SpatialMLLMConfig:
    return SpatialMLLMConfig.from_pretrained(tiny_checkpoint)


def memory(tensors: Iterable[torch.Tensor | None]) -> int:
    """Bytes of what these tensors lie in, each once."""
    storages = [tensor.untyped_storage() for tensor in tensors if tensor is not None]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class AfterStep(TrainerCallback):
    """What is there once the optimizer has made a step."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        model, optimizer = given["model"], given["optimizer"]
        self.weights = memory([*model.parameters(), *model.buffers()])
        self.gradients = memory(parameter.grad for parameter in model.parameters())
        moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        self.moments = memory(moments)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float32", "bf16": True},
        {"trained_parts": {"vision_merger": 1e-3, "connector": 1e-3, "language_model": 1e-3}},
        {"trained_parts": {"vggt": 1e-3, "vision_tower": 1e-3}, "dtype": "bfloat16"},
        ADAPTED | {"trained_parts": {"language_model": 1e-3}},
        ADAPTED,
    ],
    ids=["paper", "v1.1", "encoders in bfloat16", "adapters", "adapters and connector"],
)
def test_states_of_a_step_of_fine_tuning(
    make_recipe: MakeRecipe, config: SpatialMLLMConfig, changes: dict[str, Any]
) -> None:
    recipe = make_recipe(max_steps=1, **{"dtype": "float32", **changes})
    trainer, real = make_trainer(recipe), AfterStep()
    trainer.add_callback(real)
    trainer.train()
    states = count_states(make_model(recipe, config))
    assert (states.weights, states.gradients, states.moments) == (real.weights, real.gradients, real.moments)
    assert states.total == real.weights + real.gradients + real.moments
    assert 0 < real.gradients < real.weights


@pytest.mark.parametrize("changes", [{}, ADAPTED], ids=["whole", "adapters"])
def test_states_of_a_step_of_grpo(
    course: Path, tiny_checkpoint: Path, config: SpatialMLLMConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """With the reference, which has no encoders of its own; the policy without adapters needs none."""
    values = {"model": str(tiny_checkpoint), "sources": ["x"], "output_dir": str(tmp_path), "use_cpu": True}
    recipe = GRPORecipe(**values | {"beta": 0.04, "bf16": False} | changes)
    model = SpatialMLLMForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=recipe.dtype)
    trainer = make(
        SpatialMLLMGRPOTrainer,
        model,
        lower_case,
        settings(tmp_path),
        prompts([str(course / "room.mp4"), str(course / "hall.mp4")]),
        SpatialMLLMProcessor.from_pretrained(tiny_checkpoint),
        peft_config=lora_config(recipe),
    )
    real = AfterStep()
    trainer.add_callback(real)
    trainer.train()
    of_policy = [*trainer.model.parameters(), *trainer.model.buffers()]
    of_reference = [] if trainer.ref_model is None else trainer.ref_model.parameters()
    computed = make_model(recipe, config)
    states = count_states(computed, reference=make_reference(recipe, computed, "DDP"))
    assert (states.weights, states.gradients, states.moments) == (real.weights, real.gradients, real.moments)
    assert states.reference == memory([*of_policy, *of_reference]) - memory(of_policy)
    assert (states.reference > 0) == (not changes)


@pytest.mark.parametrize("gpus", [1, 3, 8])
def test_shares_are_those_of_fsdp2(make_recipe: MakeRecipe, config: SpatialMLLMConfig, gpus: int) -> None:
    """The first of so many processes, the others pretended."""
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    model = make_model(make_recipe(dtype="float32"), config)
    states = count_states(model, "FSDP2", gpus)
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    init_process_group("fake", rank=0, world_size=gpus, store=FakeStore())
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (gpus,)))
        shards = [(parameter.to_local(), parameter.requires_grad) for parameter in model.parameters()]
    finally:
        destroy_process_group()
    assert states.weights - buffers == sum(shard.nbytes for shard, _ in shards)
    assert states.gradients == sum(shard.nbytes for shard, is_trained in shards if is_trained)
    assert states.moments == 2 * states.gradients


def test_zero3_splits_weights_of_two_bytes_and_masters_of_four(
    make_recipe: MakeRecipe, config: SpatialMLLMConfig
) -> None:
    """On one GPU nothing is rounded: 2 bytes for each weight, 14 more for each that is trained."""
    model = make_model(make_recipe(dtype="float32"), config)
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert count_states(model, "ZeRO-3", 1).total - buffers == 2 * total + 14 * trained
    spread = count_states(model, "ZeRO-3", 4).total - buffers
    assert (2 * total + 14 * trained) / 4 <= spread < (2 * total + 14 * trained) / 3.5


def test_ddp_keeps_gradients_twice(make_recipe: MakeRecipe, config: SpatialMLLMConfig) -> None:
    model = make_model(make_recipe(dtype="float32"), config)
    alone, several = count_states(model, "DDP", 1), count_states(model, "DDP", 8)
    assert several.total - alone.total == several.buckets == alone.gradients


def test_what_adamw_makes_in_a_step(make_recipe: MakeRecipe, config: SpatialMLLMConfig) -> None:
    """As on an accelerator, where it takes all tensors of a group together."""
    model = make_model(make_recipe(dtype="float32", trained_parts={"language_model": 1e-3}), config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    optimizer = torch.optim.AdamW(trained, foreach=True)
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    given = [*trained, *(parameter.grad for parameter in trained if parameter.grad is not None), *moments]
    assert peak_bytes_of_step(optimizer.step, given) == optimizer_bytes(model, "DDP", 1)


def test_tensors_of_a_step_are_followed_to_their_end() -> None:
    """Two layers under autocast: the peak holds what the backward pass is going to need."""
    width, rows = 64, 32
    with FakeTensorMode():
        layers = nn.Sequential(nn.Linear(width, width, bias=False), nn.ReLU(), nn.Linear(width, width, bias=False))
        for parameter in layers.parameters():
            parameter.grad = torch.empty_like(parameter)
        inputs = torch.empty(rows, width)
        given = [inputs, *layers.parameters(), *(parameter.grad for parameter in layers.parameters())]

        def forward() -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return layers(inputs)

        # In two bytes: both weights, the inputs, and what two layers give; the first one's ends with the second.
        assert peak_bytes_of_step(forward, given) == 2 * (2 * width * width + 3 * rows * width)


def test_checkpointing_is_in_the_estimate(make_recipe: MakeRecipe, config: SpatialMLLMConfig) -> None:
    kept, checkpointed = (make_recipe(dtype="float32", gradient_checkpointing=value) for value in (False, True))
    assert step_bytes(checkpointed, make_model(checkpointed, config)) < step_bytes(kept, make_model(kept, config))


def test_the_docs_have_what_is_counted() -> None:
    assert states_table(full_size_config(VOCABULARY, VIDEO_TOKEN, IMAGE_TOKEN)) in DOCS.read_text()
