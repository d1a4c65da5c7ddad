"""Files from the web: checked, continued after a break, and in place whole or not at all."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import closing, suppress
from http.client import HTTPException, HTTPMessage
from itertools import product
from pathlib import Path
from time import sleep
from typing import Any
from urllib.error import HTTPError
from urllib.request import BaseHandler, Request, build_opener

from filelock import FileLock
from tqdm import tqdm

from pygschnet.errors import InputError
from pygschnet.files import replacing

Magic = bytes | tuple[bytes, ...]

DELAY = 1.0  # seconds before the second try; each further wait is twice as long
CHUNK = 1 << 20
_by_hand: dict[str, Path] = {}
BAR: dict[str, Any] = {"unit": "B", "unit_scale": True, "delay": 1, "leave": False}


def download(
    urls: Sequence[str],
    path: str | Path,
    sha256: str | None = None,
    *,
    attempts: int = 4,
    timeout: float = 30.0,
    magic: Magic = b"",
) -> Path:
    """Fetch a file once; later calls only check its hash, which reads the whole file.

    Bytes arrive in `<name>.part`, which a later call continues. The hash is kept in `<name>.sha256`, as sha256sum
    writes it. Processes that want the same file wait for the first of them at `<name>.lock`. If the environment
    variable PYGSCHNET_OFFLINE is set, nothing is downloaded.

    Args:
        urls: mirrors of the file, http or https, in the order in which they are tried.
        path: where the file goes.
        sha256: hash that the file must have; if null, the one it had at first.
        attempts: tries per mirror while it is busy, breaks off or says nothing.
        timeout: seconds of silence after which a try has failed.
        magic: what the file must begin with; any of them, if several.

    Raises:
        InputError: if no mirror gives the file, or the file is there and has another hash.
    """
    path = Path(path)
    if not path.exists() and path.name not in _by_hand:
        if os.environ.get("PYGSCHNET_OFFLINE", "") not in ("", "0"):
            remedy = f"fetch {' or '.join(urls)} by hand and put it there"
            raise InputError(f"{path} is missing, and PYGSCHNET_OFFLINE forbids downloads: {remedy}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                return _fetch(urls, path, sha256, attempts, timeout, magic)
    elif not path.exists():
        return _copy(_by_hand[path.name], path, sha256, magic)
    _verify(urls, path, sha256)
    return path


def take_from(paths: Sequence[Path]) -> None:
    """Name files that were fetched by hand: `download` copies those with the name it wants instead of asking the web.

    Args:
        paths: of the files; none to forget earlier ones.
    """
    _by_hand.clear()
    _by_hand.update({path.name: path for path in paths})


class _MirrorFailed(Exception):
    """A mirror does not give the file."""


class _TryAgain(_MirrorFailed):
    """A mirror does not give the file now, but may in a while."""


class _WebOnly(BaseHandler):
    def default_open(self, req):  # comes before urllib's own handlers, also after a redirect
        if req.type not in ("http", "https"):
            raise _MirrorFailed(f"leads to {req.full_url}, but only http and https are allowed")


def _fetch(urls: Sequence[str], path: Path, sha256: str | None, attempts: int, timeout: float, magic: Magic) -> Path:
    part, failures = Path(f"{path}.part"), {}
    for url, attempt in product(urls, range(1, attempts + 1)):
        if url in failures:
            continue
        try:
            _transfer(url, part, timeout)
            digest = _check(part, sha256, magic)
            os.replace(part, path)
            _discard(part)
            _record(path, digest)
            return path
        except _MirrorFailed as failure:
            if isinstance(failure, _TryAgain) and attempt < attempts:
                sleep(DELAY * 2 ** (attempt - 1))
            else:
                failures[url] = f"\n  {url}: {failure}"
    reasons = "".join(failures.values())
    raise InputError(f"{path} cannot be downloaded:{reasons}\nDownload one of them by hand to {path}")


def _copy(source: Path, path: Path, sha256: str | None, magic: Magic) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        shutil.copyfile(source, part)
        try:
            digest = _check(part, sha256, magic)
        except _MirrorFailed as failure:
            raise InputError(f"{source} is not the file that is wanted: {failure}") from None
    _record(path, digest)
    return path


def _transfer(url: str, part: Path, timeout: float) -> None:
    validator = ""
    with suppress(FileNotFoundError, ValueError):
        validator = json.loads(Path(f"{part}.json").read_text(encoding="utf-8")).get(url, "")
    start = part.stat().st_size if validator and part.exists() else 0
    with closing(_answer(url, start, validator, timeout)) as answer:
        status, headers = answer.status, answer.headers
        if start and status in (206, 416):
            span = re.fullmatch(rf"bytes {start}-\d+/(\d+)", headers.get("Content-Range", ""))
            # some servers overlook If-Range, and send the rest of another file
            if not span or _validator(headers) not in ("", validator):
                _discard(part)
                raise _TryAgain("has nothing that continues what had arrived, which is thrown away")
            size = int(span[1])
        elif status == 200:
            start, size = 0, int(headers.get("Content-Length", 0))
        else:
            busy = status in (202, 429) or status >= 500
            raise (_TryAgain if busy else _MirrorFailed)(f"answered {status} {answer.reason}")
        if headers.get_content_type() == "text/html":
            raise _MirrorFailed(f"answered with a web page instead of the file: {_read(answer)[:60]!r}")
        progress = tqdm(desc=part.stem, initial=start, total=size or None, **BAR)
        with progress as bar, part.open("ab" if start else "wb") as file:
            if not start:  # and the old bytes are gone: they must never stand beside a new validator
                with replacing(f"{part}.json") as note:
                    note.write_text(json.dumps({url: _validator(headers)}), encoding="utf-8")
            while chunk := _read(answer):
                file.write(chunk)
                bar.update(len(chunk))
            arrived = file.tell()
    if size and arrived != size:
        raise _TryAgain(f"broke off after {arrived} of {size} bytes")


def _answer(url: str, start: int, validator: str, timeout: float) -> Any:
    headers = {"User-Agent": "pygschnet"} | ({"Range": f"bytes={start}-", "If-Range": validator} if start else {})
    try:
        return build_opener(_WebOnly).open(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        return error
    except (OSError, HTTPException, ValueError) as error:
        raise _TryAgain(f"no answer: {error}") from None


def _read(answer: Any) -> bytes:
    try:
        # not `read`, which waits for a full chunk, and loses what it has when the connection breaks
        return answer.read1(CHUNK)
    except (OSError, HTTPException) as error:
        raise _TryAgain(f"broke off: {error}") from None


def _check(part: Path, sha256: str | None, magic: Magic) -> str:
    with part.open("rb") as file:
        head = file.read(1024)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not head or not head.startswith(magic):
        _discard(part)
        raise _MirrorFailed(f"answered with something else instead of the file: {head[:60]!r}")
    if sha256 and digest != sha256.lower():
        _discard(part)
        raise _MirrorFailed(f"its file has the sha256 {digest}, wanted is {sha256}")
    return digest


def _verify(urls: Sequence[str], path: Path, sha256: str | None) -> None:
    record = Path(f"{path}.sha256")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    wanted = sha256 or (record.read_text(encoding="utf-8").partition(" ")[0] if record.exists() else "")
    if not wanted:
        # a folder shared read-only takes no record, and its files are used nevertheless
        with suppress(OSError), FileLock(f"{path}.lock"):
            _record(path, digest)
    elif digest != wanted.lower():
        source = "wanted" if sha256 else f"recorded in {record}"
        remedy = f"delete it to download again from {' or '.join(urls)}"
        raise InputError(f"{path} has the sha256 {digest}, but {wanted} is {source}: {remedy}")


def _validator(headers: HTTPMessage) -> str:
    """By what a later request can ask for the rest of this very file; a weak ETag is not enough."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    Path(f"{part}.json").unlink(missing_ok=True)


def _record(path: Path, digest: str) -> None:
    with replacing(f"{path}.sha256") as record:
        record.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
