"""Settings of GRPO: TRL's `GRPOConfig` and what is Spatial-MLLM's own."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trl import GRPOConfig

from ..data.conversations import ConversationForm
from .media import MediaSettings


@dataclass
class GRPORecipe(GRPOConfig):
    """A run of GRPO. All fields of `GRPOConfig` are settings too.

    Args:
        model: folder or Hub repository of the checkpoint that training starts from, and that the reference stays.
        revision: of a Hub repository.
        dtype: of the weights. "float32" with `bf16: true` computes in bfloat16 and keeps the small steps of 1e-6 that
            bfloat16 weights would lose.
        attn_implementation: of attention; "sdpa", "flash_attention_2", ...
        sources: files and Hub data sets of conversations with prompts of GRPO, each `name` or `name%N` for N percent.
        form: which form of the conversations (see `data/conversations.py`).
        media_folder: that the paths in the rows are relative to.
        num_frames, min_pixels, max_pixels, second_per_grid: see `MediaSettings`.
        frame_sampling: how frames are chosen; "space_aware" by the geometry of the model itself.
        length_reward: add Video-R1's reward for completions of 320 to 512 tokens.
        lora_rank: adapt the language model by LoRA of this rank instead of training it whole; the reference is then
            the model without the adapter, which takes no memory.
        lora_alpha, lora_dropout: of the adapters.
    """

    model: str = ""
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    attn_implementation: str | None = None
    sources: list[str] = field(default_factory=list)
    form: ConversationForm = "llava"
    media_folder: str = "."
    num_frames: int = 16
    min_pixels: int = 293216
    max_pixels: int = 324576
    second_per_grid: float = 0.5
    frame_sampling: Literal["uniform", "space_aware"] = "uniform"
    length_reward: bool = False
    lora_rank: int | None = None
    lora_alpha: int = 16
    lora_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that is missing or out of range."""
        super().__post_init__()
        self.processor_kwargs()
        for name in ("model", "sources"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name it in the recipe or as --{name} on the command line.")
        if not Path(self.media_folder).is_dir():
            raise ValueError(f"media_folder={self.media_folder!r}: there is no such folder.")
        if self.remove_unused_columns:
            raise ValueError(
                "remove_unused_columns=True would take the right answers from the rewards; leave it False."
            )
        if self.model_init_kwargs is not None:
            raise ValueError("model_init_kwargs is set by revision, dtype and attn_implementation; name those instead.")
        if self.lora_rank is not None and self.lora_rank < 1:
            raise ValueError(f"lora_rank must be at least 1, got {self.lora_rank}; null trains the whole model.")
        if self.lora_rank is None and self.dtype in ("bfloat16", "float16"):
            raise ValueError(
                f"dtype={self.dtype!r}: weights of 16 bits lose steps of a learning rate of {self.learning_rate}. Take "
                "float32 with bf16: true, or adapters by lora_rank."
            )

    def processor_kwargs(self) -> dict[str, Any]:
        """Options of a call of the processor.

        Raises:
            ValueError: for a number out of range.
        """
        media = MediaSettings(self.num_frames, self.min_pixels, self.max_pixels, self.second_per_grid)
        options = media.processor_kwargs()
        options["videos_kwargs"]["frame_sampling"] = self.frame_sampling
        return options
