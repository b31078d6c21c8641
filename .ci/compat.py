"""The smoke suite on each supported minor release of transformers, with a table as its result.

    python .ci/compat.py [--lowest] [--cache DIR]

Finds the releases on the package index, the newest patch of each minor one from the lowest that setup.cfg admits;
unpacks each into a folder of its own and puts that first on the path of a pytest process. transformers' dependencies
are those of the environment. Exit code 1 if any test fails.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOKE = {
    "load public formats": [
        "tests/modeling/test_loading.py::test_every_weight_of_a_public_checkpoint_is_taken",
        "tests/modeling/test_loading.py::test_v1_1_round_trip_keeps_public_names_and_values",
        "tests/modeling/test_loading.py::test_v1_0_is_saved_under_v1_1_names_and_reads_back",
        "tests/modeling/test_loading.py::test_vggt_is_read_out_of_a_whole_checkpoint",
        "tests/modeling/test_loading.py::test_full_size_names_and_shapes",
    ],
    "logits": [
        "tests/modeling/test_spatial_mllm.py::test_logits_agree_with_the_public_code",
        "tests/modeling/test_spatial_mllm.py::test_features_and_positions_agree_with_the_public_code",
        "tests/modeling/test_spatial_mllm.py::test_greedy_tokens_agree_with_the_public_code",
    ],
    "processor": [
        "tests/processing/test_processor.py::test_chat_with_video_image_and_text",
        "tests/processing/test_processor.py::test_mixed_batch_holds_what_its_samples_hold",
        "tests/processing/test_processor.py::test_round_trip_gives_identical_inputs",
        "tests/processing/test_processor.py::test_loaded_geometry_chooses_the_frames",
    ],
    "pipeline": [
        "tests/pipelines/test_pipeline.py::test_all_forms_of_one_question_give_one_answer",
        "tests/pipelines/test_pipeline.py::test_the_answer_is_that_of_processor_and_model",
        "tests/pipelines/test_pipeline.py::test_the_default_is_space_aware_with_the_models_own_geometry",
    ],
    "remote code": [
        "tests/hub/test_publishing.py::test_everything_works_where_this_package_is_not_installed",
        "tests/hub/test_publishing.py::test_what_was_loaded_there_is_saved_as_a_folder_that_works_again",
    ],
}


def supported_releases() -> list[str]:
    """The newest patch of each minor release that setup.cfg admits, lowest first."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    bounds = re.search(r"transformers>=(\d+)\.(\d+),<(\d+)", setup["options"]["install_requires"])
    assert bounds is not None, "setup.cfg names no bounds of transformers"
    lowest, too_high = (int(bounds[1]), int(bounds[2])), int(bounds[3])
    command = [sys.executable, "-m", "pip", "index", "versions", "transformers"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    newest: dict[tuple[int, int], int] = {}
    for major, minor, patch in re.findall(r"\b(\d+)\.(\d+)\.(\d+)(?=,|\n|$)", listed.split("Available versions:")[1]):
        release = int(major), int(minor)
        if lowest <= release < (too_high, 0):
            newest[release] = max(int(patch), newest.get(release, 0))
    return [f"{major}.{minor}.{newest[major, minor]}" for major, minor in sorted(newest)]


def run_smoke(folder: Path) -> dict[str, str]:
    """Result of each group of tests with the transformers in `folder`: "12 passed", or what failed."""
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(temporary) / "results.xml"
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        nodes = [node for group in SMOKE.values() for node in group]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={results}", *nodes]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if not results.exists():
            raise SystemExit(f"pytest did not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    if done.returncode:
        sys.stderr.write(done.stdout[-5000:])
    return {group: _summary(cases, nodes) for group, nodes in SMOKE.items()}


def _summary(cases: list[ElementTree.Element], nodes: list[str]) -> str:
    counted: Counter[str] = Counter()
    for node in nodes:
        path, name = node.split("::")
        module = path.removesuffix(".py").replace("/", ".")
        for case in cases:
            if case.get("classname") == module and case.get("name", "").split("[")[0] == name:
                outcome = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "")
                counted[{"failure": "failed", "error": "failed", "": "passed"}.get(outcome, outcome)] += 1
    return ", ".join(f"{number} {outcome}" for outcome, number in counted.items()) or "failed to start"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lowest", action="store_true", help="only the lowest supported release")
    parser.add_argument("--cache", type=Path, default=ROOT / ".venv" / "compat", help="where to unpack the releases")
    options = parser.parse_args()
    releases = supported_releases()
    rows = {}
    for release in releases[:1] if options.lowest else releases:
        folder = options.cache / release
        if not folder.exists():
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
            subprocess.run([*install, f"transformers=={release}"], check=True)
        rows[release] = run_smoke(folder)
    print("| transformers |", " | ".join(SMOKE), "|")
    print("|---" * (len(SMOKE) + 1) + "|")
    for release, groups in rows.items():
        print(f"| {release} |", " | ".join(groups.values()), "|", flush=True)
    good = all(re.fullmatch(r"\d+ passed", result) for groups in rows.values() for result in groups.values())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
