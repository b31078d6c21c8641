"""Training of a VGGT from nothing on exact depth, points and cameras of synthetic rooms, by transformers' `Trainer`.

Data are folders that `spatial-mllm data rooms --geometry` writes. A sample is a few frames of a walk in the order of
time, drawn anew each epoch; the first of them sets the world. Losses and errors: `geometry_losses.py`.

Choices: each batch shows a number of frames that is drawn for it, as in section 3.4 of VGGT's paper (2 to 24 there), so
that the model knows few views as well as many. New weights are drawn as torch draws those of its layers, which the
public code leaves as they are too: with the few channels of a small model, a fixed deviation of 0.02 lets signals die
out on their way through the dense heads. A new camera head begins with cameras that all stand where the first one does;
fields of view go through a ReLU, and random weights leave it below 0 as often as not, where no gradient passes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, get_last_checkpoint

from ..data.synthetic_data_set import GEOMETRY, VIDEOS
from ..modeling.configuration_spatial_mllm import VGGTConfig
from ..modeling.modeling_vggt import VGGTModel
from ..modeling.vggt_camera_head import NUM_REFINEMENTS
from ..processing.frame_sampling_spatial_mllm import uniform_indices
from ..processing.video_decoding_spatial_mllm import decode_frames
from .geometry_losses import constant_output, geometry_errors, geometry_losses, scene_targets

START_FIELD_OF_VIEW = 1.0  # radians, of a camera head that has learnt nothing
START_MOTION = 0.02  # factor on its last weights
Clip = dict[str, torch.Tensor]


@dataclass
class GeometryRecipe(TrainingArguments):
    """A run of training on geometry. All fields of `TrainingArguments` are settings too.

    Args:
        rooms: folder of rooms to learn from, with geometry.
        held_out: folder of rooms to measure on.
        num_frames: fewest and most of a sample; measured on the most.
        keep_first: every sample begins with its walk's first frame, whichever stretch the others are from. For rooms
            made with `compass`, whose walks start alike: what a camera looks at then tells how it is turned against the
            first. From two headings that are both unknown no small VGGT learnt the turn between them.
        unit: metres that are 1, for all scenes; by default each scene has its own, as in the paper.
        camera_weight, depth_weight, points_weight: of the losses. The camera's is the public code's; the paper weighs
            all alike.
        vggt: fields of `VGGTConfig`; the losses are those of its `heads`.

    Raises:
        ValueError: for folders that are not named, or numbers that no run can have.
    """

    rooms: str = ""
    held_out: str = ""
    num_frames: list[int] = field(default_factory=lambda: [2, 8])
    keep_first: bool = False
    unit: float | None = None
    camera_weight: float = 5.0
    depth_weight: float = 1.0
    points_weight: float = 1.0
    vggt: dict[str, Any] = field(default_factory=dict)
    remove_unused_columns: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rooms", "held_out"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name it in the recipe or as --{name} on the command line.")
        if len(self.num_frames) != 2 or not 1 <= self.num_frames[0] <= self.num_frames[1]:
            raise ValueError(
                f"num_frames must be [fewest, most] with 1 <= fewest <= most, got {list(self.num_frames)}."
            )
        if self.unit is not None and self.unit <= 0:
            raise ValueError(f"unit must be above 0 metres, got {self.unit}; null gives each scene its own.")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns=True would take depth and cameras out of samples; leave it False.")
        weights = {name: getattr(self, f"{name}_weight") for name in ("camera", "depth", "points")}
        if min(weights.values()) < 0:
            raise ValueError(f"weights of losses must be at least 0, got {weights}.")


class RoomClips(Dataset[Clip]):
    """Frames of rooms with their depth and cameras, a room each; `set_epoch` says which stretches are drawn.

    A sample holds `frames` float32 `[S, 3, H, W]` in [0, 1], `depth` `[S, H, W]` in metres, `extrinsics` `[S, 3, 4]`
    (camera from the room) and `intrinsics` `[S, 3, 3]`.

    Args:
        folder: of rooms.
        num_frames: S, at even steps in time.
        seed: of the stretch of the walk that they are taken from; without one it is the whole.
        keep_first: the first of them is that of the walk.

    Raises:
        ValueError: for a folder without rooms that have geometry.
    """

    def __init__(self, folder: Path, num_frames: int, seed: int | None = None, keep_first: bool = False) -> None:
        self.folder, self.num_frames, self.seed, self.keep_first, self.epoch = folder, num_frames, seed, keep_first, 0
        self.files = sorted((folder / GEOMETRY).glob("room_*[0-9].safetensors"))
        if not self.files:
            raise ValueError(
                f"{folder} holds no rooms with geometry; make some: "
                f"spatial-mllm data rooms --scenes 100 --size 112x84 --geometry --out {folder}"
            )

    def __len__(self) -> int:
        return len(self.files)

    def set_epoch(self, epoch: int) -> None:
        """Draw other stretches from now on; accelerate's loaders call it."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Clip:
        path = self.files[index]
        with safe_open(path, framework="pt") as file:
            extrinsics, intrinsics = file.get_tensor("extrinsics").float(), file.get_tensor("intrinsics").float()
            chosen = self._choose(index, len(extrinsics))
            depths = file.get_slice("depth")
            depth = torch.stack([depths[number] for number in chosen])
        decoded = decode_frames(self.folder / VIDEOS / f"{path.stem}.mp4", chosen, num_threads=1)
        frames = torch.from_numpy(decoded.frames).permute(0, 3, 1, 2).float() / 255
        return {"frames": frames, "depth": depth, "extrinsics": extrinsics[chosen], "intrinsics": intrinsics[chosen]}

    def _choose(self, index: int, available: int) -> list[int]:
        if available < self.num_frames:
            raise ValueError(
                f"{self.files[index]} has {available} frames, but num_frames asks for up to {self.num_frames}."
            )
        if self.seed is None:
            return uniform_indices(available, self.num_frames)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        length = int(rng.integers(self.num_frames, available + 1))
        first = int(rng.integers(available - length + 1))
        chosen = [first + number for number in uniform_indices(length, self.num_frames)]
        return [0, *chosen[1:]] if self.keep_first else chosen


class GeometryTrainer(Trainer):
    """transformers' `Trainer` with VGGT's losses.

    Logged beside their sum: each loss by its name and, in evaluations, each error, and as `constant_...` that of a
    predictor that never looks (see `geometry_losses.py`).
    """

    args: GeometryRecipe

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # VGGT's forward takes keywords, but not those of losses
        self._values: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._measured: dict[str, list[torch.Tensor]] = defaultdict(list)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Clip,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        inputs = self._fewer_frames(inputs) if model.training else inputs
        targets = scene_targets(inputs["depth"], inputs["extrinsics"], inputs["intrinsics"], self.args.unit)
        output = model(inputs["frames"], heads=self.args.vggt.get("heads", VGGTConfig.heads))
        losses = geometry_losses(output, targets)
        if model.training:
            self._note(self._values, losses)
        else:
            constant = geometry_errors(constant_output(targets), targets)
            self._note(self._measured, losses | geometry_errors(output, targets))
            self._note(self._measured, {f"constant_{name}": error for name, error in constant.items()})
        loss = torch.stack([getattr(self.args, f"{name}_weight") * value for name, value in losses.items()]).sum()
        return (loss, output) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: Clip, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, None, None]:
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        self._measured.clear()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update({f"{metric_key_prefix}_{name}": mean for name, mean in _means(self._measured).items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = {**logs, **_means(self._values)}
        super().log(logs, start_time)

    def _fewer_frames(self, inputs: Clip) -> Clip:
        """The first frames of the clips, as many as are drawn for this step."""
        fewest, most = self.args.num_frames
        count = int(np.random.default_rng([self.args.seed, self.state.global_step]).integers(fewest, most + 1))
        return {name: tensor[:, :count] for name, tensor in inputs.items()}

    def _note(self, notes: dict[str, list[torch.Tensor]], values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            notes[name].append(self.accelerator.gather(value.detach()).mean())


def _means(notes: dict[str, list[torch.Tensor]]) -> dict[str, float]:
    """The mean of each list, which is emptied."""
    means = {name: torch.stack(values).mean().item() for name, values in notes.items()}
    notes.clear()
    return means


def new_vggt(fields: dict[str, Any]) -> VGGTModel:
    """A VGGT to be trained from nothing, its weights out of torch's generator, its cameras all but at rest.

    Args:
        fields: of `VGGTConfig`. `initializer_range` is of tokens and position embeddings alone.
    """
    model = VGGTModel(VGGTConfig(**fields))
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            module.reset_parameters()
    if "camera" in model.config.heads:
        at_rest = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, START_FIELD_OF_VIEW, START_FIELD_OF_VIEW])
        last = model.camera_head.pose_branch.fc2
        with torch.no_grad():
            last.weight.mul_(START_MOTION)
            last.bias.copy_(at_rest / NUM_REFINEMENTS)  # each round adds this
    return model


def run_geometry(recipe: GeometryRecipe) -> dict[str, float]:
    """Trains, and leaves VGGT's checkpoint and the curves (`trainer_state.json`) in `recipe.output_dir`.

    Goes on from the newest checkpoint there, if there is one.

    Returns:
        the trainer's metrics, and the losses and errors on the rooms held out.

    Raises:
        ValueError: for rooms without geometry or with fewer frames than asked for, or fields that no VGGT can have.
    """
    most = recipe.num_frames[1]
    torch.manual_seed(recipe.seed)  # of new weights
    trainer = GeometryTrainer(
        new_vggt(recipe.vggt),
        recipe,
        train_dataset=RoomClips(Path(recipe.rooms), most, recipe.seed, recipe.keep_first),
        eval_dataset=RoomClips(Path(recipe.held_out), most),
    )
    folder = Path(str(recipe.output_dir))
    metrics = trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.is_dir() else None).metrics
    metrics.update(trainer.evaluate())
    trainer.save_model()
    trainer.save_state()
    return metrics
