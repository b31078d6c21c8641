"""The stand-in of the Hub, proven with the real client: what tests of publishing rely on holds for the Hub itself."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer, run_python
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    __version__,
    get_session,
    hf_hub_url,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.numpy import save_file

REPO = "user/model"
CARD = "---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: fill-mask\ntags: [tiny]\n---\n# A model\n"
WEIGHTS = "model.safetensors"
MEBIBYTE = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two regular files, one of them in a folder, and two that go through LFS."""
    root = tmp_path / "upload"
    (root / "sub").mkdir(parents=True)
    (root / "README.md").write_text(CARD)
    (root / "sub" / "config.json").write_text('{"answer": 42}')
    save_file({"weight": np.arange(MEBIBYTE, dtype=np.float32)}, root / WEIGHTS)
    (root / "frames.npy").write_bytes(b"frames" * 1000)
    return root


@pytest.fixture
def uploaded(hub_api: HfApi, hub_server: HubServer, folder: Path) -> Path:
    """The folder, after it was uploaded to REPO; the log starts afterwards."""
    hub_api.create_repo(REPO)
    hub_api.upload_folder(repo_id=REPO, folder_path=folder)
    hub_server.requests.clear()
    return folder


def read_folder(root: Path) -> dict[str, bytes]:
    paths = [path for path in root.rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def weights_size(folder: Path) -> int:
    return (folder / WEIGHTS).stat().st_size


def test_a_folder_comes_back_as_it_went(uploaded: Path, hub_api: HfApi, hub_server: HubServer, tmp_path: Path) -> None:
    local = tmp_path / "download"
    hub_api.snapshot_download(REPO, local_dir=local)
    assert read_folder(local) == hub_server.files(REPO)
    assert {**read_folder(uploaded), ".gitattributes": hub_server.files(REPO)[".gitattributes"]} == read_folder(local)
    assert hub_server.sha256(REPO, WEIGHTS) == hashlib.sha256((uploaded / WEIGHTS).read_bytes()).hexdigest()
    verified = hub_api.verify_repo_checksums(REPO, local_dir=local)
    assert verified.checked_count == 5
    assert not verified.mismatches
    (local / WEIGHTS).write_bytes(b"other")
    assert [mismatch["path"] for mismatch in hub_api.verify_repo_checksums(REPO, local_dir=local).mismatches] == [
        WEIGHTS
    ]


def test_files_that_are_there_are_not_sent_again(uploaded: Path, hub_api: HfApi, hub_server: HubServer) -> None:
    before = hub_server.repository(REPO).resolve("main").oid
    assert hub_api.upload_folder(repo_id=REPO, folder_path=uploaded).oid == before
    assert not hub_server.requests_for("PUT")
    assert not hub_server.requests_for("POST", "/commit/")
    hub_api.upload_file(repo_id=REPO, path_or_fileobj=uploaded / WEIGHTS, path_in_repo="copy.safetensors")
    assert not hub_server.requests_for("PUT"), "a known object under a new name is committed without an upload"
    assert hub_server.sha256(REPO, "copy.safetensors") == hub_server.sha256(REPO, WEIGHTS)


def test_listing_and_information(uploaded: Path, hub_api: HfApi, hub_server: HubServer) -> None:
    info = hub_api.model_info(REPO, files_metadata=True)
    assert (info.pipeline_tag, info.library_name, info.private) == ("fill-mask", "transformers", False)
    assert {"tiny", "license:apache-2.0", "transformers"} <= set(info.tags)
    assert info.sha == hub_server.repository(REPO).resolve("main").oid
    lfs = {sibling.rfilename: sibling.lfs.sha256 for sibling in info.siblings if sibling.lfs}
    assert lfs == {name: hub_server.sha256(REPO, name) for name in (WEIGHTS, "frames.npy")}

    top = {entry.path for entry in hub_api.list_repo_tree(REPO)}
    assert top == {".gitattributes", "README.md", "frames.npy", WEIGHTS, "sub"}
    assert [entry.path for entry in hub_api.list_repo_tree(REPO, "sub", recursive=True)] == ["sub/config.json"]
    with pytest.raises(EntryNotFoundError):
        list(hub_api.list_repo_tree(REPO, "absent"))
    found = hub_api.get_paths_info(REPO, [WEIGHTS, "sub", "absent"])
    assert {entry.path for entry in found} == {WEIGHTS, "sub"}
    assert hub_api.file_exists(REPO, "sub/config.json")
    assert not hub_api.file_exists(REPO, "sub/absent.json")
    assert not hub_api.repo_exists("user/absent")
    assert hub_api.whoami()["name"] == "user"


def test_branches_and_tags(uploaded: Path, hub_api: HfApi, hub_server: HubServer) -> None:
    hub_api.create_tag(REPO, tag="v1")
    hub_api.create_branch(REPO, branch="try/one")
    with pytest.raises(HfHubHTTPError, match="already exists"):
        hub_api.create_branch(REPO, branch="try/one")
    hub_api.create_branch(REPO, branch="try/one", exist_ok=True)
    hub_api.upload_file(repo_id=REPO, path_or_fileobj=b"new", path_in_repo="sub/new.txt", revision="try/one")
    assert hub_server.files(REPO, "try/one")["sub/new.txt"] == b"new"
    assert "sub/new.txt" not in hub_server.files(REPO)
    assert Path(hub_api.hf_hub_download(REPO, "sub/new.txt", revision="try/one")).read_bytes() == b"new"
    refs = hub_api.list_repo_refs(REPO)
    assert {branch.name for branch in refs.branches} == {"main", "try/one"}
    assert [tag.target_commit for tag in refs.tags] == [hub_server.repository(REPO).resolve("main").oid]
    hub_api.delete_branch(REPO, branch="try/one")
    hub_api.delete_tag(REPO, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        hub_api.model_info(REPO, revision="try/one")


def test_one_commit_adds_and_deletes(uploaded: Path, hub_api: HfApi, hub_server: HubServer) -> None:
    head = hub_server.repository(REPO).resolve("main").oid
    operations = [
        CommitOperationAdd("new.txt", b"new"),
        CommitOperationDelete("frames.npy"),
        CommitOperationDelete("sub/", is_folder=True),
    ]
    hub_api.create_commit(REPO, operations, commit_message="Tidy", parent_commit=head)
    assert set(hub_server.files(REPO)) == {".gitattributes", "README.md", WEIGHTS, "new.txt"}
    titles = [commit.title for commit in hub_api.list_repo_commits(REPO)]
    assert titles == ["Tidy", "Upload folder using huggingface_hub", "initial commit"]
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        hub_api.create_commit(REPO, [CommitOperationDelete("new.txt")], commit_message="Late", parent_commit=head)
    with pytest.raises(EntryNotFoundError):
        hub_api.create_commit(REPO, [CommitOperationDelete("absent.txt")], commit_message="Wrong")
    assert "new.txt" in hub_server.files(REPO)


def test_a_pull_request_leaves_main_alone_until_it_is_merged(
    uploaded: Path, hub_api: HfApi, hub_server: HubServer
) -> None:
    before = hub_server.files(REPO)
    (uploaded / "frames.npy").write_bytes(b"changed")
    visitor = HfApi(endpoint=hub_server.endpoint, token="hf_other")
    done = visitor.upload_folder(repo_id=REPO, folder_path=uploaded, create_pr=True, commit_message="Better frames")
    assert (done.pr_num, done.pr_revision) == (1, "refs/pr/1")
    assert hub_server.files(REPO) == before
    assert hub_server.files(REPO, "refs/pr/1") == {**before, "frames.npy": b"changed"}
    downloaded = hub_api.hf_hub_download(REPO, "frames.npy", revision="refs/pr/1")
    assert Path(downloaded).read_bytes() == b"changed"
    details = hub_api.get_discussion_details(REPO, 1)
    assert (details.title, details.author, details.status) == ("Better frames", "other", "open")
    with pytest.raises(HfHubHTTPError, match="403"):
        visitor.merge_pull_request(REPO, 1)
    hub_api.merge_pull_request(REPO, 1)
    assert hub_server.files(REPO)["frames.npy"] == b"changed"
    assert [discussion.status for discussion in hub_api.get_repo_discussions(REPO)] == ["merged"]


def test_pull_requests_that_contradict_main_are_not_merged(uploaded: Path, hub_api: HfApi) -> None:
    def put(content: bytes, create_pr: bool) -> None:
        hub_api.upload_file(repo_id=REPO, path_or_fileobj=content, path_in_repo="note.txt", create_pr=create_pr)

    put(b"proposed", create_pr=True)
    put(b"decided", create_pr=False)
    assert hub_api.get_discussion_details(REPO, 1).conflicting_files == ["note.txt"]
    with pytest.raises(HfHubHTTPError, match="conflicts"):
        hub_api.merge_pull_request(REPO, 1)


def test_a_private_repository_shows_itself_to_its_owner_alone(hub_api: HfApi, hub_server: HubServer) -> None:
    hub_api.create_repo(REPO, private=True)
    assert hub_api.model_info(REPO).private
    for token, message in (("hf_other", "404"), (False, "401")):
        with pytest.raises(RepositoryNotFoundError, match=message):
            HfApi(endpoint=hub_server.endpoint, token=token).model_info(REPO)
    invalid = HfApi(endpoint=hub_server.endpoint, token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header") as caught:
        invalid.model_info(REPO)
    assert caught.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        invalid.whoami()


def test_writing_needs_a_right(uploaded: Path, hub_api: HfApi, hub_server: HubServer) -> None:
    visitor = HfApi(endpoint=hub_server.endpoint, token="hf_other")
    before = hub_server.files(REPO)
    for write in (
        lambda: visitor.upload_file(repo_id=REPO, path_or_fileobj=b"mine", path_in_repo="mine.txt"),
        lambda: visitor.create_tag(REPO, tag="mine"),
        lambda: visitor.create_repo("user/another"),
        lambda: visitor.delete_repo(REPO),
    ):
        with pytest.raises(HfHubHTTPError, match="don't have the rights") as caught:
            write()
        assert caught.value.response.status_code == 403
    nobody = HfApi(endpoint=hub_server.endpoint, token=False)
    with pytest.raises(HfHubHTTPError, match="401"):
        nobody.create_repo("user/another")
    with pytest.raises(HfHubHTTPError, match="401"):
        nobody.create_commit(REPO, [CommitOperationAdd("mine.txt", b"mine")], commit_message="Mine")
    assert hub_server.files(REPO) == before
    assert list(hub_server.state.repositories) == [REPO]


def test_a_repository_is_created_once(hub_api: HfApi, hub_server: HubServer) -> None:
    assert hub_api.create_repo(REPO).repo_id == REPO
    with pytest.raises(HfHubHTTPError, match="already created") as caught:
        hub_api.create_repo(REPO)
    assert caught.value.response.status_code == 409
    assert hub_api.create_repo(REPO, exist_ok=True).repo_id == REPO
    hub_api.delete_repo(REPO)
    assert not hub_server.state.repositories


def test_an_upload_that_is_cut_is_sent_again_within_the_call(
    hub_api: HfApi, hub_server: HubServer, folder: Path
) -> None:
    hub_api.create_repo(REPO)
    (folder / "frames.npy").unlink()
    hub_server.cut_upload(after_bytes=MEBIBYTE)
    hub_api.upload_folder(repo_id=REPO, folder_path=folder)
    cut, whole = hub_server.requests_for("PUT")
    assert cut.status == 0
    assert MEBIBYTE <= cut.bytes_received < weights_size(folder)
    assert (whole.status, whole.bytes_received) == (200, weights_size(folder))
    assert hub_server.files(REPO)[WEIGHTS] == (folder / WEIGHTS).read_bytes()


def test_after_a_failed_upload_only_what_is_missing_is_sent(
    hub_api: HfApi, hub_server: HubServer, folder: Path
) -> None:
    hub_api.create_repo(REPO)
    refused = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    hub_server.fail("PUT", refused, status=403)
    with pytest.raises(RuntimeError, match=WEIGHTS):
        hub_api.upload_folder(repo_id=REPO, folder_path=folder)
    assert set(hub_server.files(REPO)) == {".gitattributes"}, "nothing is committed"
    assert {request.status for request in hub_server.requests_for("PUT")} == {200, 403}
    hub_server.requests.clear()
    hub_api.upload_folder(repo_id=REPO, folder_path=folder)
    assert [request.path.rsplit("/")[-1] for request in hub_server.requests_for("PUT")] == [refused]
    assert set(hub_server.files(REPO)) == {".gitattributes", *read_folder(folder)}


def test_an_object_that_is_not_what_it_says_is_refused(hub_api: HfApi, hub_server: HubServer) -> None:
    hub_api.create_repo(REPO)
    operation = CommitOperationAdd("frames.npy", b"frames")
    operation.path_or_fileobj = b"others"
    with pytest.raises(RuntimeError, match=r"frames\.npy") as caught:
        hub_api.create_commit(REPO, [operation], commit_message="Wrong")
    assert "SHA-256" in str(caught.value.__cause__)
    assert set(hub_server.files(REPO)) == {".gitattributes"}


@pytest.mark.parametrize("kept", [3, 11], ids=["less than a chunk", "more than a chunk"])
def test_a_download_that_is_cut_is_taken_up_again(
    kept: int, hub_api: HfApi, hub_server: HubServer, tmp_path: Path
) -> None:
    content = np.random.default_rng(0).bytes(12 * MEBIBYTE)
    hub_api.create_repo(REPO)
    hub_api.upload_file(repo_id=REPO, path_or_fileobj=content, path_in_repo="large.bin")
    hub_server.cut_download("large.bin", after_bytes=kept * MEBIBYTE)
    assert Path(hub_api.hf_hub_download(REPO, "large.bin")).read_bytes() == content
    first, second = hub_server.requests_for("GET", r"large\.bin")
    assert (first.status, first.bytes_sent) == (200, kept * MEBIBYTE)
    # The client writes in chunks of 10 MiB and asks for what comes after the last that it wrote.
    written = kept // 10 * 10 * MEBIBYTE
    assert second.range == (f"bytes={written}-" if written else None)
    assert (second.status, second.bytes_sent) == (206 if written else 200, len(content) - written)


def test_after_a_failed_download_only_what_is_missing_is_fetched(
    uploaded: Path, hub_api: HfApi, hub_server: HubServer
) -> None:
    hub_server.fail("GET", WEIGHTS, status=403)
    with pytest.raises(HfHubHTTPError, match="403"):
        hub_api.snapshot_download(REPO, max_workers=1)
    assert len(hub_server.requests_for("GET", "/resolve/.*npy")) == 1
    hub_server.requests.clear()
    path = hub_api.snapshot_download(REPO, max_workers=1)
    assert read_folder(Path(path)) == hub_server.files(REPO)
    assert WEIGHTS in {request.path.rsplit("/")[-1] for request in hub_server.requests_for("GET", "/resolve/")}
    assert not hub_server.requests_for("GET", "/resolve/.*npy")


def test_metadata_of_weights_needs_only_their_header(uploaded: Path, hub_api: HfApi, hub_server: HubServer) -> None:
    metadata = hub_api.get_safetensors_metadata(REPO)
    assert metadata.files_metadata[WEIGHTS].tensors["weight"].shape == [MEBIBYTE]
    (request,) = hub_server.requests_for("GET", WEIGHTS)
    assert (request.status, request.range) == (206, "bytes=0-100000")
    assert request.bytes_sent == 100_001 < weights_size(uploaded)


def test_ranges(uploaded: Path, hub_api: HfApi, hub_server: HubServer) -> None:
    content, url = (uploaded / "frames.npy").read_bytes(), hf_hub_url(REPO, "frames.npy")
    for given, expected in {"5-9": content[5:10], "5990-": content[5990:], "-7": content[-7:]}.items():
        response = get_session().get(url, headers={"Range": f"bytes={given}"})
        assert (response.status_code, response.content) == (206, expected)
        assert response.headers["Content-Range"].endswith("/6000")
    assert get_session().get(url, headers={"Range": "bytes=6000-"}).status_code == 416


def test_model_cards_are_validated(hub_api: HfApi, hub_server: HubServer) -> None:
    hub_api.create_repo(REPO)
    hub_api.upload_file(repo_id=REPO, path_or_fileobj=CARD.encode(), path_in_repo="README.md")
    for content, message in {
        "# No front matter\n": "empty or missing yaml metadata",
        CARD.replace("apache-2.0", "Apache 2"): "license",
        CARD.replace("license: apache-2.0\n", ""): "license",
        CARD.replace("[tiny]", "[tiny"): "YAML",
        CARD.replace("[tiny]", "[1]"): "tags",
        CARD.replace("tags:", "model-index: [{name: m, results: [{task: {}}]}]\ntags:"): "metrics",
    }.items():
        with pytest.raises(ValueError, match=message):
            hub_api.upload_file(repo_id=REPO, path_or_fileobj=content.encode(), path_in_repo="README.md")
    assert hub_server.files(REPO)["README.md"] == CARD.encode()
    hub_server.state.strict_cards = False
    with pytest.warns(UserWarning, match="missing yaml metadata"):
        hub_api.upload_file(repo_id=REPO, path_or_fileobj=b"# None\n", path_in_repo="README.md")


@pytest.mark.skipif(tuple(map(int, __version__.split(".")[:2])) < (2, 4), reason="1.31 asks huggingface.co, always")
def test_a_card_validates_itself(hub_api: HfApi) -> None:
    ModelCard(CARD).validate()
    with pytest.raises(ValueError, match="license"):
        ModelCard(CARD.replace("apache-2.0", "Apache 2")).validate()


TRANSFORMERS_PROGRAM = """
import json, sys
import torch
from transformers import AutoModel, BertConfig, BertModel
from transformers.pipelines import get_task

repo, = sys.argv[1:]
config = BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
model = BertModel(config).eval()
model.push_to_hub(repo)
loaded = AutoModel.from_pretrained(repo)
ids = torch.arange(8)[None]
same = torch.equal(model(ids).last_hidden_state, loaded(ids).last_hidden_state)
print(json.dumps({"same": same, "class": type(loaded).__name__, "task": get_task(repo)}))
"""


def test_transformers_pushes_loads_and_infers_the_task(
    hub_server: HubServer, hub_environment: dict[str, str], hub_api: HfApi, tmp_path: Path
) -> None:
    hub_api.create_repo(REPO)
    hub_api.upload_file(repo_id=REPO, path_or_fileobj=CARD.encode(), path_in_repo="README.md")
    done = run_python(TRANSFORMERS_PROGRAM, REPO, env=hub_environment, cwd=tmp_path)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer == {"same": True, "class": "BertModel", "task": "fill-mask"}
    assert set(hub_server.files(REPO)) == {".gitattributes", "README.md", "config.json", WEIGHTS}
    assert b"A model" in hub_server.files(REPO)["README.md"]
