"""Settings of supervised fine-tuning: transformers' `TrainingArguments` and what is Spatial-MLLM's own."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import TrainingArguments

from .media import MediaSettings
from .trained_parts import check_parts

# Parts whose features may be cached: those that come before all that is trained.
CacheablePart = Literal["vggt", "vision_tower"]


@dataclass
class SFTRecipe(TrainingArguments):
    """A run of supervised fine-tuning. All fields of `TrainingArguments` are settings too.

    Args:
        model: folder or Hub repository of the checkpoint that training starts from.
        revision: of a Hub repository.
        dtype: of the weights. With `bf16: true`, "float32" weights are computed with in bfloat16.
        attn_implementation: of attention; "sdpa", "flash_attention_2", ...
        sources: files and Hub data sets of conversations: `name`, `name%N` for N percent of it, `form:name` for rows of
            another form (see `samples.py`).
        media_folder: that the paths in the rows are relative to.
        num_frames, min_pixels, max_pixels, second_per_grid: see `MediaSettings`.
        max_length: most tokens of a sample; a longer one fails, as cutting it would cut its frames or its answer.
        max_failed_share: share of samples that may fail to load before the run ends.
        trained_parts: learning rate of each part that is trained; all others are frozen.
        lora_rank: adapt the language model by LoRA of this rank instead of training it whole.
        lora_alpha, lora_dropout: of the adapters.
        feature_cache: folder of the frozen encoders' features, computed where they are not there; None for none.
        cached_parts: whose features are kept.
        allow_missing_spatial: start from a Qwen2.5-VL, with a new geometry branch.
    """

    model: str = ""
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attn_implementation: str | None = None
    sources: list[str] = field(default_factory=list)
    media_folder: str = "."
    num_frames: int = 16
    min_pixels: int = 293216
    max_pixels: int = 324576
    second_per_grid: float = 0.5
    max_length: int | None = 8192
    max_failed_share: float = 0.01
    trained_parts: dict[str, float] = field(default_factory=lambda: {"connector": 1e-5, "language_model": 1e-5})
    lora_rank: int | None = None
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    feature_cache: str | None = None
    cached_parts: list[CacheablePart] = field(default_factory=lambda: ["vggt", "vision_tower"])
    allow_missing_spatial: bool = False
    remove_unused_columns: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parts(self.trained_parts)
        self.media_settings()
        for name in ("model", "sources"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name it in the recipe or as --{name} on the command line.")
        if not Path(self.media_folder).is_dir():
            raise ValueError(f"media_folder={self.media_folder!r}: there is no such folder.")
        if not 0 <= self.max_failed_share <= 1:
            raise ValueError(f"max_failed_share must be between 0 and 1, got {self.max_failed_share}.")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns=True would take the media out of the samples; leave it False.")
        self._check_lora()
        self._check_cache()

    def media_settings(self) -> MediaSettings:
        """Frames and sizes."""
        return MediaSettings(self.num_frames, self.min_pixels, self.max_pixels, self.second_per_grid)

    def _check_lora(self) -> None:
        if self.lora_rank is None:
            return
        if self.lora_rank < 1:
            raise ValueError(f"lora_rank must be at least 1, got {self.lora_rank}; null trains the whole model.")
        others = set(self.trained_parts) - {"language_model", "connector", "vision_merger"}
        if "language_model" not in self.trained_parts or others:
            raise ValueError(
                "lora_rank: adapters are for the language model; trained_parts must name language_model, and may name "
                f"connector and vision_merger, which are trained whole, got {sorted(self.trained_parts)}."
            )

    def _check_cache(self) -> None:
        if self.feature_cache is None:
            return
        if "vggt" not in self.cached_parts:
            raise ValueError(f"cached_parts must name vggt, and may name vision_tower, got {self.cached_parts}.")
        trained = sorted(set(self.cached_parts) & set(self.trained_parts))
        if trained:
            raise ValueError(
                f"feature_cache: features of {' and '.join(trained)} cannot be kept, as trained_parts changes them; "
                "freeze what is cached, name others in cached_parts, or train without a cache."
            )
