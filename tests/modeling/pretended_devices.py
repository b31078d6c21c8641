"""Accelerators that the machine does not have: tensors that say where they are and compute on the CPU.

Inside `PretendedDevices()`, `tensor.to("ipu:1")` gives a tensor whose `device` is ipu:1. Results stand where their
inputs stand, and inputs that stand apart are an error, as on real devices. A device map can so be run with values.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

KIND = "ipu"  # a device type that no build of torch drives
CPU = torch.device("cpu")
GET_DEVICE = torch.Tensor.device.__get__
INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)  # take indices from the CPU


class Placed(torch.Tensor):
    """A shell around values on the CPU that stands elsewhere."""

    @staticmethod
    def __new__(cls, values: torch.Tensor, place: torch.device | None = None, requires_grad: bool = False) -> Any:
        if isinstance(values, Placed):
            values, place = values.values, values.place
        if place is None:  # accelerate makes a parameter again in the type that it had, be it moved back
            return torch.nn.Parameter(values, requires_grad)
        shell = torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype, device=place)
        shell.values, shell.place = values, place
        return shell

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} is used outside of PretendedDevices")


class PretendedDevices(TorchFunctionMode):
    """Runs torch's functions on the values and keeps account of the places."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function == GET_DEVICE:
            return place_of(args[0])
        args, kwargs, target = take_target(function, args, dict(kwargs or {}))
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        place = target or common_place(function, inputs)
        result = function(*tree_map(values_of, args), **tree_map(values_of, kwargs))
        known = {id(values_of(tensor)): tensor for tensor in inputs if place_of(tensor) == place}

        def placed(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or place.type != KIND:
                return value
            return known.get(id(value)) if id(value) in known else Placed(value, place)

        return tree_map(placed, result)


def place_of(tensor: torch.Tensor) -> torch.device:
    return tensor.place if isinstance(tensor, Placed) else GET_DEVICE(tensor)


def values_of(value: Any) -> Any:
    return value.values if isinstance(value, Placed) else value


def common_place(function: Any, inputs: list[torch.Tensor]) -> torch.device:
    compared = inputs[:1] if function in INDEXING else [t for t in inputs if t.dim() or isinstance(t, Placed)]
    places = {place_of(tensor) for tensor in compared}
    if len(places) > 1:
        raise RuntimeError(f"Expected all tensors on one device, but {function} got {sorted(map(str, places))}")
    return next(iter(places), CPU)


def take_target(function: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict, torch.device | None]:
    """Takes a pretended device out of the arguments of a move or a factory; a real one is left in."""
    if function is torch.Tensor.to:
        tensor, *options = args
        args = (tensor,)
        kwargs.setdefault("device", place_of(tensor))
        for option in options:
            if isinstance(option, torch.Tensor):
                kwargs |= {"device": place_of(option), "dtype": option.dtype}
            elif not isinstance(option, bool):
                kwargs["dtype" if isinstance(option, torch.dtype) else "device"] = option
    if kwargs.get("device") is None:
        return args, kwargs, None
    target = torch.device(kwargs["device"])
    if target.type == KIND:
        kwargs["device"] = CPU
    return args, kwargs, target
