"""A Hugging Face Hub on a FileServer: data sets with their files, at one commit each."""

import hashlib
import json

from huggingface_hub import constants

COMMIT = "c0ffee" + "0" * 34


def use_hub(monkeypatch, server):
    """Let huggingface_hub ask the server, as HF_ENDPOINT would."""
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def add_dataset(server, repo, files, card=None):
    """files: name -> bytes."""
    siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
    info = {"id": repo, "sha": COMMIT, "siblings": siblings, "cardData": card or {}}
    info |= {"private": False, "gated": False, "disabled": False, "tags": [], "downloads": 0}
    tree = [
        {"type": "file", "path": name, "size": len(content), "oid": _sha1(content)}
        for name, content in files.items()
    ]
    api = f"/api/datasets/{repo}"
    for path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
        server.files[path] = json.dumps(info).encode()
    server.files[f"{api}/tree/{COMMIT}"] = json.dumps(tree).encode()
    for path in [path for path in server.files if path.startswith(api)]:
        server.headers[path] = {"Content-Type": "application/json"}
    for name, content in files.items():
        path = f"/datasets/{repo}/resolve/{COMMIT}/{name}"
        server.files[path] = content
        server.headers[path] = {"X-Repo-Commit": COMMIT, "ETag": f'"{_sha1(content)}"'}


def _sha1(content):
    return hashlib.sha1(content).hexdigest()
