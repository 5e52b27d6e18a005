"""A Hugging Face Hub on 127.0.0.1: repositories of models and data sets, kept in memory."""

import base64
import hashlib
import json
import re
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_test"
ALLOWED = {"library_name", "pipeline_tag", "tags", "base_model", "base_model_relation"}
ALLOWED |= {"license", "datasets", "model-index"}


class Repository:
    """Commits {id: {path: content}} and the branches and tags that name them."""

    def __init__(self, private=False):
        self.private = private
        self.commits, self.refs = {}, {}
        self.commit({})

    def commit(self, files, branch="main"):
        """Add a commit with all `files`; returns its id."""
        number = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[number], self.refs[branch] = dict(files), number
        return number

    def resolve(self, revision):
        return self.refs.get(revision, revision)


class FakeHub:
    """The server's state. statuses: a pattern of paths -> the HTTP status that requests get.
    damaged: path of a file -> a function of its content, for what is sent. requests: counts.
    """

    def __init__(self):
        self.repositories, self.objects = {}, {}
        self.statuses, self.damaged, self.requests = {}, {}, Counter()
        self.gated = set()

    @contextmanager
    def serve(self):
        handler = type("Handler", (Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


def is_large(path):
    return path.endswith((".safetensors", ".png", ".parquet"))


def blob_id(content):
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


def card_errors(content):
    """What the Hub's validation of a card's metadata is known to reject."""
    metadata = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)[1])
    errors = [f"unknown key {key}" for key in metadata.keys() - ALLOWED]
    names = [*metadata.get("base_model", []), *metadata.get("datasets", [])]
    errors += [
        f"no repository {name}" for name in names if not re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    ]
    for result in [r for model in metadata.get("model-index", []) for r in model["results"]]:
        required = [result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]]
        metrics = result["metrics"]
        values = [metric["value"] for metric in metrics]
        if not all(required) or not all(metric["type"] for metric in metrics):
            errors.append("a result without task, data set or metric")
        errors += [f"value {x}" for x in values if not isinstance(x, float) or x != x]
    return errors


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self):
        path = self._path()
        if match := re.fullmatch(
            r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/revision/(.+))?", path
        ):
            return self._info(*match.groups())
        if match := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)/tree/(.+)", path):
            return self._tree(*match.groups())
        match = re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        return self._file(*match.groups())

    do_HEAD = do_GET

    def do_POST(self):
        path, body = self._path(), self._body()
        repository = r"/api/(?:models|datasets)/([^/]+/[^/]+)"
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            errors = card_errors(json.loads(body)["content"])
            errors = [{"message": error} for error in errors]
            return self._json({"errors": errors, "warnings": []}, 400 if errors else 200)
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(body)["objects"])
        if match := re.fullmatch(repository + "/branch/(.+)", path):
            return self._branch(*match.groups())
        if match := re.fullmatch(repository + "/preupload/(.+)", path):
            return self._preupload(json.loads(body)["files"])
        match = re.fullmatch(repository + "/commit/(.+)", path)
        return self._commit(*match.groups(), [json.loads(line) for line in body.splitlines()])

    def do_PUT(self):
        self.hub.objects[self._path().rpartition("/")[2]] = self._body()
        self._json({})

    def _create(self, options):
        name = "/".join(filter(None, [options.get("organization"), options["name"]]))
        if name in self.hub.repositories:
            return self._json({"url": f"{self.hub.url}/{name}"}, 409)
        self.hub.repositories[name] = Repository(options.get("visibility") == "private")
        return self._json({"url": f"{self.hub.url}/{name}"})

    def _branch(self, name, branch):
        repository = self.hub.repositories[name]
        if branch in repository.refs:
            return self._json({}, 409)
        repository.refs[branch] = repository.refs["main"]
        return self._json({})

    def _preupload(self, files):
        modes = {True: "lfs", False: "regular"}
        infos = [
            {"path": f["path"], "uploadMode": modes[is_large(f["path"])], "shouldIgnore": False}
            for f in files
        ]
        self._json({"files": infos})

    def _batch(self, objects):
        links = {o["oid"]: f"{self.hub.url}/lfs/{o['oid']}" for o in objects}
        uploads = [{**o, "actions": {"upload": {"href": links[o["oid"]]}}} for o in objects]
        self._json({"objects": uploads})

    def _commit(self, name, branch, lines):
        repository = self.hub.repositories[name]
        files = dict(repository.commits[repository.resolve(branch)])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        number = repository.commit(files, branch)
        url = f"{self.hub.url}/{name}/commit/{number}"
        self._json({"success": True, "commitOid": number, "commitUrl": url})

    def _info(self, name, revision):
        if files := self._files(name, revision or "main"):
            siblings = [{"rfilename": path} for path in files[1]]
            private = self.hub.repositories[name].private
            self._json({"id": name, "sha": files[0], "private": private, "siblings": siblings})

    def _tree(self, name, revision):
        if files := self._files(name, revision):
            self._json([self._entry(*item) for item in files[1].items()])

    def _entry(self, path, content):
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        if is_large(path):
            oid = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
        return entry

    def _file(self, name, revision, path):
        if not (files := self._files(name, revision)):
            return None
        if path not in files[1]:
            return self._json({}, 404, {"X-Error-Code": "EntryNotFound"})
        content = files[1][path]
        etag = hashlib.sha256(content).hexdigest() if is_large(path) else blob_id(content)
        content = self.hub.damaged.get(path, lambda x: x)(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": files[0]}
        return self._send(content, 200, headers)

    def _files(self, name, revision):
        """The commit's id and files; else an error is sent."""
        repository = self.hub.repositories.get(name)
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not allowed):
            self._json({}, 404 if allowed else 401, {"X-Error-Code": "RepoNotFound"})
        elif name in self.hub.gated:
            self._json({}, 403, {"X-Error-Code": "GatedRepo"})
        elif repository.resolve(revision) not in repository.commits:
            self._json({}, 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return repository.resolve(revision), repository.commits[repository.resolve(revision)]
        return None

    def _path(self):
        return unquote(urlsplit(self.path).path)

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def parse_request(self):
        """Also counts the request, and answers it with the status that the test has set."""
        if not super().parse_request():
            return False
        self.hub.requests[f"{self.command} {self._path()}"] += 1
        for pattern, status in self.hub.statuses.items():
            if re.search(pattern, self.path):
                self._body()
                self._json({}, status)
                return False
        return True

    def _json(self, content, status=200, headers=None):
        self._send(
            json.dumps(content).encode(),
            status,
            {"Content-Type": "application/json"} | (headers or {}),
        )

    def _send(self, content, status, headers):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass
