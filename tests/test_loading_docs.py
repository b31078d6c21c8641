"""The examples of docs/loading.md run, on a tiny checkpoint and without an accelerator, and print what it says."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parent.parent / "docs" / "loading.md").read_text(encoding="utf-8")
PUBLIC_CHECKPOINT = "Diankun/Spatial-MLLM-v1.1-Instruct-820K"
SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
NEEDS = {
    "Devices and offloading": ["accelerate"],
    "8 and 4 bits": ["accelerate", "bitsandbytes", "torchao"],
    "LoRA": ["peft"],
}


def code_of(section: str) -> str:
    """Its Python, with the CPU in place of accelerator 0."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL))
    return re.sub(r": 0,$", ': "cpu",', code, flags=re.MULTILINE).replace(
        '{0: "8GiB", "cpu": "16GiB"}', '{"cpu": "16GiB"}'
    )


@pytest.mark.parametrize(
    "section", [section for section in SECTIONS if "```python" in section], ids=lambda s: s.split("\n")[0]
)
def test_examples_run(
    section: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for library in NEEDS.get(section.split("\n")[0], []):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    code = code_of(section) if section is SECTIONS[0] else code_of(SECTIONS[0]) + code_of(section)
    exec(compile(code.replace(PUBLIC_CHECKPOINT, str(tiny_checkpoint)), "docs/loading.md", "exec"), {})
    printed = "".join(re.findall(r"```text\n(.*?)```", section, flags=re.DOTALL))
    assert capsys.readouterr().out == printed
