"""How many bytes of tensors a computation holds at once, counted without computing it.

On the meta device tensors have shapes and no numbers, so a forward of any size takes seconds. `peak_bytes` follows
every tensor's storage from the operator that makes it to its end. Attention counts as its output alone, as in the
kernels that torch chooses on GPUs and CPUs (flash attention), which hold no matrix of all pairs.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(compute: Callable[[], Any], given: Iterable[torch.Tensor] = ()) -> int:
    """Most bytes alive at once while `compute` runs on the meta device; `given` (weights, inputs) do not count."""
    storages = _LiveStorages({tensor.untyped_storage()._cdata for tensor in given})
    with torch.no_grad(), _Pretence(), storages:
        compute()
    return storages.peak


def peak_bytes_of_step(compute: Callable[[], Any], given: Iterable[torch.Tensor]) -> int:
    """The same of a forward and backward under a `FakeTensorMode`, whose tensors autocast knows, and with gradients."""
    with _LiveStorages({tensor.untyped_storage()._cdata for tensor in given}) as storages:
        compute()
    return storages.peak


class _LiveStorages(TorchDispatchMode):
    def __init__(self, ignored: set[int]) -> None:
        super().__init__()
        self.peak = 0
        self._ignored = ignored
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, FakeTensor) or (isinstance(tensor, torch.Tensor) and tensor.is_meta):
                self._add(tensor.untyped_storage())
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        reference = StorageWeakRef(storage)
        known = self._alive.get(reference.cdata)
        if reference.cdata in self._ignored or (known is not None and not known[0].expired()):
            return
        self._alive[reference.cdata] = reference, storage.nbytes()
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))


class _Pretence(TorchFunctionMode):
    """Stands in for what has no numbers to work on: attention gives its output, and a number asked for is 64."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.scaled_dot_product_attention:
            B, H, N, D = args[0].shape
            return args[0].new_empty(B, N, H, D).transpose(1, 2)
        if function in (torch.Tensor.__int__, torch.Tensor.item):
            return 64
        return function(*args, **(kwargs or {}))
