"""Which folder may import which, and what no source file may hold. Reads the sources; imports nothing of them."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "spatial_mllm_hf"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Copied into one flat folder, the files of these are remote code.
FLAT = ("modeling", "processing", "pipelines")
MAY_IMPORT = {
    "modeling": set(),
    "processing": set(),
    "pipelines": set(),
    "conversion": {"modeling"},
    "hub": {*FLAT, "conversion"},
    "data": {"processing", "pipelines"},
    "evaluation": {"processing", "pipelines", "data"},
    "training": {*FLAT, "conversion", "hub", "data", "evaluation"},
    "cli": {*FLAT, "conversion", "hub", "data", "evaluation", "training"},
    "": {*FLAT, "conversion", "hub", "data", "evaluation", "training", "registration"},  # __init__ and registration
}
# Of evaluation: nothing of the package but each other, no torch.
PURE = ("answers", "metrics", "caption_metrics", "text_metrics")
# Spelled in parts: this file is searched too.
PRIVATE_PLACES = re.compile(r"(?<![\w.-])/" + r"work\b(?!-)|\.\./" + r"shared\b")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_modules(tree: ast.Module, module: str) -> Iterator[str]:
    """Absolute names of what a module imports, also inside functions; `module` is its own absolute name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level]
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def folders_imported(tree: ast.Module, module: str) -> set[str]:
    """Folders (or top-level modules) of the package that a module imports, its own left out."""
    own, *rest = module.split(".")
    folder = rest[0] if len(rest) > 1 else ""
    names = [name.split(".") for name in imported_modules(tree, module)]
    return {parts[1] for parts in names if parts[0] == own and len(parts) > 1} - {folder, "__version__"}


def flat_violations(tree: ast.Module, siblings: set[str]) -> list[str]:
    """Imports of the package other than `from .sibling import X`."""
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == PACKAGE.name for alias in node.names):
            wrong.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom):
            is_ours = node.level > 0 or (node.module or "").split(".")[0] == PACKAGE.name
            if is_ours and not (node.level == 1 and node.module in siblings):
                wrong.append(ast.unparse(node))
    return wrong


def broad_excepts(tree: ast.Module) -> list[int]:
    """Lines of `except:`, `except Exception` and `except BaseException`."""
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    caught = [(h.lineno, h.type.elts if isinstance(h.type, ast.Tuple) else [h.type]) for h in handlers]
    return [line for line, types in caught if any(_name(kind) in ("", "Exception", "BaseException") for kind in types)]


def _name(node: ast.expr | None) -> str:
    return "" if node is None else ast.unparse(node).removeprefix("builtins.")


def docstrings(tree: ast.Module) -> set[int]:
    """Ids of the constants that are docstrings or stand alone as comments."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def cuda_literals(tree: ast.Module) -> list[int]:
    prose = docstrings(tree)
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.lineno for node in constants if "cuda" in node.value and id(node) not in prose]


def prints(tree: ast.Module) -> list[int]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def path_edits(tree: ast.Module) -> list[int]:
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _name(node) == "sys.path"]


def module_name(path: Path) -> str:
    """The absolute name with `__init__` kept, so that a relative import counts from the right place."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def identify(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


every_source = pytest.mark.parametrize("path", SOURCES, ids=identify)


def in_folder(*folders: str) -> list[Path]:
    return [path for path in SOURCES if path.relative_to(PACKAGE).parts[0] in folders]


@every_source
def test_folders_import_only_what_they_may(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    folder = parts[0] if len(parts) > 1 else ""
    assert folder in MAY_IMPORT, f"{folder} is a new folder: say here and in CONTRIBUTING.md what it may import"
    assert folders_imported(parse(path), module_name(path)) <= MAY_IMPORT[folder]


@pytest.mark.parametrize("path", in_folder(*FLAT), ids=identify)
def test_flat_folders_import_only_siblings(path: Path) -> None:
    siblings = {other.stem for other in path.parent.glob("*.py")}
    assert flat_violations(parse(path), siblings) == []


def test_flat_folders_fit_into_one() -> None:
    files = [path for path in in_folder(*FLAT) if path.name != "__init__.py"]
    assert files
    names = [path.name for path in files]
    assert sorted(names) == sorted(set(names))
    assert [identify(path) for path in files if len(path.relative_to(PACKAGE).parts) != 2] == []


def test_answers_and_metrics_of_the_evaluation_are_pure() -> None:
    each_other = tuple(f"{PACKAGE.name}.evaluation.{name}." for name in PURE)
    for name in PURE:
        path = PACKAGE / "evaluation" / f"{name}.py"
        others = [name for name in imported_modules(parse(path), module_name(path)) if not name.startswith(each_other)]
        assert {name.split(".")[0] for name in others}.isdisjoint({PACKAGE.name, "torch", "transformers"}), name


@every_source
def test_sources_keep_the_rules(path: Path) -> None:
    tree, folder = parse(path), path.relative_to(PACKAGE).parts[0]
    assert broad_excepts(tree) == []
    assert path_edits(tree) == []
    if folder != "cli":
        assert prints(tree) == []
    if folder in ("modeling", "processing"):
        assert cuda_literals(tree) == []


def test_no_tracked_file_names_a_place_outside_the_repository() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and its repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        data = path.read_bytes() if path.is_file() else b""
        if b"\0" in data:  # no text
            continue
        lines = data.decode("utf-8", errors="replace").splitlines()
        found += [f"{name}:{number}: {line}" for number, line in enumerate(lines, 1) if PRIVATE_PLACES.search(line)]
    assert found == []


@pytest.mark.parametrize(
    ("source", "module", "expected"),
    [
        ("from ..processing.x import Y", "spatial_mllm_hf.modeling.a", {"processing"}),
        ("from .. import cli", "spatial_mllm_hf.modeling.a", {"cli"}),
        ("import spatial_mllm_hf.cli.main", "spatial_mllm_hf.data.a", {"cli"}),
        ("def f():\n    from spatial_mllm_hf.hub import x", "spatial_mllm_hf.data.__init__", {"hub"}),
        ("from .cli import main", "spatial_mllm_hf.__init__", {"cli"}),
        ("from .b import X\nimport torch", "spatial_mllm_hf.modeling.a", set()),
    ],
)
def test_the_reader_of_imports_sees_them(source: str, module: str, expected: set[str]) -> None:
    assert folders_imported(ast.parse(source), module) == expected


def test_the_rules_find_what_breaks_them() -> None:
    assert flat_violations(ast.parse("from .b import X\nimport torch"), {"b"}) == []
    for wrong in ("from . import b", "from ..m.b import X", "from .c import X", "import spatial_mllm_hf.m.b"):
        assert flat_violations(ast.parse(wrong), {"b"}) == [wrong]
    assert broad_excepts(ast.parse("try:\n    f()\nexcept:\n    pass")) == [3]
    assert broad_excepts(ast.parse("try:\n    f()\nexcept (KeyError, Exception):\n    pass")) == [3]
    assert broad_excepts(ast.parse("try:\n    f()\nexcept (KeyError, OSError):\n    pass")) == []
    assert cuda_literals(ast.parse('"""Runs on cuda."""\nx = "cuda:0"')) == [2]
    assert prints(ast.parse('print("x")')) == [1]
    assert path_edits(ast.parse("import sys\nsys.path.insert(0, '')")) == [2]
    for private in ("see /" + "work/main", '"/' + 'work"', "../" + "shared/media"):
        assert PRIVATE_PLACES.search(private)
    for public in ("https://x.org/work/a", "frame/workers", "../shared_files", "/workspace"):
        assert not PRIVATE_PLACES.search(public)
