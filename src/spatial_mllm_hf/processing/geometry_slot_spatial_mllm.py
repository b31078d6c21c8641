"""Where a processor keeps the model that gives it geometry: beside its settings, never saved and never copied."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from transformers import AutoConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.modeling_auto import MODEL_MAPPING

MODEL_TYPE, REMOTE_CLASS = "spatial-mllm-vggt", "modeling_vggt.VGGTModel"


class GeometryModel(Protocol):
    """Anything that can tell where the pixels of a scene lie, such as VGGTModel or a whole Spatial-MLLM."""

    def predict_geometry(self, frames: Any, **options: Any) -> Any:
        """Frames `[S, 3, H, W]` in [0, 1] → an object with `points` `[S, H, W, 3]` and `confidence` `[S, H, W]`."""


class GeometrySlot:
    """Holds a geometry model and the name of the checkpoint to load one from.

    A copy or a pickle of the slot is empty but for that name: processors are copied and sent to workers freely, and
    a model of gigabytes must not travel with them.
    """

    def __init__(self, checkpoint: str | None = None, hub_options: dict[str, Any] | None = None) -> None:
        self.model: GeometryModel | None = None
        self.checkpoint = checkpoint
        self.hub_options = hub_options or {}

    def __deepcopy__(self, memo: dict) -> "GeometrySlot":
        return GeometrySlot(self.checkpoint, dict(self.hub_options))

    def __reduce__(self) -> tuple:
        return GeometrySlot, (self.checkpoint, self.hub_options)

    def bind(self, model: GeometryModel | None) -> None:
        """Takes a model, or lets go of it with None.

        Raises:
            ValueError: if it has no `predict_geometry`.
        """
        if model is not None and not callable(getattr(model, "predict_geometry", None)):
            raise ValueError(
                f"bind_geometry needs an object with predict_geometry(frames), got {type(model).__name__}."
            )
        self.model = model

    def require(self) -> GeometryModel:
        """The model.

        Raises:
            ValueError: if there is none, with the ways out.
        """
        if self.model is None:
            raise ValueError(
                'frame_sampling="space_aware" needs geometry, and this processor has none. Either '
                "processor.bind_geometry(model) with a loaded Spatial-MLLM or VGGT, or "
                "processor.load_geometry(device=..., dtype=...) to read VGGT's weights out of the checkpoint, or "
                'frame_sampling="uniform".'
            )
        return self.model

    def predict(self, chunks: Iterable[torch.Tensor], **options: Any) -> Any:
        """Geometry of one scene whose frames come in chunks `[s, 3, H, W]`, in order.

        A `predict_geometry` that says `takes_chunks` gets them as they come; any other all together.
        """
        predict = self.require().predict_geometry
        return predict(chunks if getattr(predict, "takes_chunks", False) else torch.cat(list(chunks)), **options)

    def load(self, device: Any = None, dtype: Any = None) -> GeometryModel:
        """Reads VGGT out of the checkpoint that the processor came from, and keeps it.

        Raises:
            ValueError: if the processor was not made by `from_pretrained`, or the device is not there.
        """
        if self.checkpoint is None:
            raise ValueError(
                "load_geometry needs to know the checkpoint: make the processor with from_pretrained, "
                "or load a VGGTModel yourself and pass it to bind_geometry."
            )
        _check_device(device)
        model = self._vggt_class().from_pretrained(self.checkpoint, dtype=dtype or "auto", **self.hub_options)
        if device is not None:
            model = model.to(device)
        self.bind(model.eval())
        return model

    def _vggt_class(self) -> Any:
        """VGGTModel, by way of transformers: the files of this folder know only their siblings."""
        if __name__.startswith("transformers_modules."):  # remote code: its model lies in the same repository
            return get_class_from_dynamic_module(REMOTE_CLASS, self.checkpoint, **self.hub_options)
        return MODEL_MAPPING[type(AutoConfig.for_model(MODEL_TYPE))]


def _check_device(device: Any) -> None:
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises for unknown and for absent devices
        raise ValueError(f"device={device!r} is not there: {str(error).splitlines()[0]}") from error
