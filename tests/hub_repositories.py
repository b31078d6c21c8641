"""What the stand-in of `hub_server.py` keeps: repositories of commits, whose files are git blobs or LFS objects.

All of it is plain state in memory, without HTTP. Names, object ids and the JSON of an answer are those of the real Hub,
as far as `huggingface_hub` reads them.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from typing import Any

import yaml

DATE = "2026-01-01T00:00:00.000Z"
LARGEST_REGULAR_FILE = 10_000_000
LFS_SUFFIXES = ("safetensors", "bin", "pt", "pth", "ckpt", "npz", "npy", "mp4", "zip", "tar", "gz", "pkl", "h5", "onnx")
GIT_ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
LICENSE = re.compile(
    r"apache-2\.0|mit|bsd-[23]-clause|gpl-2\.0|[al]?gpl-3\.0|mpl-2\.0|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.0|"
    r"((bigscience|creativeml)-)?openrail(-m)?|llama[23](\.[123])?|gemma|unknown|other"
)


class HubError(Exception):
    """An answer that is not a success; of `code`, the header X-Error-Code, the client makes a class."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


@dataclass(frozen=True)
class StoredFile:
    content: bytes
    is_lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git itself holds in place of an LFS object."""
        lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {len(self.content)}")
        return "".join(f"{line}\n" for line in lines).encode()

    @cached_property
    def oid(self) -> str:
        """The git blob's id."""
        blob = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    def describe(self, path: str) -> dict[str, Any]:
        """An entry of the endpoints `tree` and `paths-info`."""
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.is_lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return entry


Files = dict[str, StoredFile]


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    author: str
    files: Files


@dataclass
class PullRequest:
    number: int
    title: str
    author: str
    base: Commit
    status: str = "open"
    merge_commit: str | None = None

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.number}"


@dataclass
class Repository:
    """One model repository. `refs` maps full names (refs/heads/main, refs/tags/v1, refs/pr/1) to ids of commits."""

    name: str
    private: bool
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    pull_requests: dict[int, PullRequest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        attributes = {".gitattributes": StoredFile(GIT_ATTRIBUTES, is_lfs=False)}
        self.write("refs/heads/main", None, "initial commit", self.owner, attributes)

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    def resolve(self, revision: str) -> Commit:
        """A branch, tag, full ref or (abbreviated) commit id."""
        for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        found = (
            [oid for oid in self.commits if oid.startswith(revision)]
            if re.fullmatch("[0-9a-f]{7,40}", revision)
            else []
        )
        if len(found) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[found[0]]

    def write(self, ref: str, parent: Commit | None, title: str, author: str, files: Files) -> Commit:
        parent_oid = parent.oid if parent else None
        tree = sorted((path, file.oid) for path, file in files.items())
        identity = json.dumps([self.name, len(self.commits), parent_oid, title, tree])
        commit = Commit(hashlib.sha1(identity.encode()).hexdigest(), parent_oid, title, author, files)
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit

    def commit(self, revision: str, lines: list[dict[str, Any]], author: str, create_pr: bool) -> tuple[Commit, str]:
        """Applies the lines of a `commit` request; returns the commit and the ref that it went to."""
        header, *operations = lines
        head = self.resolve(revision)
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        if ref not in self.refs or ref.startswith("refs/tags/"):
            raise HubError(404, f"{revision} is not a branch", "RevisionNotFound")
        expected = header["value"].get("parentCommit", "")
        if create_pr and expected:
            head = self.resolve(expected)
        elif not head.oid.startswith(expected):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for operation in operations:
            self._apply(operation["key"], operation["value"], files)
        title = header["value"]["summary"]
        if create_pr:
            request = PullRequest(len(self.pull_requests) + 1, title, author, base=head)
            self.pull_requests[request.number] = request
            ref = request.ref
        return self.write(ref, head, title, author, files), ref

    def _apply(self, key: str, value: dict[str, Any], files: Files) -> None:
        path = value["path"]
        if key == "file":
            content = base64.b64decode(value["content"])
            if path == "README.md" and (errors := check_card(content.decode(), strict=False)[0]):
                raise HubError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
            files[path] = StoredFile(content, is_lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in self.objects:
                raise HubError(400, f"LFS pointer of {path} points to an object that was not uploaded: {value['oid']}")
            files[path] = StoredFile(self.objects[value["oid"]], is_lfs=True)
        else:
            inside = path.rstrip("/") + "/"
            gone = [name for name in files if (name.startswith(inside) if key == "deletedFolder" else name == path)]
            if not gone:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]

    def merge(self, number: int, author: str) -> None:
        """Takes what a pull request changed over to main; refused where main changed the same files."""
        request, main = self.pull_requests[number], self.resolve("main")
        if conflicts := self.conflicts(number):
            raise HubError(409, f"This pull request has conflicts: {', '.join(conflicts)}")
        wanted, base = self.resolve(request.ref).files, request.base.files
        changed = {path for path in wanted.keys() | base.keys() if wanted.get(path) != base.get(path)}
        files = {path: file for path, file in main.files.items() if path not in changed}
        files |= {path: wanted[path] for path in changed if path in wanted}
        merged = self.write("refs/heads/main", main, f"{request.title} (#{number})", author, files)
        request.status, request.merge_commit = "merged", merged.oid

    def conflicts(self, number: int) -> list[str]:
        request = self.pull_requests[number]
        base, wanted, main = request.base.files, self.resolve(request.ref).files, self.resolve("main").files
        sides = wanted.keys() | main.keys()
        return sorted(p for p in sides if base.get(p) != wanted.get(p) != main.get(p) != base.get(p))

    def tree(self, commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """Files and folders below a folder, as the endpoint `tree` lists them."""
        prefix = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, file in sorted(commit.files.items()):
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                name = prefix + "/".join(parts[:depth])
                found[name] = {
                    "type": "directory",
                    "path": name,
                    "size": 0,
                    "oid": hashlib.sha1(name.encode()).hexdigest(),
                }
            if recursive or len(parts) == 1:
                found[path] = file.describe(path)
        if folder and not found:
            raise HubError(404, f"{folder} does not exist on this revision", "EntryNotFound")
        return list(found.values())

    def wants_lfs(self, commit: Commit, path: str, size: int) -> bool:
        attributes = commit.files[".gitattributes"].content.decode() if ".gitattributes" in commit.files else ""
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        return size > LARGEST_REGULAR_FILE or any(fnmatch(path.rsplit("/")[-1], pattern) for pattern in patterns)

    def describe(self, commit: Commit) -> dict[str, Any]:
        """The JSON of `model_info`. Task, library and tags are those of the card's front matter."""
        readme = commit.files.get("README.md")
        card = read_front_matter(readme.content.decode()) or {} if readme else {}
        siblings = []
        for path, file in sorted(commit.files.items()):
            sibling = {"rfilename": path, "size": len(file.content), "blobId": file.oid}
            if file.is_lfs:
                sibling["lfs"] = {"sha256": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
            siblings.append(sibling)
        derived = [card.get("library_name"), f"license:{card['license']}" if "license" in card else None]
        return {
            "id": self.name, "modelId": self.name, "author": self.owner, "sha": commit.oid, "private": self.private,
            "gated": False, "disabled": False, "downloads": 0, "likes": 0, "createdAt": DATE, "lastModified": DATE,
            "pipeline_tag": card.get("pipeline_tag"), "library_name": card.get("library_name"), "cardData": card,
            "tags": [*filter(None, derived), *(card.get("tags") or [])], "siblings": siblings,
        }  # fmt: skip


def read_front_matter(content: str) -> dict[str, Any] | None:
    """The YAML between the lines of dashes that open a README.md; None without them.

    Raises:
        ValueError: it is not YAML, or no mapping.
    """
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n?---[ \t]*(\r?\n|$)", content, re.DOTALL)
    if match is None:
        return None
    try:
        card = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        raise ValueError(f"invalid YAML: {error}") from error
    if card is not None and not isinstance(card, dict):
        raise ValueError(f"metadata should be a mapping, not {type(card).__name__}")
    return card or {}


def check_card(content: str, strict: bool) -> tuple[list[str], list[str]]:
    """Errors and warnings about a model card; `strict` makes errors of a missing front matter and a missing license."""
    try:
        card = read_front_matter(content)
    except ValueError as error:
        return [str(error)], []
    if not card:
        missing = ["empty or missing yaml metadata in repo card"]
        return (missing, []) if strict else ([], missing)
    errors = []
    if "license" not in card and strict:
        errors.append('"license" is required')
    if "license" in card and not LICENSE.fullmatch(str(card["license"])):
        errors.append(f'"license" must be one of [apache-2.0, mit, ..., other], not {card["license"]!r}')
    for key in ("pipeline_tag", "library_name"):
        if not isinstance(card.get(key, ""), str):
            errors.append(f'"{key}" must be a string')
    for key in ("tags", "base_model", "datasets", "language"):
        value = card.get(key)
        items = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(item, str) for item in items):
            errors.append(f'"{key}" must be a string or a list of strings')
    errors += check_model_index(card.get("model-index") or [])
    return errors, []


def check_model_index(models: list[dict[str, Any]]) -> list[str]:
    """What the Hub requires of evaluation results."""
    errors = []
    for number, model in enumerate(models):
        if "name" not in model:
            errors.append(f'"model-index[{number}].name" is required')
        for place, result in enumerate(model.get("results", [])):
            required = {"task": ("type",), "dataset": ("type", "name")}
            parts = [(part, result.get(part, {}), keys) for part, keys in required.items()]
            parts += [("metrics", metric, ("type", "value")) for metric in result.get("metrics", [])]
            missing = [f"{part}.{key}" for part, given, keys in parts for key in keys if key not in given]
            missing += [] if result.get("metrics") else ["metrics"]
            errors += [f'"model-index[{number}].results[{place}].{name}" is required' for name in missing]
    return errors
