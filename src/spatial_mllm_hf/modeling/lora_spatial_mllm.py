"""Which modules LoRA adapts: options of PEFT's `LoraConfig`.

Names alone would hit too much: the vision tower has layers called gate_proj, up_proj and down_proj as well. PEFT
matches a pattern against the whole name of a module; this one fits the generator, the backbone and adapters that
transformers itself loads.
"""

# Every linear layer of the language model, and nothing else.
LORA_TARGET_MODULES = r"(.*\.)?language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
# Trained whole and saved with the adapter. It is where geometry enters the language model.
LORA_MODULES_TO_SAVE = ("connector",)
