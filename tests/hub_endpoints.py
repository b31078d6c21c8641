"""What the stand-in of `hub_server.py` answers: the endpoints that `huggingface_hub` asks for, and who may do what.

One `Endpoints` answers one request. It knows nothing of sockets; `ROUTES` says which of its methods is meant.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

from hub_repositories import DATE, HubError, Repository, check_card

REPO = r"(?P<repo>[^/]+/[^/]+)"
API = rf"/api/models/{REPO}"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/repos/create", "create_repository"),
    ("DELETE", r"/api/repos/delete", "delete_repository"),
    ("GET", rf"{API}(?:/revision/{REVISION})?", "model_info"),
    ("GET", rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?", "tree"),
    ("POST", rf"{API}/paths-info/{REVISION}", "paths_info"),
    ("GET", rf"{API}/commits/{REVISION}", "commits"),
    ("GET", rf"{API}/refs", "refs"),
    ("POST", rf"{API}/branch/(?P<name>[^/]+)", "create_branch"),
    ("POST", rf"{API}/tag/{REVISION}", "create_tag"),
    ("DELETE", rf"{API}/(?P<kind>branch|tag)/(?P<name>[^/]+)", "delete_ref"),
    ("POST", rf"{API}/preupload/{REVISION}", "preupload"),
    ("POST", rf"{API}/commit/{REVISION}", "commit"),
    ("GET", rf"{API}/discussions", "discussions"),
    ("GET", rf"{API}/discussions/(?P<number>\d+)", "discussion"),
    ("POST", rf"{API}/discussions/(?P<number>\d+)/merge", "merge"),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/verify", "lfs_verify"),
    ("PUT", rf"/lfs/{REPO}/(?P<oid>[0-9a-f]{{64}})", "lfs_upload"),
    ("GET", rf"/{REPO}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
]


@dataclass
class HubState:
    """What lasts from request to request."""

    endpoint: str
    tokens: dict[str, str]
    strict_cards: bool
    repositories: dict[str, Repository] = field(default_factory=dict)


@dataclass
class Reply:
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


@dataclass
class Endpoints:
    """One request. The methods that `ROUTES` names return a `Reply` or what becomes its JSON."""

    state: HubState
    authorization: str
    query: dict[str, list[str]]
    range: str | None
    body: bytes

    def answer(self, method: str, path: str) -> Reply:
        """`path` is still quoted, as a revision may hold a slash.

        Raises:
            HubError: every answer that is not a success, but for those whose body the client reads.
        """
        for route_method, pattern, name in ROUTES:
            if route_method == method and (match := re.fullmatch(pattern, path)):
                values = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                answer = getattr(self, name)(**values)
                return answer if isinstance(answer, Reply) else Reply(json.dumps(answer, default=str).encode())
        raise HubError(404, f"the stand-in of the Hub has no {method} {path}")

    # Rights

    def _user(self) -> str | None:
        token = self.authorization.removeprefix("Bearer ")
        if token and token not in self.state.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.state.tokens.get(token)

    def _signed_in(self) -> str:
        user = self._user()
        if user is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        return user

    def _readable(self, name: str) -> Repository:
        user, repository = self._user(), self.state.repositories.get(name)
        if repository is None or (repository.private and user != repository.owner):
            if user is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repository

    def _writable(self, name: str) -> Repository:
        repository = self._readable(name)
        self._may_write(repository.owner)
        return repository

    def _may_write(self, namespace: str) -> None:
        if self._signed_in() != namespace:
            raise HubError(403, f'You don\'t have the rights to write to a model under the namespace "{namespace}"')

    def _proposable(self, name: str, revision: str) -> Repository:
        """Whoever can read may open a pull request and go on with it."""
        if "create_pr" in self.query or revision.startswith("refs/pr/"):
            self._signed_in()
            return self._readable(name)
        return self._writable(name)

    # Accounts and repositories

    def whoami(self) -> Any:
        access = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        return {"type": "user", "name": self._signed_in(), "orgs": [], "auth": access}

    def validate_yaml(self) -> Any:
        self._user()
        errors, warnings = check_card(json.loads(self.body)["content"], self.state.strict_cards)
        found = {"errors": [{"message": m} for m in errors], "warnings": [{"message": m} for m in warnings]}
        return Reply(json.dumps(found).encode(), {}, 400 if errors else 200)

    def _named_repository(self) -> tuple[str, dict[str, Any]]:
        payload = json.loads(self.body)
        if payload.get("type") not in (None, "model"):
            raise HubError(400, f"the stand-in of the Hub knows only models, not {payload['type']}")
        namespace = payload.get("organization") or self._signed_in()
        self._may_write(namespace)
        return f"{namespace}/{payload['name']}", payload

    def create_repository(self) -> Any:
        name, payload = self._named_repository()
        url = f"{self.state.endpoint}/{name}"
        if name in self.state.repositories:
            content = {"error": "You already created this model repo", "url": url}
            return Reply(json.dumps(content).encode(), {}, 409)
        private = bool(payload.get("private")) or payload.get("visibility") == "private"
        self.state.repositories[name] = Repository(name, private)
        return {"url": url, "name": name, "id": name}

    def delete_repository(self) -> Any:
        name, _ = self._named_repository()
        self._writable(name)
        del self.state.repositories[name]
        return "OK"

    # Reading

    def model_info(self, repo: str, revision: str = "main") -> Any:
        repository = self._readable(repo)
        return repository.describe(repository.resolve(revision))

    def tree(self, repo: str, revision: str, path: str = "") -> Any:
        repository = self._readable(repo)
        recursive = self.query.get("recursive", [""])[0].lower() in ("true", "1")
        return repository.tree(repository.resolve(revision), path, recursive)

    def paths_info(self, repo: str, revision: str) -> Any:
        repository = self._readable(repo)
        commit = repository.resolve(revision)
        wanted = {path.strip("/") for path in parse_qs(self.body.decode()).get("paths", [])}
        return [entry for entry in repository.tree(commit, "", recursive=True) if entry["path"] in wanted]

    def commits(self, repo: str, revision: str) -> Any:
        repository = self._readable(repo)
        history, commit = [], repository.resolve(revision)
        while True:
            entry = {"id": commit.oid, "title": commit.title, "message": "", "date": DATE}
            history.append({**entry, "authors": [{"user": commit.author}]})
            if commit.parent is None:
                return history
            commit = repository.commits[commit.parent]

    def refs(self, repo: str) -> Any:
        kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}
        refs = self._readable(repo).refs
        listed = {
            kind: [
                {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
                for ref, oid in refs.items()
                if ref.startswith(prefix)
            ]
            for kind, prefix in kinds.items()
        }
        return {**listed, "converts": []}

    def resolve(self, repo: str, revision: str, path: str) -> Any:
        repository = self._readable(repo)
        commit = repository.resolve(revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        file = commit.files.get(path)
        if file is None:
            raise HubError(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.oid})
        size = len(file.content)
        headers["ETag"] = f'"{file.sha256 if file.is_lfs else file.oid}"'
        if file.is_lfs:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(size)}
        if self.range is None:
            return Reply(file.content, headers)
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.range)
        first, last = (match[1], match[2]) if match else ("", "")
        start = int(first) if first else size - min(size, int(last or 0))
        stop = min(int(last) + 1, size) if first and last else size
        if start >= stop:
            raise HubError(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return Reply(file.content[start:stop], headers, 206)

    # Writing

    def create_branch(self, repo: str, name: str) -> Any:
        repository = self._writable(repo)
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        return self._create_ref(repository, f"refs/heads/{name}", start)

    def create_tag(self, repo: str, revision: str) -> Any:
        repository = self._writable(repo)
        return self._create_ref(repository, f"refs/tags/{json.loads(self.body)['tag']}", revision)

    def _create_ref(self, repository: Repository, ref: str, revision: str) -> Any:
        if ref in repository.refs:
            raise HubError(409, f"Reference already exists: {ref}")
        repository.refs[ref] = repository.resolve(revision).oid
        return {"ref": ref}

    def delete_ref(self, repo: str, kind: str, name: str) -> Any:
        repository = self._writable(repo)
        ref = f"refs/{'heads' if kind == 'branch' else 'tags'}/{name}"
        if ref not in repository.refs:
            raise HubError(404, f"Reference doesn't exist: {ref}", "RevisionNotFound")
        if ref == "refs/heads/main":
            raise HubError(403, "The main branch cannot be deleted")
        del repository.refs[ref]
        return {}

    def preupload(self, repo: str, revision: str) -> Any:
        repository = self._proposable(repo, revision)
        commit = repository.resolve(revision)
        answers = []
        for wanted in json.loads(self.body)["files"]:
            path, stored = wanted["path"], commit.files.get(wanted["path"])
            mode = "lfs" if repository.wants_lfs(commit, path, wanted["size"]) else "regular"
            oid = (stored.sha256 if stored.is_lfs else stored.oid) if stored else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    def lfs_batch(self, repo: str) -> Any:
        payload = json.loads(self.body)
        self._signed_in()
        repository = self._readable(repo)  # no more is asked before a commit: this may become a pull request
        answers = []
        for wanted in payload["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in repository.objects:
                verify = f"{self.state.endpoint}/{repo}.git/info/lfs/objects/verify"
                upload = f"{self.state.endpoint}/lfs/{repo}/{wanted['oid']}"
                answer["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def lfs_upload(self, repo: str, oid: str) -> Any:
        """Without a token, as to the signed address of a bucket."""
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, f"The content's SHA-256 is not {oid}")
        self.state.repositories[repo].objects[oid] = self.body
        return Reply(b"", {"ETag": f'"{oid}"'})

    def lfs_verify(self, repo: str) -> Any:
        wanted = json.loads(self.body)
        stored = self._readable(repo).objects.get(wanted["oid"])
        if stored is None or len(stored) != wanted["size"]:
            raise HubError(404, f"No object {wanted['oid']} of {wanted['size']} bytes")
        return {}

    def commit(self, repo: str, revision: str) -> Any:
        repository = self._proposable(repo, revision)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        create_pr = "create_pr" in self.query
        commit, ref = repository.commit(revision, lines, self._signed_in(), create_pr)
        url = f"{self.state.endpoint}/{repo}"
        answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{url}/commit/{commit.oid}"}
        if create_pr:
            answer["pullRequestUrl"] = f"{url}/discussions/{ref.rsplit('/')[-1]}"
        return answer

    # Pull requests

    def _describe_pull_request(self, repository: Repository, number: int) -> dict[str, Any]:
        request = repository.pull_requests.get(number)
        if request is None:
            raise HubError(404, f"No discussion {number}")
        return {
            "num": number, "title": request.title, "status": request.status, "author": {"name": request.author},
            "createdAt": DATE, "isPullRequest": True, "repo": {"name": repository.name, "type": "model"}, "events": [],
            "changes": {"base": "refs/heads/main", "mergeCommitId": request.merge_commit}, "diff": "",
            "filesWithConflicts": repository.conflicts(number),
        }  # fmt: skip

    def discussions(self, repo: str) -> Any:
        repository = self._readable(repo)
        found = [self._describe_pull_request(repository, number) for number in repository.pull_requests]
        return {"discussions": found, "count": len(found), "start": 0}

    def discussion(self, repo: str, number: str) -> Any:
        return self._describe_pull_request(self._readable(repo), int(number))

    def merge(self, repo: str, number: str) -> Any:
        repository = self._writable(repo)
        self._describe_pull_request(repository, int(number))
        repository.merge(int(number), self._signed_in())
        return {}
