"""From a folder to a repository and back into a process without this package, through the real Hub client."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, client_environment
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file, save_file

import spatial_mllm_hf
from spatial_mllm_hf.conversion.inspection import inspect_checkpoint
from spatial_mllm_hf.conversion.sources import open_source
from spatial_mllm_hf.hub.checkpoint_folders import from_official
from spatial_mllm_hf.hub.model_card import read_results, render_model_card, write_model_card
from spatial_mllm_hf.hub.publishing import check_folder, publish

ROOT = Path(spatial_mllm_hf.__file__).parent
FLAT = ("modeling", "processing", "pipelines")
FRESH_PROCESS = Path(__file__).parent / "fresh_process.py"
TOKEN = "hf_good"
REPO = "user/tiny"


class Hub:
    """A stand-in of the Hub for the whole module, with a command line and caches of its own."""

    def __init__(self, server: HubServer, root: Path) -> None:
        self.server = server
        self.environment = client_environment(server, root, TOKEN)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env={**self.environment, **environment},
            check=False,
            timeout=300,
        )

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return self.run("-m", "spatial_mllm_hf.cli.main", *arguments, **environment)

    def use(self, checkpoint: str, clip: Path, out: Path, **environment: str) -> dict[str, Any]:
        """What a process without this package makes of a checkpoint."""
        done = self.run(str(FRESH_PROCESS), checkpoint, str(clip), str(out), **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with HubServer(tokens={TOKEN: "user", "hf_other": "other"}) as server:
        yield Hub(server, tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def published(hub: Hub, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, after `spatial-mllm push` has made it REPO; the folder that was pushed."""
    folder = tmp_path_factory.mktemp("published") / "tiny"
    shutil.copytree(tiny_checkpoint, folder)
    done = hub.command("push", str(folder), REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{hub.server.endpoint}/{REPO}/commit/")
    return folder


@pytest.fixture(scope="module")
def used(hub: Hub, published: Path, room_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """What came out of the repository in a process without this package, and where that saved it again."""
    out = tmp_path_factory.mktemp("used")
    return hub.use(REPO, room_clip, out), out


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_repository_holds_the_folder_and_this_packages_files_unchanged(hub: Hub, published: Path) -> None:
    files = hub.server.files(REPO)
    on_hub = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != ".gitattributes"}
    assert on_hub == hashes(published)
    own = {path.name: path.read_bytes() for folder in FLAT for path in (ROOT / folder).glob("[!_]*.py")}
    code = {name: data for name, data in files.items() if name.endswith(".py")}
    assert code.items() <= own.items()
    assert f'__version__ = "{spatial_mllm_hf.__version__}"' in code["version_spatial_mllm.py"].decode()
    assert json.loads(files["config.json"])["spatial_mllm_hf_version"] == spatial_mllm_hf.__version__


def test_everything_works_where_this_package_is_not_installed(used: tuple[dict, Path]) -> None:
    report, _ = used
    generator = "SpatialMLLMForConditionalGeneration"
    video_processor = "SpatialMLLMVideoProcessor"
    assert report["classes"] == ["SpatialMLLMConfig", "SpatialMLLMModel", generator, generator, video_processor]
    assert (report["model"], report["processor"]) == (generator, "SpatialMLLMProcessor")
    bound, loaded = report["chosen"]
    assert len(bound) == 4
    assert loaded == bound
    assert report["pipelines"] == [["VideoQuestionAnsweringPipeline", report["answer"], bound]] * 2


def test_answers_are_those_of_the_installed_package(
    used: tuple[dict, Path], tiny_checkpoint: Path, room_clip: Path
) -> None:
    from transformers import pipeline

    pipe = pipeline("video-question-answering", model=str(tiny_checkpoint))  # its code is there, and not asked for
    assert type(pipe) is spatial_mllm_hf.VideoQuestionAnsweringPipeline
    assert type(pipe.model) is spatial_mllm_hf.SpatialMLLMForConditionalGeneration
    answer = pipe(video=str(room_clip), question="How many?", num_frames=4, max_new_tokens=4)
    assert answer["generated_text"] == used[0]["answer"]


@pytest.mark.parametrize("way", ["parts", "pipeline"])
def test_what_was_loaded_there_is_saved_as_a_folder_that_works_again(
    hub: Hub, used: tuple[dict, Path], room_clip: Path, tmp_path: Path, way: str
) -> None:
    report, out = used
    check_folder(out / way, but_for_card=True)
    # No Hub, no caches: the folder stands on its own.
    alone = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "hub")}
    again = hub.use(str(out / way), room_clip, tmp_path / "out", HF_MODULES_CACHE=str(tmp_path / "modules"), **alone)
    assert again == report
    assert "--" not in (out / way / "config.json").read_text()  # no reference back to the repository it came from


PUSH_BY_METHOD = """
import sys
from spatial_mllm_hf import SpatialMLLMForConditionalGeneration, SpatialMLLMProcessor

folder, repo = sys.argv[1:]
SpatialMLLMForConditionalGeneration.from_pretrained(folder).push_to_hub(repo)
SpatialMLLMProcessor.from_pretrained(folder).push_to_hub(repo)
"""


def test_push_to_hub_of_model_and_processor_gives_a_working_repository(
    hub: Hub, used: tuple[dict, Path], tiny_checkpoint: Path, room_clip: Path, tmp_path: Path
) -> None:
    hub.server.state.strict_cards = False  # transformers' own card names no licence
    done = hub.run("-c", PUSH_BY_METHOD, str(tiny_checkpoint), "user/by-method")
    hub.server.state.strict_cards = True
    assert done.returncode == 0, done.stderr[-3000:]
    assert hub.use("user/by-method", room_clip, tmp_path) == used[0]


def test_the_card_is_valid_and_says_what_it_has_to(hub: Hub, published: Path) -> None:
    card = ModelCard.load(published / "README.md")
    assert card.data.pipeline_tag == "video-text-to-text"
    assert card.data.library_name == "transformers"
    assert f'pipeline("video-question-answering", model="{REPO}", trust_remote_code=True' in card.content
    assert f"{(0.910616):.2f} M" in card.content  # parameters of the tiny checkpoint
    assert any(entry.status == 200 for entry in hub.server.requests_for("POST", "validate-yaml"))  # by the commit


def test_the_card_names_the_repository_that_it_goes_to(hub_server: HubServer, hub_api: HfApi, folder: Path) -> None:
    publish(folder, "user/second")
    assert '"user/second"' in hub_server.files("user/second")["README.md"].decode()
    assert REPO not in hub_server.files("user/second")["README.md"].decode()


def test_a_connector_that_was_trained_is_not_called_new(folder: Path) -> None:
    assert "adds nothing yet" not in str(render_model_card(folder))
    weights = load_file(folder / "model.safetensors")
    last = {name: tensor * 0 for name, tensor in weights.items() if name.startswith("connector.mlp.2.")}
    assert len(last) == 2
    save_file({**weights, **last}, folder / "model.safetensors", metadata={"format": "pt"})
    assert "adds nothing yet" in str(render_model_card(folder))


def test_shards_replace_a_single_file(hub_server: HubServer, hub_api: HfApi, folder: Path, tmp_path: Path) -> None:
    """transformers would go on reading the old single file."""
    publish(folder, REPO)
    model = spatial_mllm_hf.SpatialMLLMForConditionalGeneration.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="1MB")
    publish(folder, REPO)
    on_hub = {name for name in hub_server.files(REPO) if name.endswith(".safetensors")}
    assert on_hub == {path.name for path in folder.glob("*.safetensors")}
    assert "model.safetensors" not in on_hub


def test_only_the_checkpoint_is_published(
    hub_server: HubServer, hub_api: HfApi, folder: Path, published: Path, tmp_path: Path
) -> None:
    for name in ("token.txt", "secret_config.json", "adapter_model.safetensors", "optimizer.pt", "train.py"):
        (folder / name).write_text("private")
    (folder / "checkpoint-500").mkdir()
    shutil.copy(folder / "config.json", folder / "checkpoint-500")
    publish(folder, REPO)
    assert hub_server.files(REPO).keys() - {".gitattributes"} == {path.name for path in published.iterdir()}
    (tmp_path / "elsewhere").write_text("private")
    (folder / "NOTICE").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="NOTICE is a link to"):
        publish(folder, REPO)


def test_private_is_not_promised_for_a_public_repository(hub_server: HubServer, hub_api: HfApi, folder: Path) -> None:
    publish(folder, REPO)
    hub_server.requests.clear()
    with pytest.raises(ValueError, match=f"{REPO} exists and is public: nothing was uploaded"):
        publish(folder, REPO, private=True)
    assert uploads(hub_server) == []


def test_changed_code_of_the_same_version_is_refused(hub_api: HfApi, folder: Path) -> None:
    code = (folder / "vggt_rope.py").read_text()
    (folder / "vggt_rope.py").write_text(code + "# changed")
    with pytest.raises(
        ValueError, match=r"vggt_rope\.py is not this package's, though it says to be of the same version"
    ):
        publish(folder, REPO)
    version = folder / "version_spatial_mllm.py"
    version.write_text(version.read_text().replace(spatial_mllm_hf.__version__, "0.1.0+mine"))
    publish(folder, REPO)


def test_usage_of_the_card_runs_as_it_stands(hub: Hub, published: Path, room_clip: Path, tmp_path: Path) -> None:
    shutil.copy(room_clip, tmp_path / "kitchen.mp4")
    blocks = (published / "README.md").read_text().split("```python\n")[1:]
    program = "".join(block.split("```")[0] for block in blocks)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=hub.environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer, frames, by_hand = done.stdout.splitlines()[-3:]
    assert len(json.loads(frames)) == 16
    assert answer
    assert by_hand


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A complete folder of the test's own."""
    return shutil.copytree(published, tmp_path / "folder")


def test_results_and_data_sets_reach_the_metadata(
    hub_server: HubServer, hub_api: HfApi, folder: Path, tmp_path: Path
) -> None:
    metric = {"type": "accuracy", "value": 0.5, "name": "micro average"}
    result = {
        "task": {"type": "visual-question-answering"},
        "dataset": {"type": "nyu-visionx/VSI-Bench", "name": "VSI"},
    }
    (tmp_path / "results.json").write_text(json.dumps([{"name": "x", "results": [{**result, "metrics": [metric]}]}]))
    publish(folder, REPO, results=read_results(tmp_path / "results.json"), datasets=["some/data"])
    card = ModelCard(hub_server.files(REPO)["README.md"].decode())
    assert card.data.datasets == ["some/data"]
    assert [(entry.dataset_name, entry.metric_value) for entry in card.data.eval_results] == [("VSI", 0.5)]
    assert "| VSI | micro average | 0.5 |" in card.content
    (tmp_path / "results.json").write_text("[1]")
    with pytest.raises(ValueError, match="not in the form of a model-index"):
        read_results(tmp_path / "results.json")


def test_a_card_written_by_hand_is_kept(hub_server: HubServer, hub_api: HfApi, folder: Path) -> None:
    own = "---\nlicense: mit\n---\n# Mine\n"
    (folder / "README.md").write_text(own)
    publish(folder, REPO)
    assert hub_server.files(REPO)["README.md"].decode() == own
    (folder / "README.md").write_text("---\nlanguage: en\n---\n# No licence\n")
    with pytest.raises(ValueError, match="license"):
        publish(folder, REPO)
    (folder / "README.md").write_text(own)
    publish(folder, REPO, datasets=["some/data"])
    card = ModelCard(hub_server.files(REPO)["README.md"].decode())
    assert (card.data.datasets, card.data.license, card.text.strip()) == (["some/data"], "mit", "# Mine")
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(ValueError, match=r"README\.md: the metadata is not valid YAML"):
        publish(folder, REPO)


def test_branches_and_pull_requests_leave_main_alone(hub_server: HubServer, hub_api: HfApi, folder: Path) -> None:
    publish(folder, REPO)
    hub_api.create_tag(REPO, tag="v1")
    (folder / "generation_config.json").write_text('{"max_new_tokens": 7}')
    publish(folder, REPO, revision="dev")
    assert "discussions/" in publish(folder, REPO, create_pr=True)
    changed = (folder / "generation_config.json").read_bytes()
    assert hub_server.files(REPO, "dev")["generation_config.json"] == changed
    assert hub_server.files(REPO, "refs/pr/1")["generation_config.json"] == changed
    assert hub_server.files(REPO)["generation_config.json"] != changed
    publish(folder, REPO)
    assert hub_server.files(REPO)["generation_config.json"] == changed
    assert hub_server.files(REPO, "v1")["generation_config.json"] != changed


def test_a_wrong_token_is_explained(hub: Hub, published: Path) -> None:
    done = hub.command("push", str(published), "user/secret", HF_TOKEN="hf_wrong")
    assert done.returncode == 2
    assert "does not accept the token: see HF_TOKEN and `hf auth login`" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_hub_that_cannot_be_reached_is_said(hub: Hub) -> None:
    done = hub.command("inspect", REPO, HF_ENDPOINT="http://127.0.0.1:9")  # discard: nobody listens
    assert done.returncode == 2
    assert "the Hub cannot be reached" in done.stderr.splitlines()[-1]


def test_a_private_repository_is_seen_by_its_owner_alone(
    hub_server: HubServer, hub_api: HfApi, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(folder, REPO, private=True)
    assert inspect_checkpoint(REPO).missing == []
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(OSError, match="don't have the rights to write"):
        publish(folder, REPO)
    with pytest.raises(OSError, match="Repository Not Found"):
        inspect_checkpoint(REPO)


def test_inspect_reads_the_headers_of_a_repository_and_no_weights(hub: Hub, published: Path) -> None:
    hub.server.requests.clear()
    done = hub.command("inspect", REPO, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    weights = load_file(published / "model.safetensors")
    assert sum(part["parameters"] for part in facts["parts"].values()) == sum(t.numel() for t in weights.values())
    assert facts["missing"] == []
    read = sum(entry.bytes_sent for entry in hub.server.requests_for("GET", r"model\.safetensors"))
    assert 0 < read < (published / "model.safetensors").stat().st_size / 10


# --- what is cut ---


@pytest.fixture
def shards(folder: Path) -> list[Path]:
    """The weights of `folder` in several files."""
    model = spatial_mllm_hf.SpatialMLLMForConditionalGeneration.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="1MB")
    return sorted(folder.glob("*.safetensors"))


def test_a_cut_upload_goes_on(hub_server: HubServer, hub_api: HfApi, folder: Path, shards: list[Path]) -> None:
    hub_server.cut_upload(after_bytes=100_000)
    publish(folder, REPO)  # the client itself tries again
    assert len(hub_server.requests_for("PUT", ".")) == len(shards) + 1
    assert [hub_server.sha256(REPO, path.name) for path in shards] == [hashes(folder)[path.name] for path in shards]


def test_after_a_failed_upload_only_what_is_missing_is_sent(
    hub_server: HubServer, hub_api: HfApi, folder: Path, shards: list[Path]
) -> None:
    digests = [hashes(folder)[path.name] for path in shards]
    hub_server.fail("PUT", digests[1], 403)
    with pytest.raises(OSError, match="what has arrived is not sent again"):
        publish(folder, REPO)
    assert "config.json" not in hub_server.files(REPO)  # nothing is seen before everything is there
    arrived = [digest for digest in digests if any(digest in entry.path for entry in uploads(hub_server))]
    hub_server.requests.clear()
    publish(folder, REPO)
    sent = [digest for digest in digests if any(digest in entry.path for entry in uploads(hub_server))]
    assert digests[1] in sent
    assert sorted([*sent, *arrived]) == sorted(digests)
    assert [hub_server.sha256(REPO, path.name) for path in shards] == digests


def uploads(server: HubServer) -> list[Any]:
    return [entry for entry in server.requests_for("PUT", ".") if entry.status == 200]


def test_a_cut_download_goes_on_and_loses_nothing(
    hub_server: HubServer, hub_api: HfApi, folder: Path, tmp_path: Path
) -> None:
    publish(folder, REPO)
    hub_server.cut_download("model.safetensors", after_bytes=200_000)
    from_official(open_source(REPO), tmp_path / "out")
    assert len(hub_server.requests_for("GET", r"model\.safetensors")) == 2
    assert hashes(tmp_path / "out")["tokenizer.json"] == hashes(folder)["tokenizer.json"]
    got, sent = (load_file(place / "model.safetensors") for place in (tmp_path / "out", folder))
    assert got.keys() == sent.keys()
    assert all((got[name] == sent[name]).all() for name in sent)


def test_what_arrived_damaged_is_noticed(
    hub_api: HfApi, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model_card(folder, REPO)
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "chat_template.jinja").write_text("something else")
    upload = HfApi.upload_folder
    other = str(tmp_path / "other")
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **named: upload(self, **{**named, "folder_path": other}))
    with pytest.raises(OSError, match=r"not what was sent: chat_template\.jinja\. Publish again"):
        publish(folder, REPO)


# --- what is refused ---


def broken(folder: Path, out: Path, fault: str) -> Path:
    """A copy of a complete folder with one fault."""
    shutil.copytree(folder, out)
    weights = out / "model.safetensors"
    if fault == "a missing weight":
        kept = {name: tensor for name, tensor in load_file(weights).items() if name != "connector.ln_q.weight"}
        save_file(kept, weights, metadata={"format": "pt"})
    elif fault == "an unknown weight":
        save_file({**load_file(weights), "connector.extra": load_file(weights)["connector.ln_q.weight"]}, weights)
    elif fault == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "foreign code":
        config = json.loads((out / "config.json").read_text())
        config["auto_map"]["AutoModel"] = "evil.Model"
        (out / "config.json").write_text(json.dumps(config))
    else:
        (out / fault).unlink()
    return out


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("a missing weight", r"1 weights are missing, such as 'connector\.ln_q\.weight'"),
        ("an unknown weight", r"1 weights are unknown, such as 'connector\.extra'"),
        ("cut short", "damaged or cut short"),
        ("foreign code", "asks for code of its own"),
        ("tokenizer.json", "lacks tokenizer"),
        ("processor_config.json", "lacks processor settings"),
        ("chat_template.jinja", "lacks chat template"),
        ("generation_config.json", "lacks generation settings"),
        ("pipeline_spatial_mllm.py", r"lacks code \(pipeline_spatial_mllm\.py\)"),
        ("vggt_rope.py", r"lacks code \(vggt_rope\.py\)"),
    ],
)
def test_an_incomplete_folder_is_refused_before_anything_is_sent(
    hub_server: HubServer, hub_api: HfApi, published: Path, tmp_path: Path, fault: str, message: str
) -> None:
    folder = broken(published, tmp_path / "broken", fault)
    with pytest.raises(ValueError, match=message):
        publish(folder, "user/refused")
    assert hub_server.requests == []
