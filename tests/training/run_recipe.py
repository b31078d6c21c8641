"""Runs a recipe of supervised fine-tuning in a process of its own: `python run_recipe.py RECIPE [--key value ...]`.

With SHARD=1 in the environment and several processes, under FSDP2. accelerate turns that on for accelerators alone, so
its state is set here to what it is there; everything after that is its own code.
"""

import json
import os
import sys

from spatial_mllm_hf.training.recipes import load_recipe
from spatial_mllm_hf.training.sft import run_sft
from spatial_mllm_hf.training.sft_recipe import SFTRecipe


def use_fsdp() -> None:
    """Has every Accelerator of this process shard."""
    from accelerate import Accelerator, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state = Accelerator(cpu=True).state
    state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", state_dict_type="FULL_STATE_DICT"
    )


if __name__ == "__main__":
    recipe = load_recipe(sys.argv[1], sys.argv[2:], SFTRecipe)
    if os.environ.get("SHARD"):
        assert recipe.device.type == "cpu"  # starts the group of processes
        use_fsdp()
    metrics = run_sft(recipe)
    if recipe.process_index == 0:
        sys.stdout.write(json.dumps(metrics) + "\n")
