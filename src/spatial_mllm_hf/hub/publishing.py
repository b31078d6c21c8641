"""Publishing: a complete, checked folder becomes a Hub repository.

Nothing is uploaded before the folder is known to be whole: its weights are those that its configuration asks for, and
its code and settings are there. An upload that was cut goes on where it stopped: what has arrived is not sent again.
"""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, HfApi

from ..conversion.checkpoint_reading import Checkpoint, read_json, refuse_foreign_code
from ..conversion.companions import PROCESSOR_FILE
from ..conversion.inspection import inspect_checkpoint
from ..conversion.public_formats import plan_from_official
from ..modeling.remote_code_spatial_mllm import AUTO_MAP, CUSTOM_PIPELINES, collect_code
from .model_card import is_untouched, stated_card, write_model_card

# Nothing but a checkpoint's files: no caches, no training state, no pickles.
PUBLISHED_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.py", "*.md", "*.model", "LICENSE*", "NOTICE*"]
NEVER_PUBLISHED = ["**/.*", ".*", "checkpoint-*/**", "training_args*", "trainer_state*", "optimizer*", "rng_state*"]


def publish(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    results: Sequence[EvalResult] = (),
    datasets: Sequence[str] = (),
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Checks a folder and uploads it. Calling again after an interruption sends only what is missing.

    Args:
        folder: a complete checkpoint of this package.
        repo_id: `name/repository`; made if need be.
        private: of a new repository.
        revision: branch to commit to, made if need be.
        create_pr: open a pull request instead of committing.
        results: evaluation results for the model card.
        datasets: data sets it was trained on, for the model card.
        commit_message: of the commit.
        token: of the Hub; the one logged in with by default.

    Returns:
        The address of the commit or pull request.

    Raises:
        ValueError: if the folder is incomplete, its weights do not load strictly, or the card is not valid.
        OSError: if the Hub refuses or cannot be reached.
    """
    folder = Path(folder)
    check_folder(folder, but_for_card=True)
    if stated_card(folder) is None or is_untouched(folder) or results or datasets:
        write_model_card(folder, repo_id, results, datasets)
    card = stated_card(folder)
    assert card is not None
    api = HfApi(token=token)
    card.validate()
    api.create_repo(repo_id, private=private, exist_ok=True)
    if revision is not None and not create_pr:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    try:
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            create_pr=create_pr,
            allow_patterns=PUBLISHED_FILES,
            ignore_patterns=NEVER_PUBLISHED,
            commit_message=commit_message or "Upload Spatial-MLLM",
        )
    except RuntimeError as error:  # what the client raises for a file that did not arrive
        raise OSError(f"{error} ({error.__cause__}) Publish again: what has arrived is not sent again.") from error
    _verify_upload(api, repo_id, commit.oid, folder)
    return commit.pr_url or commit.commit_url


def check_folder(folder: Path, but_for_card: bool = False) -> None:
    """Makes sure that a folder is complete, loads strictly and asks for no code but this package's.

    Raises:
        ValueError: with everything that is missing.
    """
    checkpoint = Checkpoint(folder)
    plan_from_official(checkpoint)  # strict: every weight has its place and its shape, none is missing
    missing = inspect_checkpoint(folder).missing
    try:
        collect_code(folder.joinpath)
    except FileNotFoundError as error:
        missing.append(f"code ({Path(error.filename).name})")
    if but_for_card:
        missing = [what for what in missing if "model card" not in what]
    if checkpoint.config.get("auto_map") != AUTO_MAP or checkpoint.config.get("custom_pipelines") != CUSTOM_PIPELINES:
        missing.append("auto_map and custom_pipelines of this package in config.json")
    settings = read_json(folder / PROCESSOR_FILE) if (folder / PROCESSOR_FILE).exists() else {}
    refuse_foreign_code(settings, folder / PROCESSOR_FILE)
    if "auto_map" not in settings.get("video_processor", {}):
        missing.append(f"auto_map of this package in {PROCESSOR_FILE}")
    if missing:
        raise ValueError(
            f"{folder} is not complete and is not published: it lacks {'; '.join(dict.fromkeys(missing))}. "
            "`spatial-mllm convert from-official` makes a complete folder, and so do save_pretrained of model and "
            "processor together."
        )


def _verify_upload(api: HfApi, repo_id: str, revision: str, folder: Path) -> None:
    """Compares the repository's hashes with the files'.

    Raises:
        OSError: if a file on the Hub is not the one in the folder.
    """
    verified = api.verify_repo_checksums(repo_id, revision=revision, local_dir=folder)
    if verified.mismatches:
        names = ", ".join(sorted(entry["path"] for entry in verified.mismatches))
        raise OSError(f"{repo_id}: what arrived on the Hub is not what was sent: {names}. Publish again.")
