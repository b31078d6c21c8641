"""The code that goes along with a saved configuration."""

import ast
from pathlib import Path

from spatial_mllm_hf import SpatialMLLMConfig
from spatial_mllm_hf.modeling.remote_code_spatial_mllm import (
    AUTO_MAP,
    CUSTOM_PIPELINES,
    collect_code,
    copy_remote_code,
    find_in_package,
)


def test_every_class_that_is_named_is_in_its_file() -> None:
    references = [*AUTO_MAP.values(), *(str(task["impl"]) for task in CUSTOM_PIPELINES.values())]
    for file, name in (reference.split(".") for reference in references):
        tree = ast.parse(find_in_package(f"{file}.py").read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_a_file_that_lies_there_already_is_left_alone(tmp_path: Path) -> None:
    """Remote code that saves into the folder it was loaded from would copy files onto themselves."""
    original = find_in_package("vggt_rope.py")
    (tmp_path / "vggt_rope.py").symlink_to(original)
    copied = copy_remote_code(tmp_path)
    assert {path.name for path in copied} == {path.name for path in collect_code(find_in_package)} - {"vggt_rope.py"}
    assert (tmp_path / "vggt_rope.py").is_symlink()


def test_saving_does_not_change_the_configuration(tmp_path: Path) -> None:
    config = SpatialMLLMConfig()
    before = config.to_dict()
    config.save_pretrained(tmp_path)
    assert config.to_dict() == before
    again = SpatialMLLMConfig.from_pretrained(tmp_path)
    assert not hasattr(again, "custom_pipelines")  # the installed package serves the task itself
    assert not hasattr(again, "spatial_mllm_hf_version")
