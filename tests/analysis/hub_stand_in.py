"""A folder served on the loopback interface as if it were the Hugging Face Hub, for data sets only.

    python hub_stand_in.py FOLDER        prints its address, then serves until it is stopped

The files of a data set lie under ``FOLDER/owner/name/revision/``, with ``main`` as the usual revision and
``%2F`` for a slash in the name of another one. A file named ``.gated`` beside the revisions closes the
data set to everybody. Knows as much of the Hub's interface as ``datasets.load_dataset`` asks for.
"""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote


def commit_of(revision: Path) -> str:
    """A stand-in for the commit hash: forty hex digits, fixed by the place."""
    return hashlib.sha1(str(revision).encode()).hexdigest()


class Hub(BaseHTTPRequestHandler):
    folder: Path

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.answer(form.get("paths", []))

    def answer(self, paths=()):
        parts = self.path.partition("?")[0].strip("/").split("/")
        is_api = parts[0] == "api"
        parts = parts[1:] if is_api else parts
        if parts[0] != "datasets" or len(parts) < 3:
            return self.refuse(404, "EntryNotFound")
        repository = self.folder / parts[1] / parts[2]
        verb, revision_name, *path = parts[3:] or ["revision", "main"]
        if not repository.is_dir():
            return self.refuse(401, "RepoNotFound")
        if (repository / ".gated").exists() and not is_api:
            return self.refuse(401, "GatedRepo")
        revision = self.find_revision(repository, revision_name)
        if revision is None:
            return self.refuse(404, "RevisionNotFound")
        target = revision.joinpath(*map(unquote, path))
        if verb == "resolve":
            return self.send_file(revision, target)
        if verb == "paths-info":
            found = (revision / path for path in paths)
            return self.send_json([self.entry(revision, path) for path in found if path.exists()])
        if verb == "tree":
            if not target.is_dir():
                return self.refuse(404, "EntryNotFound")
            inside = target.rglob("*") if "recursive=true" in self.path.lower() else target.iterdir()
            return self.send_json([self.entry(revision, path) for path in sorted(inside)])
        return self.send_json({"id": "/".join(parts[1:3]), "sha": commit_of(revision), "siblings": []})

    def find_revision(self, repository, name):
        named = repository / quote(unquote(name), safe="")
        if named.is_dir():
            return named
        return next((path for path in repository.iterdir() if commit_of(path) == name), None)

    def entry(self, revision, path):
        name = path.relative_to(revision).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40}
        oid = hashlib.sha1(path.read_bytes()).hexdigest()
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": oid}

    def send_file(self, revision, path):
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit_of(revision)})
        content = path.read_bytes()
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.send(200, content, {"ETag": etag, "X-Repo-Commit": commit_of(revision)})

    def send_json(self, value):
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status, code, headers=None):
        self.send(status, b"", {"X-Error-Code": code, **(headers or {})})

    def send(self, status, content, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    Hub.folder = Path(sys.argv[1])
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()
