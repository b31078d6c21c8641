"""VGGT's linear layers on a CPU: by oneDNN where that is much faster than what torch calls.

In float32 torch calls MKL, which does without AVX-512 on AMD's CPUs; oneDNN uses it and takes less than half the time
there. On Intel's the two are equal and torch's choice stands. Results differ by the order of summation.
"""

from functools import cache
from pathlib import Path

import torch
from torch import nn

CPU_DESCRIPTION = Path("/proc/cpuinfo")


def apply_linear(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`layer(x)`; the layer may have been replaced by any quantisation or adapter, or carry hooks."""
    if not torch.compiler.is_compiling() and mkl_is_slow() and _is_plain(layer, x):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")
    return layer(x)


def _is_plain(layer: nn.Module, x: torch.Tensor) -> bool:
    """Whether this is torch's layer on float32 numbers on a CPU, without gradients: all that the kernel does."""
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and "forward" not in vars(layer)  # accelerate puts its own there
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and x.device.type == layer.weight.device.type == "cpu"
        and x.dtype == layer.weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def mkl_is_slow() -> bool:
    """Whether this is a CPU on which MKL is slow and oneDNN is there. False where it cannot be told."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    return CPU_DESCRIPTION.exists() and "AuthenticAMD" in CPU_DESCRIPTION.read_text()
