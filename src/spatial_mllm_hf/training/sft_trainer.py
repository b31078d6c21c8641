"""transformers' Trainer with Spatial-MLLM's parameter groups, the loss of the answers alone, and its reports.

The head of 152,000 words runs only where a label is: for an answer of ten tokens behind a video of 3,300 it would take
most of the memory. The loss is the mean over all answer tokens of a step, whatever batches, accumulation steps and
processes they are spread over, so that the same global batch gives the same step.
"""

import logging
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from .collator import FAILURES, TASKS
from .label_masks import IGNORED
from .public_names import PublicNamesMixin
from .sample_encoding import EncodedDataset, FailedSample
from .sft_recipe import SFTRecipe
from .trained_parts import parameter_groups

logger = logging.getLogger(__name__)

# A share of failures is judged as if at least so many samples had been seen.
FAILURES_JUDGED_FROM = 200
GIB = 2**30


class TooManyFailuresError(ValueError):
    """More samples failed to load than the recipe allows."""


class SFTTrainer(PublicNamesMixin, Trainer):
    """Trains on batches of `SampleCollator`. `args` is an `SFTRecipe`."""

    args: SFTRecipe
    optimizer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Qwen2.5-VL says that its own loss takes no count of a step's labels; `compute_loss` does.
        self.model_accepts_loss_kwargs = True
        self.failed: list[FailedSample] = []
        self._num_seen = 0
        self._losses: list[tuple[list[str], torch.Tensor, torch.Tensor]] = []
        self._since = time.monotonic()

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As transformers', with a group for each trained part, with weight decay and without."""
        model = self.model if model is None else model
        if self.optimizer is None:
            decayed = self.get_decay_parameter_names(model)
            groups = parameter_groups(
                model.named_parameters(), self.args.trained_parts, self.args.weight_decay, decayed
            )
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Cross entropy summed over the batch's labels, divided by the number of labels of the whole step."""
        inputs = dict(inputs)
        failed, tasks, targets = inputs.pop(FAILURES), inputs.pop(TASKS), inputs.pop("labels")[:, 1:]  # [B, L - 1]
        self._note_failures(failed, len(tasks))
        kept = (targets != IGNORED).any(dim=0).nonzero()[:, 0]
        if not len(kept):  # nothing to learn here: the last place, whose label is masked
            kept = torch.tensor([targets.shape[1] - 1], device=targets.device)
        targets = targets[:, kept]
        outputs = model(**inputs, logits_to_keep=kept, use_cache=False)
        losses = cross_entropy(
            outputs.logits.float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
        )  # [B, kept]
        counts = (targets != IGNORED).sum(dim=1)
        if model.training:
            self._losses.append((tasks, losses.detach().sum(dim=1), counts))
        count = counts.sum() if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / torch.clamp(torch.as_tensor(count, device=losses.device), min=1)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # which data parallelism is going to divide by
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the loss of each task, samples per second, memory and failures since the last time."""
        if "loss" in logs:
            logs = {**logs, **self._report()}
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """As transformers'; lengths are estimated, as finding them out would decode every video."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy == "group_by_length" and isinstance(dataset, EncodedDataset):
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            return EpochLengthGroupedSampler(batch_size, dataset.estimate_lengths(), seed)
        return super()._get_train_sampler(train_dataset)

    def _note_failures(self, failed: list[FailedSample], num_loaded: int) -> None:
        """Reports samples that failed to load.

        Raises:
            TooManyFailuresError: if they have become too many of those that this process has seen.
        """
        for sample in failed:
            logger.warning("Sample %s failed to load and is left out: %s.", sample.label, sample.reason)
        self.failed += failed
        self._num_seen += num_loaded + len(failed)
        judged = max(self._num_seen, min(FAILURES_JUDGED_FROM, len(self.train_dataset)))
        if len(self.failed) > self.args.max_failed_share * judged:
            raise TooManyFailuresError(
                f"{len(self.failed)} of the first {self._num_seen} samples failed to load, more than max_failed_share="
                f"{self.args.max_failed_share} allows. The last is {self.failed[-1].label}: {self.failed[-1].reason}."
            )

    def _report(self) -> dict[str, float]:
        """Of all processes since the last report. Every process calls this at the same step."""
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        num_samples = 0
        for tasks, losses, counts in self._losses:
            num_samples += len(tasks)
            for task, loss, count in zip(tasks, losses.tolist(), counts.tolist()):
                sums[task][0] += loss
                sums[task][1] += count
        own = {"sums": dict(sums), "samples": num_samples, "failed": len(self.failed), "memory": _peak_memory()}
        reports: list[dict[str, Any]] = gather_object([own])
        elapsed = time.monotonic() - self._since
        self._losses, self._since = [], time.monotonic()
        report = {
            "samples_per_second": sum(each["samples"] for each in reports) / elapsed,
            "memory_gib": max(each["memory"] for each in reports) / GIB,
            "failed_samples": sum(each["failed"] for each in reports),
        }
        for task in sorted({task for each in reports for task in each["sums"]}):
            pairs = [each["sums"][task] for each in reports if task in each["sums"]]
            report[f"loss/{task}"] = sum(loss for loss, _ in pairs) / max(1, sum(count for _, count in pairs))
        return report


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """Groups samples of similar length, in an order that follows from the seed and the epoch alone.

    A run that goes on in a later epoch sees what an undisturbed one sees.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


def _peak_memory() -> int:
    """Most bytes of the accelerator in use so far, or of this process where there is none."""
    if torch.accelerator.is_available():
        return torch.accelerator.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
