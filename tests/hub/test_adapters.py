"""A LoRA adapter goes to the Hub and comes back from there, alone or with the base model that it names."""

from pathlib import Path

import pytest
from hub_server import HubServer, run_python

pytest.importorskip("peft")

PUSH = """
import sys
import torch
from peft import LoraConfig, get_peft_model
from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor
from spatial_mllm_hf.modeling.lora_spatial_mllm import LORA_MODULES_TO_SAVE, LORA_TARGET_MODULES

checkpoint, base, adapter = sys.argv[1:]
SpatialMLLMForConditionalGeneration.from_pretrained(checkpoint).push_to_hub(base)
SpatialMLLMProcessor.from_pretrained(checkpoint).push_to_hub(base)
model = SpatialMLLMForConditionalGeneration.from_pretrained(base)
lora = LoraConfig(r=4, target_modules=LORA_TARGET_MODULES, modules_to_save=list(LORA_MODULES_TO_SAVE))
adapted = get_peft_model(model, lora)
torch.manual_seed(0)
with torch.no_grad():
    for name, weight in adapted.named_parameters():
        if weight.requires_grad:
            weight.add_(torch.randn_like(weight) * 0.1)
adapted.push_to_hub(adapter)
ids = torch.arange(8)[None]
print(adapted.eval()(input_ids=ids).logits.double().sum().item())
"""
PULL = """
import sys
import torch
from peft import PeftModel
from spatial_mllm_hf import SpatialMLLMForConditionalGeneration

base, adapter, out = sys.argv[1:]
ids = torch.arange(8)[None]
model = SpatialMLLMForConditionalGeneration.from_pretrained(base).eval()
plain = model(input_ids=ids).logits.double().sum().item()
adapted = PeftModel.from_pretrained(model, adapter).eval()
logits = adapted(input_ids=ids).logits.double().sum().item()
loaded = SpatialMLLMForConditionalGeneration.from_pretrained(adapter).eval()
by_transformers = loaded(input_ids=ids).logits.double().sum()
adapted.merge_and_unload().save_pretrained(out)
merged = SpatialMLLMForConditionalGeneration.from_pretrained(out).eval()(input_ids=ids).logits.double().sum()
print(plain, logits, by_transformers.item(), merged.item())
"""


def test_an_adapter_goes_to_the_hub_and_back(
    hub_server: HubServer, hub_environment: dict[str, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    hub_server.state.strict_cards = False  # cards of transformers and PEFT name no licence
    base, adapter = "user/base", "user/adapter"
    pushed = run_python(PUSH, str(tiny_checkpoint), base, adapter, env=hub_environment)
    expected = float(pushed.stdout.splitlines()[-1])
    files = hub_server.files(adapter)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files.keys()
    whole = len(hub_server.files(base)["model.safetensors"])
    assert len(files["adapter_model.safetensors"]) < whole / 2  # the adapters and the connector, not the model
    pulled = run_python(PULL, base, adapter, str(tmp_path / "merged"), env=hub_environment)
    plain, *adapted = map(float, pulled.stdout.splitlines()[-1].split())
    assert plain != pytest.approx(expected, rel=1e-4)
    assert adapted == pytest.approx([expected] * 3, rel=1e-4)
