import gzip
import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mariana_asr.corpus.prepare.download import (
    PublicCorpus,
    cache_dir,
    download,
    extract_tar,
    find_corpus,
)
from mariana_asr.errors import DataError


def tar_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    # Without the time of day, which would make the names of tests differ between processes.
    return gzip.compress(stream.getvalue(), mtime=0)


GOOD = tar_of({"tiny-1.0/etc/words": b"one two\n", "tiny-1.0/wav/a.wav": bytes(range(256)) * 4000})
GOOD_SHA256 = hashlib.sha256(GOOD).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.path == "/missing.tar.gz":
            self.send_error(404)
            return
        body = self.server.bodies.get(self.path, GOOD)
        self.send_response(200)
        if self.path != "/unknown-length.tar.gz":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path == "/broken.tar.gz":
            self.wfile.write(body[: len(body) // 2])
        else:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.bodies = [], {}
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MARIANA_CORPORA", raising=False)
    monkeypatch.setenv("MARIANA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


def url(server: HTTPServer, name: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"


def corpus(server: HTTPServer, *names: str, **others: object) -> PublicCorpus:
    return PublicCorpus(
        name="tiny", urls=tuple(url(server, name) for name in names), folder="tiny-1.0", **others
    )


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != "tiny")


def test_a_corpus_is_downloaded_once_verified_and_unpacked_into_the_cache(server, cache):
    tiny = corpus(server, "tiny.tar.gz", sha256=GOOD_SHA256)
    folder = find_corpus(tiny)
    assert folder == cache / "tiny"
    assert (folder / "etc/words").read_bytes() == b"one two\n"
    assert (folder / "wav/a.wav").stat().st_size == 1024000
    assert leftovers(cache) == []
    assert find_corpus(tiny) == folder
    assert server.requests == ["/tiny.tar.gz"]


def test_a_server_that_does_not_tell_the_length_will_do(server):
    find_corpus(corpus(server, "unknown-length.tar.gz", sha256=GOOD_SHA256))


@pytest.mark.parametrize(
    ("name", "sha256", "message"),
    [
        ("tiny.tar.gz", "0" * 64, "SHA-256 is " + GOOD_SHA256),
        ("broken.tar.gz", GOOD_SHA256, "connection broke off"),
        ("missing.tar.gz", GOOD_SHA256, "404"),
    ],
)
def test_a_failed_download_leaves_nothing_and_names_all_ways(server, cache, name, sha256, message):
    with pytest.raises(DataError, match=message) as caught:
        find_corpus(corpus(server, name, sha256=sha256))
    for way in ("network", "corpus_dir", "MARIANA_CORPORA", str(cache / "tiny")):
        assert way in str(caught.value)
    assert not (cache / "tiny").exists()
    assert leftovers(cache) == []


def test_without_a_server_the_error_says_so(cache):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        tiny = PublicCorpus("tiny", (f"http://127.0.0.1:{port}/tiny.tar.gz",), "tiny-1.0")
        with pytest.raises(DataError, match=r"cannot be reached.*refused"):
            find_corpus(tiny)


def test_a_mirror_is_tried_when_the_first_address_fails(server):
    tiny = corpus(server, "missing.tar.gz", "broken.tar.gz", "tiny.tar.gz", sha256=GOOD_SHA256)
    assert (find_corpus(tiny) / "etc/words").exists()
    assert server.requests == ["/missing.tar.gz", "/broken.tar.gz", "/tiny.tar.gz"]


def test_the_content_check_decides_whether_an_archive_is_taken(server, cache):
    server.bodies["/other.tar.gz"] = tar_of({"tiny-1.0/etc/words": b"three\n"})

    def check(folder: Path) -> None:
        if (folder / "etc/words").read_bytes() != b"one two\n":
            raise DataError("the words are wrong", where=folder)

    with pytest.raises(DataError, match="the words are wrong"):
        find_corpus(corpus(server, "other.tar.gz", check=check))
    assert not (cache / "tiny").exists()
    assert find_corpus(corpus(server, "other.tar.gz", "tiny.tar.gz", check=check)).is_dir()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (GOOD[: len(GOOD) // 2], "not a whole tar archive"),
        (GOOD[:-4000] + bytes(3000) + GOOD[-1000:], "not a whole tar archive"),
        (b"<html>moved</html>", "not a whole tar archive"),
        (b"", "not a whole tar archive"),
        (tar_of({"other/etc/words": b""}), "holds no folder tiny-1.0"),
        (tar_of({"tiny-1.0/a": b"", "../escaped": b"x"}), "unsafe member"),
    ],
)
def test_a_bad_archive_is_refused(server, cache, body, message):
    server.bodies["/bad.tar.gz"] = body
    with pytest.raises(DataError, match=message):
        find_corpus(corpus(server, "bad.tar.gz"))
    assert leftovers(cache) == []
    assert not (cache.parent / "escaped").exists()


def test_links_out_of_the_archive_are_refused(tmp_path):
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        link = tarfile.TarInfo("tiny-1.0/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    with pytest.raises(DataError, match="unsafe member"):
        extract_tar(tmp_path / "links.tar", tmp_path / "out")


def test_a_cache_that_cannot_be_written_is_reported(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MARIANA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="Not a directory"):
        find_corpus(corpus(server, "tiny.tar.gz"))


def test_a_folder_on_disk_is_used_before_any_other(server, tmp_path, cache, monkeypatch):
    tiny = corpus(server, "tiny.tar.gz")
    (tmp_path / "corpora/tiny").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (cache / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_corpus(tiny) == cache / "tiny"
    monkeypatch.setenv("MARIANA_CORPORA", "corpora")
    assert find_corpus(tiny) == tmp_path / "corpora/tiny"
    assert find_corpus(tiny, Path("mine")) == tmp_path / "mine"
    assert server.requests == []


def test_corpora_without_this_one_lead_to_the_download(server, tmp_path, cache, monkeypatch):
    monkeypatch.setenv("MARIANA_CORPORA", str(tmp_path))
    assert find_corpus(corpus(server, "tiny.tar.gz")) == cache / "tiny"


def test_a_corpus_dir_that_is_not_there_is_an_error_and_not_a_download(server, tmp_path):
    with pytest.raises(DataError, match=r"no such folder.*corpus_dir"):
        find_corpus(corpus(server, "tiny.tar.gz"), tmp_path / "absent")
    assert server.requests == []


def test_only_http_addresses_are_fetched(tmp_path):
    (tmp_path / "secret").write_text("x")
    with pytest.raises(DataError, match="not an http"):
        download(f"file://{tmp_path}/secret", tmp_path / "copy")


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("MARIANA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/mariana-asr")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache/mariana-asr"
