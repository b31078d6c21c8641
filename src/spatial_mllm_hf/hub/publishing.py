"""Publishing: a complete, checked folder becomes a Hub repository.

Nothing is uploaded before the folder is known to be whole: its weights are those that its configuration asks for, and
its code and settings are there. An upload that was cut goes on where it stopped: what has arrived is not sent again.
"""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, HfApi

from ..conversion.checkpoint_reading import (
    INDEX_FILE,
    SETTINGS_FILES,
    SINGLE_FILE,
    Checkpoint,
    read_json,
    weight_files,
)
from ..conversion.companions import (
    OLD_TEMPLATE_FILE,
    PROCESSOR_FILE,
    REPORT_FILE,
    TEMPLATE_FILE,
    TOKENIZER_FILES,
    is_own_file,
)
from ..conversion.inspection import inspect_checkpoint
from ..conversion.public_formats import plan_from_official
from ..modeling.remote_code_spatial_mllm import AUTO_MAP, CUSTOM_PIPELINES, collect_code, find_in_package
from ..modeling.version_spatial_mllm import __file__ as version_file
from .model_card import CARD, add_to_card, is_untouched, stated_card, write_model_card

# Weights of an earlier push would be preferred to, or lie beside, those of this one.
REPLACED_FILES = ["model*.safetensors", INDEX_FILE]
OTHER_FILES = (*SETTINGS_FILES, *TOKENIZER_FILES, TEMPLATE_FILE, OLD_TEMPLATE_FILE, REPORT_FILE, CARD)


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
    if stated_card(folder) is None or is_untouched(folder):
        write_model_card(folder, repo_id, results, datasets)
    else:
        add_to_card(folder, results, datasets)
    files = published_files(folder)
    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    if private and not api.repo_info(repo_id).private:
        raise ValueError(f"{repo_id} exists and is public: nothing was uploaded. Make it private on the Hub first.")
    if revision is not None and not create_pr:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    try:
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            create_pr=create_pr,
            allow_patterns=files,
            delete_patterns=REPLACED_FILES,
            commit_message=commit_message or "Upload Spatial-MLLM",
        )
    except RuntimeError as error:  # what the client raises for a file that did not arrive
        raise OSError(f"{error} ({error.__cause__}) Publish again: what has arrived is not sent again.") from error
    _verify_upload(api, repo_id, commit.oid, folder, files)
    return commit.pr_url or commit.commit_url


def published_files(folder: Path) -> list[str]:
    """Names of a checkpoint's own files, and nothing else that may lie beside them.

    Raises:
        ValueError: if one of them is a link to somewhere else.
    """
    wanted = [path.name for path in weight_files(folder)] + [path.name for path in collect_code(folder.joinpath)]
    wanted += [name for name in (*OTHER_FILES, INDEX_FILE) if (folder / name).exists()]
    wanted += [path.name for path in (*folder.glob("LICENSE*"), *folder.glob("NOTICE*")) if path.is_file()]
    linked = [name for name in wanted if not is_own_file(folder / name)]
    if linked:
        raise ValueError(
            f"{folder}: {linked[0]} is a link to {(folder / linked[0]).resolve()}; put the file itself there."
        )
    return sorted(set(wanted) - ({INDEX_FILE} if (folder / SINGLE_FILE).exists() else set()))


def check_folder(folder: Path, but_for_card: bool = False) -> None:
    """Makes sure that a folder is complete, loads strictly and asks for no code but this package's.

    Raises:
        ValueError: with everything that is missing.
    """
    checkpoint = Checkpoint(folder)
    plan_from_official(checkpoint)  # strict: every weight has its place and its shape, none is missing
    missing = inspect_checkpoint(folder).missing
    try:
        _check_code(folder)
    except FileNotFoundError as error:
        missing.append(f"code ({Path(error.filename).name})")
    if but_for_card:
        missing = [what for what in missing if "model card" not in what]
    if checkpoint.config.get("auto_map") != AUTO_MAP or checkpoint.config.get("custom_pipelines") != CUSTOM_PIPELINES:
        missing.append("auto_map and custom_pipelines of this package in config.json")
    settings = read_json(folder / PROCESSOR_FILE) if (folder / PROCESSOR_FILE).exists() else {}
    if "auto_map" not in settings.get("video_processor", {}):
        missing.append(f"auto_map of this package in {PROCESSOR_FILE}")
    if missing:
        raise ValueError(
            f"{folder} is not complete and is not published: it lacks {'; '.join(dict.fromkeys(missing))}. "
            "`spatial-mllm convert from-official` makes a complete folder, and so do save_pretrained of model and "
            "processor together."
        )


def _check_code(folder: Path) -> None:
    """Code that says it is of the installed version has to be it, file by file."""
    own = {path.name: path.read_bytes() for path in collect_code(find_in_package)}
    files = {path.name: path.read_bytes() for path in collect_code(folder.joinpath)}
    version = Path(version_file).name
    changed = [name for name, content in files.items() if content != own.get(name)]
    if changed and files.get(version) == own[version]:
        raise ValueError(
            f"{folder}: {changed[0]} is not this package's, though it says to be of the same version. Save model and "
            "processor again, or give changed code a version of its own."
        )


def _verify_upload(api: HfApi, repo_id: str, revision: str, folder: Path, files: Sequence[str]) -> None:
    """Compares the repository's hashes with the files', and looks for weights that do not belong to it.

    Raises:
        OSError: if a file on the Hub is not the one in the folder.
    """
    verified = api.verify_repo_checksums(repo_id, revision=revision, local_dir=folder)
    strays = [path for path in verified.missing_paths if path.endswith(".safetensors") and "/" not in path]
    lost = sorted(set(files) & set(verified.extra_paths))
    if strays or lost:
        raise OSError(f"{repo_id}: the Hub has other files than were sent: {', '.join([*strays, *lost])}.")
    if verified.mismatches:
        names = ", ".join(sorted(entry["path"] for entry in verified.mismatches))
        raise OSError(f"{repo_id}: what arrived on the Hub is not what was sent: {names}. Publish again.")
