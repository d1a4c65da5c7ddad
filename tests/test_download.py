"""Downloads from a server that behaves, or misbehaves in every way that has a name."""

import errno
import hashlib
import http.client
import importlib
import io
import json
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pygschnet import InputError
from pygschnet.datasets.download import download

# by its full name: a package may well export the function under the name of the module
MODULE = importlib.import_module("pygschnet.datasets.download")
CONTENT = b"HDF" + bytes(k * k % 251 for k in range(9_997))
HALF = len(CONTENT) // 2


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Web(ThreadingHTTPServer):
    """Serves one file under every path; `plan[path]` says how it misbehaves, one word per request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.modified = CONTENT, '"first"', None
        self.plan, self.log, self.awake = {}, [], threading.Event()

    def url(self, path="/file"):
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of the tests


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        if length != 0:
            self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.server.log[-1]["sent"] += len(body)
        self.wfile.write(body)

    def do_GET(self):
        web, plan = self.server, self.server.plan.get(self.path, [])
        web.log.append({"path": self.path, "range": self.headers["Range"], "sent": 0})
        word = plan.pop(0) if plan else "file"
        if word.isdigit():
            self.answer(int(word), b"not now" if word != "202" else b"")
        elif word.startswith("to "):
            self.answer(302, Location=word[3:])
        elif word == "page":
            self.answer(200, b"<html><p>Please log in</p></html>", Content_Type="text/html; charset=utf-8")
        elif word == "text":
            self.answer(200, b"no such dataset", Content_Type="text/plain")
        elif word == "nothing":
            self.answer(200)
        elif word == "hang up":
            self.close_connection = True
        else:
            self.file(word)

    def file(self, word):
        web, start, status, headers = self.server, 0, 200, {"ETag": self.server.etag}
        headers["Last_Modified"] = web.modified
        wanted = self.headers["Range"]
        if wanted and word != "no ranges":
            asked = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if word == "416" or asked >= len(web.content):
                return self.answer(416, Content_Range=f"bytes */{len(web.content)}")
            if self.headers["If-Range"] in (None, web.etag, web.modified) or word == "no If-Range":
                start, status = asked - (word == "too early"), 206
                headers["Content_Range"] = f"bytes {start}-{len(web.content) - 1}/{len(web.content)}"
        body = web.content[start:]
        stop = {"truncated": HALF, "stalled": HALF, "slow": HALF, "piece": 100}.get(word, len(body))
        length = {"piece": stop, "no length": 0}.get(word, len(body))
        self.answer(status, body[:stop], length, **headers)
        if word == "stalled":
            web.awake.wait(5)
        if word == "slow":
            web.awake.wait(0.4)
            self.wfile.write(body[stop:])


@pytest.fixture
def web():
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.awake.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "file.h5"


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """No wait between tries, no proxy, small chunks; gives the waits there would have been."""
    waits = []
    monkeypatch.setattr(MODULE, "sleep", waits.append)
    monkeypatch.setattr(MODULE, "CHUNK", 1000)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("PYGSCHNET_OFFLINE", raising=False)
    return waits


def names(path):
    return sorted(file.name for file in path.parent.iterdir() if file.suffix != ".lock")


def complete(path, content=CONTENT):
    """The file, its record, and nothing else."""
    record = path.with_name(path.name + ".sha256")
    assert path.read_bytes() == content
    assert record.read_text() == f"{sha256(content)}  {path.name}\n"
    return names(path) == [path.name, record.name]


def ranges(web):
    return [request["range"] for request in web.log]


def test_a_file(web, path):
    assert download([web.url()], str(path), sha256(CONTENT).upper(), magic=(b"PK", b"HDF")) == path
    assert complete(path)
    assert ranges(web) == [None]


def test_a_file_without_a_length(web, path):
    web.plan["/file"] = ["no length"]
    download([web.url()], path)
    assert complete(path)
    assert ranges(web) == [None]


@pytest.mark.parametrize("trouble", ["truncated", "stalled"])
def test_what_has_arrived_is_not_sent_again(web, path, waits, trouble):
    web.plan["/file"] = [trouble]
    download([web.url()], path, timeout=0.4)
    assert complete(path) and len(waits) == 1
    assert ranges(web) == [None, f"bytes={HALF}-"]
    assert sum(request["sent"] for request in web.log) == len(CONTENT)


def test_silence(web, path):
    web.plan["/file"] = ["stalled"]
    with pytest.raises(InputError, match="broke off: .*timed out"):
        download([web.url()], path, attempts=1, timeout=0.2)


def test_a_later_call_goes_on(web, path, waits):
    web.plan["/file"] = ["truncated"] * 2
    with pytest.raises(InputError, match=rf"{web.url()}: broke off after {HALF} of {len(CONTENT)} bytes\nDownload one"):
        download([web.url()], path, attempts=1)
    assert names(path) == ["file.h5.part", "file.h5.part.json"]
    assert waits == []
    web.plan["/file"] = []
    download([web.url()], path)
    assert complete(path)
    assert ranges(web) == [None, f"bytes={HALF}-"]


def test_pieces_of_a_cautious_server(web, path):
    """A server may send less than was asked for; that is no full file."""
    web.plan["/file"] = ["truncated", "piece", "piece"]
    download([web.url()], path)
    assert complete(path)
    assert ranges(web) == [None, f"bytes={HALF}-", f"bytes={HALF + 100}-", f"bytes={HALF + 200}-"]


@pytest.mark.parametrize(("etag", "modified"), [(None, "yesterday"), ('W/"first"', "yesterday")])
def test_a_date_or_a_weak_tag_and_a_date(web, path, etag, modified):
    web.etag, web.modified, web.plan["/file"] = etag, modified, ["truncated"]
    download([web.url()], path)
    assert complete(path)
    assert ranges(web) == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize("etag", [None, 'W/"first"'])
def test_nothing_to_tell_files_apart(web, path, etag):
    web.etag, web.plan["/file"] = etag, ["truncated"]
    download([web.url()], path)
    assert complete(path)
    assert ranges(web) == [None, None]


@pytest.mark.parametrize("manners", ["file", "no If-Range"])
def test_files_are_never_glued(web, path, manners):
    """The file changes between two tries, and the server heeds If-Range or not."""
    web.plan["/file"] = ["truncated"]
    with pytest.raises(InputError):
        download([web.url()], path, attempts=1)
    web.content, web.etag, web.plan["/file"] = CONTENT[::-1], '"second"', [manners]
    download([web.url()], path)
    assert complete(path, CONTENT[::-1])
    assert ranges(web) == [None, f"bytes={HALF}-"] + [None] * (manners == "no If-Range")


def test_mirrors_are_never_glued(web, path):
    web.plan["/file"] = ["truncated", "503"]
    download([web.url(), web.url("/other")], path, attempts=2)
    assert complete(path)
    assert [(request["path"], request["range"]) for request in web.log] == [
        ("/file", None),
        ("/file", f"bytes={HALF}-"),
        ("/other", None),
    ]


@pytest.mark.parametrize("manners", ["no ranges", "416", "too early"])
def test_servers_that_cannot_go_on(web, path, manners):
    web.plan["/file"] = ["truncated", manners]
    download([web.url()], path)
    assert complete(path)
    assert ranges(web)[1] == f"bytes={HALF}-"
    assert ranges(web)[2:] == ([] if manners == "no ranges" else [None])


def test_more_than_the_file(web, path):
    """A part that is too long, or already whole, answers with 416."""
    path.parent.mkdir()
    path.with_name("file.h5.part").write_bytes(CONTENT)
    path.with_name("file.h5.part.json").write_text(json.dumps({web.url(): web.etag}))
    download([web.url()], path)
    assert complete(path)
    assert ranges(web) == [f"bytes={len(CONTENT)}-", None]


def test_a_note_that_cannot_be_read(web, path):
    path.parent.mkdir()
    path.with_name("file.h5.part").write_bytes(b"something")
    path.with_name("file.h5.part.json").write_text('{"')
    download([web.url()], path)
    assert complete(path)
    assert ranges(web) == [None]


@pytest.mark.parametrize("status", ["202", "429", "500", "503", "hang up"])
def test_busy_servers(web, path, waits, status):
    web.plan["/file"] = [status] * 3
    download([web.url()], path)
    assert complete(path)
    assert waits == [MODULE.DELAY, 2 * MODULE.DELAY, 4 * MODULE.DELAY]


@pytest.mark.parametrize(("status", "reason"), [("500", "Internal"), ("202", "Accepted")])
def test_servers_that_stay_busy(web, path, waits, status, reason):
    web.plan["/file"] = [status] * 9
    with pytest.raises(InputError, match=f"answered {status} {reason}"):
        download([web.url()], path)
    assert len(web.log) == 4 and len(waits) == 3
    assert names(path) == []


@pytest.mark.parametrize("status", ["404", "403", "410"])
def test_the_next_mirror_at_once(web, path, waits, status):
    web.plan["/file"] = [status]
    download([web.url(), web.url("/other")], path)
    assert complete(path) and waits == []
    assert [request["path"] for request in web.log] == ["/file", "/other"]


def test_nobody_listens(web, path, waits):
    download(["http://127.0.0.1:1/file", web.url()], path, attempts=2)
    assert complete(path) and len(waits) == 1


def test_each_mirror_has_its_reason(web, path):
    web.plan |= {"/file": ["404"], "/other": ["page"]}
    with pytest.raises(InputError) as caught:
        download([web.url(), web.url("/other"), "nonsense"], path)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"{path} cannot be downloaded:"
    assert lines[1] == f"  {web.url()}: answered 404 Not Found"
    assert lines[2].startswith(f"  {web.url('/other')}: answered with a web page")
    assert lines[3] == "  nonsense: no answer: unknown url type: 'nonsense'"
    assert lines[4] == f"Download one of them by hand to {path}"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("page", "answered with a web page instead of the file: .*Please log in"),
        ("text", "answered with something else instead of the file: .*no such dataset"),
        ("nothing", "answered with something else instead of the file: b''"),
    ],
)
def test_something_else(web, path, waits, answer, message):
    web.plan["/file"] = [answer]
    with pytest.raises(InputError, match=message):
        download([web.url()], path, magic=(b"PK", b"HDF") if answer == "text" else b"")
    assert names(path) == [] and waits == []


def test_a_web_page_leaves_the_part(web, path):
    web.plan["/file"] = ["truncated", "page"]
    with pytest.raises(InputError, match="web page"):
        download([web.url()], path)
    download([web.url()], path)
    assert complete(path)
    assert ranges(web) == [None, f"bytes={HALF}-", f"bytes={HALF}-"]


def test_wrong_hash(web, path, waits):
    with pytest.raises(InputError, match=f"its file has the sha256 {sha256(CONTENT)}, wanted is {'0' * 64}"):
        download([web.url()], path, "0" * 64)
    assert names(path) == [] and waits == []


def test_redirects(web, path):
    web.plan |= {"/go": ["to /file"] * 2, "/file": ["truncated"]}
    download([web.url("/go")], path)
    assert complete(path)
    assert ranges(web) == [None, None, f"bytes={HALF}-", f"bytes={HALF}-"]


@pytest.mark.parametrize("target", ["ftp://127.0.0.1:1/file", "file:///etc/hostname"])
def test_only_the_web(web, path, waits, target):
    web.plan["/file"] = [f"to {target}"]
    with pytest.raises(InputError, match=f"{target}.*allowed"):
        download([web.url()], path)
    with pytest.raises(InputError, match=f"leads to {target}, but only http and https are allowed"):
        download([target], path)
    assert names(path) == [] and waits == []


def test_a_file_that_is_there(web, path):
    """It is not fetched, its hash is noted once, and checked from then on."""
    path.parent.mkdir()
    path.write_bytes(b"by hand")
    assert download([web.url()], path) == path
    assert complete(path, b"by hand")
    download([web.url()], path)
    path.write_bytes(b"tampered")
    with pytest.raises(InputError) as caught:
        download([web.url()], path)
    for part in (path, sha256(b"tampered"), sha256(b"by hand"), f"recorded in {path}.sha256", web.url()):
        assert str(part) in str(caught.value)
    assert "delete it to download again" in str(caught.value)
    assert download([web.url()], path, sha256(b"tampered").upper()) == path
    with pytest.raises(InputError, match=f"{sha256(b'tampered')}, but {'0' * 64} is wanted: delete it"):
        download([web.url()], path, "0" * 64)
    assert path.read_bytes() == b"tampered" and web.log == []


def test_what_was_downloaded_is_checked_later(web, path):
    download([web.url()], path)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match="delete it to download again"):
        download([web.url()], path)
    path.unlink()
    download([web.url()], path)
    assert complete(path) and len(web.log) == 2


def test_a_folder_that_takes_no_record(web, path, monkeypatch):
    """Data of a whole group lie in folders that are read-only for most."""
    path.parent.mkdir()
    path.write_bytes(CONTENT)

    def refuse(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(MODULE, "FileLock", refuse)
    assert download([web.url()], path) == path
    assert names(path) == ["file.h5"]


@pytest.mark.parametrize("value", ["1", "true"])
def test_offline(web, path, monkeypatch, value):
    monkeypatch.setenv("PYGSCHNET_OFFLINE", value)
    with pytest.raises(InputError) as caught:
        download([web.url(), web.url("/other")], path)
    for part in (path, "is missing", "forbids downloads", f"{web.url()} or {web.url('/other')}"):
        assert str(part) in str(caught.value)
    assert web.log == [] and not path.parent.exists()
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert download([web.url()], path, sha256(CONTENT)) == path


@pytest.mark.parametrize("value", ["", "0"])
def test_not_offline(web, path, monkeypatch, value):
    monkeypatch.setenv("PYGSCHNET_OFFLINE", value)
    download([web.url()], path)
    assert complete(path)


def test_interrupted(web, path, monkeypatch):
    reads = []

    def read1(self, size, read1=http.client.HTTPResponse.read1):
        reads.append(size)
        if len(reads) == 4:
            raise KeyboardInterrupt
        return read1(self, size)

    with monkeypatch.context() as patch:
        patch.setattr(http.client.HTTPResponse, "read1", read1)
        with pytest.raises(KeyboardInterrupt):
            download([web.url()], path)
    assert names(path) == ["file.h5.part", "file.h5.part.json"]
    arrived = path.with_name("file.h5.part").stat().st_size
    assert 0 < arrived < len(CONTENT)
    download([web.url()], path)
    assert complete(path)
    assert ranges(web) == [None, f"bytes={arrived}-"]


class FullDisk(io.FileIO):
    def write(self, data):
        if self.tell() > 2500:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_the_disk_is_full(web, path, monkeypatch, waits):
    def open_(self, mode="r", *args, open=Path.open, **kwargs):
        return FullDisk(self, mode) if self.suffix == ".part" and mode == "wb" else open(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_)
        with pytest.raises(OSError, match="No space left") as caught:
            download([web.url()], path)
    assert caught.value.errno == errno.ENOSPC
    assert names(path) == ["file.h5.part", "file.h5.part.json"] and waits == []
    download([web.url()], path)
    assert complete(path)
    assert len(web.log) == 2 and web.log[1]["range"]


def test_the_bar_starts_where_the_part_ends(web, path, monkeypatch):
    bars = []

    class Bar(MODULE.tqdm):
        def __init__(self, **options):
            super().__init__(**options)
            bars.append((options, self))

    monkeypatch.setattr(MODULE, "tqdm", Bar)
    web.plan["/file"] = ["truncated"]
    download([web.url()], path)
    assert [options["initial"] for options, _ in bars] == [0, HALF]
    assert [bar.n for _, bar in bars] == [HALF, len(CONTENT)]
    assert [bar.total for _, bar in bars] == [len(CONTENT)] * 2
    assert bars[0][0]["desc"] == "file.h5" and bars[0][0]["delay"] == 1


SCRIPT = """
import sys, types
# the packages without their contents: importing torch takes seconds
for name in ("pygschnet", "pygschnet.datasets"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [name.replace(".", "/")]
from pygschnet.datasets.download import download
print("ready", flush=True)
sys.stdin.readline()
download([sys.argv[1]], sys.argv[2])
"""


def test_two_processes(web, path):
    web.plan["/file"] = ["slow"] * 2
    command = [sys.executable, "-W", "error", "-c", SCRIPT, web.url(), str(path)]
    root = Path(__file__).parents[1]
    both = [
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for process in both:
            assert process.stdout.readline() == "ready\n"
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait(timeout=30) for process in both] == [0, 0]
    finally:
        for process in both:
            with suppress(OSError):
                process.kill()
            process.communicate()
    assert complete(path)
    assert len(web.log) == 1
