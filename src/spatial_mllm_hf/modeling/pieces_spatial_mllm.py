"""Work on large tensors piece by piece, so that what is made on the way stays small."""

from collections.abc import Callable

import torch

Tensors = tuple[torch.Tensor, ...]


def in_pieces(function: Callable[..., Tensors], inputs: Tensors, size: int, dim: int) -> Tensors:
    """`function` of tensors that have one length along `dim`, taken `size` at a time; its results joined along `dim`.

    For use without gradients: results are written into place, so that they exist once.
    """
    total = inputs[0].shape[dim]
    outputs: Tensors = ()
    for start in range(0, total, size):
        length = min(size, total - start)
        pieces = function(*(tensor.narrow(dim, start, length) for tensor in inputs))
        if length == total:
            return pieces
        if not outputs:
            outputs = tuple(piece.new_empty(*piece.shape[:dim], total, *piece.shape[dim + 1 :]) for piece in pieces)
        for output, piece in zip(outputs, pieces):
            output.narrow(dim, start, length).copy_(piece)
    return outputs
