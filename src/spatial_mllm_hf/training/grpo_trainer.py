"""GRPO on questions about videos (section 3.2 of the paper): TRL's trainer with the video in every forward.

TRL's GRPOTrainer shows a video to the model when it generates and leaves it out when it computes log-probabilities, so
that the policy is trained, and held to its reference, on text alone (huggingface/trl#4144). Here each row of a batch
carries what its prompt shows, through shuffling and splitting, into every forward of the policy and the reference.

Encoders and connector are frozen and a prompt is encoded once: generation, its rollouts, the reference model and the
policy share the result. Which parts the paper trains by GRPO it does not say. The language model is trained whole, or
through LoRA (`peft_config`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import trl
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import RepeatSampler, pad

from ..modeling.modeling_spatial_mllm import SpatialMLLMForConditionalGeneration
from ..processing.processing_spatial_mllm import SpatialMLLMProcessor
from .grpo_visuals import PromptVisuals, encode_visuals, model_inputs
from .public_names import PublicNamesMixin
from .trained_parts import part_of, select_trained_parts

TRAINED_PARTS = ("language_model",)
# TRL's own, not promised to stay. One that is no longer called under its name would leave the video out unnoticed.
OVERRIDDEN = (
    "_tokenize_prompts",
    "_generate_single_turn",
    "_generate_and_score_completions",
    "_compute_loss",
    "_get_per_token_logps_and_entropies",
)
ENCODERS = ("visual", "spatial_encoder", "connector")  # attributes of the backbone


class SpatialMLLMGRPOTrainer(PublicNamesMixin, GRPOTrainer):
    """TRL's GRPOTrainer for Spatial-MLLM. Takes its arguments; videos and images stand inside the prompts' messages.

    Attributes:
        processor_kwargs: options of the processor for every prompt: `num_frames`, `frame_sampling`, ...
    """

    def __init__(
        self,
        model: SpatialMLLMForConditionalGeneration,
        reward_funcs: Any,
        args: GRPOConfig,
        *,
        processing_class: SpatialMLLMProcessor,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Raises ValueError for options that leave the video out, or train what is to be shared."""
        _check_arguments(args)
        self.processor_kwargs = dict(processor_kwargs or {})
        self._rows: list[PromptVisuals] = []  # of the batch whose log-probabilities come next
        self._pending: list[tuple[dict[str, Any], list[int]]] = []  # inputs of a prompt, and the rows that it fills
        select_trained_parts(model, TRAINED_PARTS)
        processing_class.tokenizer.padding_side = "left"
        _never_sample_placeholders(model, args)
        super().__init__(model, reward_funcs, args, processing_class=processing_class, **kwargs)
        _check_trained(self.model)
        if self.ref_model is not None:
            self._share_encoders(model)

    def _get_train_sampler(self, dataset: Any = None) -> EpochRepeatSampler:
        """TRL's order of prompts, but in later epochs the same to a run that goes on there."""
        order: Any = super()._get_train_sampler(dataset)
        options = {
            name: getattr(order, name) for name in ("mini_repeat_count", "batch_size", "repeat_count", "shuffle")
        }
        return EpochRepeatSampler(order.data_source, seed=self.args.seed, **options)

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Token ids of each prompt. Equal prompts, which are the rollouts of one, are processed once."""
        rows_of: dict[str, list[int]] = {}
        for row, prompt in enumerate(prompts):
            rows_of.setdefault(json.dumps(_without_nones(prompt), sort_keys=True), []).append(row)
        prompt_ids: list[list[int]] = [[] for _ in prompts]
        self._pending = []
        template_options: Any = self.chat_template_kwargs
        for text, rows in rows_of.items():
            inputs = self.processing_class.apply_chat_template(
                json.loads(text),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=self.processor_kwargs,
                **template_options,
            )
            ids = inputs["input_ids"][0].tolist()
            self._pending.append((dict(inputs), rows))
            for row in rows:
                prompt_ids[row] = ids
        return prompt_ids, None, {}

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: Any,
        num_generations: int,
        has_tool_images: bool = False,
    ) -> tuple[list[list[int]], None]:
        """Encodes what each prompt shows, once, and answers every row."""
        tensors = [torch.tensor(ids) for ids in prompt_ids]
        padding: dict[str, Any] = {"padding_side": "left", "pad_to_multiple_of": self.pad_to_multiple_of}
        input_ids = pad(tensors, padding_value=self._tokenizer.pad_token_id, **padding)
        mask = pad([torch.ones_like(ids) for ids in tensors], padding_value=0, **padding)
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
            self.accelerator.autocast(),  # as the log-probabilities are computed
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            self._encode_pending(model, len(prompt_ids))
            sequences = model.generate(
                input_ids=input_ids.to(self.accelerator.device),
                attention_mask=mask.to(self.accelerator.device),
                **model_inputs(self._rows),
                generation_config=self.generation_config,
            )
        completions = sequences[:, input_ids.shape[1] :].tolist()
        return [up_to_end(ids, self.eos_token_ids) for ids in completions], None

    def _encode_pending(self, model: Any, num_rows: int) -> None:
        """Makes `_rows` of what was tokenized, on a model whose weights are all there."""
        backbone = _without_adapters(model)
        rows: list[PromptVisuals | None] = [None] * num_rows
        for inputs, members in self._pending:
            visuals = encode_visuals(backbone, inputs)
            for row in members:
                rows[row] = visuals
        self._pending = []
        self._rows = [row for row in rows if row is not None]
        assert len(self._rows) == num_rows

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        output["visuals"] = self._rows  # a list, which TRL shuffles and splits along with the tensors
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._rows = inputs["visuals"]
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(self, model: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """TRL's, which calls the model on one part of the rows after the other."""
        assert len(self._rows) == len(input_ids)
        remaining = iter(self._rows)

        def with_visuals(**inputs: Any) -> Any:
            rows = [next(remaining) for _ in inputs["input_ids"]]
            return model(**inputs, **model_inputs(rows))

        output = super()._get_per_token_logps_and_entropies(with_visuals, input_ids, *args, **kwargs)
        assert next(remaining, None) is None, "every row has had its visuals"
        return output

    def _share_encoders(self, model: SpatialMLLMForConditionalGeneration) -> None:
        """The reference gets features ready made: encoders of its own would only take memory."""
        reference = self.accelerator.unwrap_model(self.ref_model)
        if not isinstance(reference, SpatialMLLMForConditionalGeneration):
            raise ValueError(
                f"The checkpoint {model.config._name_or_path} says that it is a {type(reference).__name__}, so no "
                "reference model can be read from it. Write it anew with `spatial-mllm convert` first."
            )
        if not (self.is_deepspeed_enabled or self.is_fsdp_enabled):  # those own a model's parameters
            for name in ENCODERS:
                setattr(reference.model, name, getattr(model.model, name))


class EpochRepeatSampler(RepeatSampler):
    """Repeats prompts as TRL's does, in an order that follows from the seed and the epoch alone.

    TRL's own draws one order after the other, and begins again with the first when a run goes on in a later epoch.
    """

    seed: int
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


def _check_arguments(args: GRPOConfig) -> None:
    missing = [name for name in OVERRIDDEN if not hasattr(GRPOTrainer, name)]
    if missing:
        raise ValueError(
            f"TRL {trl.__version__} has no {', '.join(missing)} in its GRPOTrainer, where Spatial-MLLM's shows the "
            'video: pip install "spatial-mllm-hf[train]" installs a release that has.'
        )
    if args.use_vllm:
        raise ValueError(
            "use_vllm=True: TRL hands vLLM no videos, and its range of vLLM releases needs an older transformers than "
            "this package. Leave it out: transformers generates."
        )
    if args.use_transformers_continuous_batching:
        raise ValueError("use_transformers_continuous_batching=True: it generates from text alone; leave it out.")


def _never_sample_placeholders(model: SpatialMLLMForConditionalGeneration, args: GRPOConfig) -> None:
    """A video or image token in a completion would ask for features that are not there. TRL forbids the image's."""
    options: Any = args.generation_kwargs or {}
    forbidden = {*(options.get("suppress_tokens") or model.generation_config.suppress_tokens or ())}
    forbidden |= {model.config.image_token_id, model.config.video_token_id}
    args.generation_kwargs = options | {"suppress_tokens": sorted(forbidden)}


def _check_trained(model: Any) -> None:
    """Features are shared, so what makes them must stay as it is; adapters may have been put into it."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    wrong = [name for name in trained if part_of(name) not in TRAINED_PARTS]
    if wrong:
        raise ValueError(
            f"peft_config: GRPO trains the language model alone, but {wrong[0]!r} and {len(wrong) - 1} more would be "
            "trained. Take LORA_TARGET_MODULES as target_modules, and no modules_to_save."
        )
    if not trained:
        raise ValueError("GRPO needs a model of which something is trained, got one that is frozen.")


def _without_adapters(model: Any) -> SpatialMLLMForConditionalGeneration:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _without_nones(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages without the keys that a table of the `datasets` library adds to parts of another kind."""

    def cleaned(content: Any) -> Any:
        if isinstance(content, str):
            return content
        return [{key: value for key, value in part.items() if value is not None} for part in content]

    return [{**message, "content": cleaned(message["content"])} for message in messages]


def up_to_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """A completion without what comes after the first end of a turn."""
    return next((ids[: place + 1] for place, token in enumerate(ids) if token in ends), ids)
