"Models on the Hugging Face hub: pushed to and read from a server on this machine that speaks a part of its protocol."

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

import sie

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    "One repository, anyone/model, that is empty until something is committed."

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self, value) -> None:
        self.reply(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        body = (
            b"".join(iter(self.chunk, b"")) if chunked else self.rfile.read(int(self.headers.get("Content-Length", 0)))
        )
        address = f"http://{self.headers['Host']}/anyone/model"
        if self.path.endswith("/repos/create"):
            self.answer({"url": address, "name": "anyone/model"})
        elif self.path.endswith("/validate-yaml"):
            self.server.checked.append(json.loads(body)["content"])
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            self.answer(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in wanted]}
            )
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{address}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.reply(404)

    def chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        content = self.rfile.read(size)
        self.rfile.readline()
        return content

    def do_GET(self) -> None:
        files, path = self.server.files, unquote(self.path.partition("?")[0])
        name = path.rpartition("/")[2]
        if not path.removeprefix("/api/models").startswith("/anyone/model"):
            self.reply(404, X_Error_Code="RepoNotFound")
        elif "/tree/" in path:
            self.answer(
                [
                    {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for n, c in files.items()
                ]
            )
        elif path.startswith("/api/models/"):
            siblings = [{"rfilename": n, "size": len(c)} for n, c in files.items()]
            self.answer(
                {
                    "id": "anyone/model",
                    "modelId": "anyone/model",
                    "sha": COMMIT,
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": siblings,
                }
            )
        elif name in files:
            self.reply(200, files[name], ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"', X_Repo_Commit=COMMIT)
        else:
            self.reply(404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files = {}
    server.checked = []  # cards whose keys a client has sent to be checked
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def run(hub: ThreadingHTTPServer, home, code: str) -> subprocess.CompletedProcess:
    "Python code in a process that knows this hub only."
    address = f"http://127.0.0.1:{hub.server_address[1]}"
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_none",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", "import torch\nfrom sie.method.weights import *\n" + code],
        env=environment,
        capture_output=True,
        text=True,
        cwd=home,
        timeout=600,
    )


def test_a_model_goes_to_the_hub_and_comes_back(hub, tmp_path):
    code = """
from huggingface_hub import PyTorchModelHubMixin
model = SIE.from_pretrained('sie_matrix-small')
assert isinstance(model, PyTorchModelHubMixin)
print(model.push_to_hub('anyone/model', private=True))
print(model.save_pretrained('here', push_to_hub=True, repo_id='anyone/model'))
"""
    pushed = run(hub, tmp_path, code)
    assert pushed.returncode == 0, pushed.stderr
    first, second = pushed.stdout.splitlines()
    assert first == second and first.endswith(f"/anyone/model/commit/{COMMIT}")
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors"]
    shipped = Path(sie.__file__).parent / "pretrained/sie_matrix-small"
    assert all(content == (shipped / name).read_bytes() for name, content in hub.files.items())
    assert set(hub.checked) == {(shipped / "README.md").read_text()}
    hub.files["unwanted.bin"] = b"is not fetched"
    code = """
here, there = SIE.from_pretrained('sie_matrix-small'), SIE.from_pretrained('anyone/model', 'main', cache_dir='cache')
assert here.settings == there.settings and here.images == there.images and here.card == there.card
a, b = here.state_dict(), there.state_dict()
assert a.keys() == b.keys() and all(map(torch.equal, a.values(), b.values()))
"""
    fetched = run(hub, tmp_path, code)
    assert fetched.returncode == 0, fetched.stderr
    assert list(tmp_path.rglob("cache/**/model.safetensors")) and not list(tmp_path.rglob("unwanted.bin"))


def test_a_repository_that_is_not_there(hub, tmp_path):
    found = run(hub, tmp_path, "SIE.from_pretrained('nobody/model')")
    assert (
        found.returncode
        and "FileNotFoundError: nobody/model is neither a folder nor a model of the package (sie" in found.stderr
        and "vicreg-small), and the hub has none of this name" in found.stderr
    )


def test_a_repository_without_a_model(hub, tmp_path):
    "A pickle is no model: it is not even fetched."
    hub.files["README.md"] = b"nothing else"
    hub.files["pytorch_model.bin"] = b"cos\nsystem\n(S'touch ran'\ntR."
    found = run(hub, tmp_path, "SIE.from_pretrained('anyone/model')")
    assert (
        found.returncode and "FileNotFoundError" in found.stderr and "model.safetensors does not exist" in found.stderr
    )
    assert not list(tmp_path.rglob("pytorch_model.bin")) and not (tmp_path / "ran").exists()


def test_without_huggingface_hub(tmp_path):
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from sie.method.weights import SIE\n"
        "model = SIE.from_pretrained('sie_matrix-small')\n"
        "model.save_pretrained('model')\n"
        "SIE.from_pretrained('model')\n"
        "try:\n"
        "    model.push_to_hub('anyone/model')\n"
        "except ImportError as error:\n"
        "    print(error)\n"
        "SIE.from_pretrained('anyone/model')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (
        found.returncode
        and "ImportError: anyone/model is neither a folder" in found.stderr
        and 'pip install "sie[hub]"' in found.stderr
        and 'pip install "sie[hub]"' in found.stdout
    )
