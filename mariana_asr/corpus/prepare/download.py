"""Finding a public corpus on this machine, or fetching it from its public home."""

import hashlib
import http.client
import logging
import os
import ssl
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from mariana_asr.errors import DataError
from mariana_asr.files import atomic_file

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60.0
"""How long a server may stay silent before it is given up."""

_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class PublicCorpus:
    """A corpus that the public can download as one tar archive.

    Attributes:
        name: Name of its folder below ``MARIANA_CORPORA`` and the cache.
        urls: Where the archive is, the official home first; tried in this order.
        folder: The folder inside of the archive that holds the corpus.
        sha256: Checksum of the archive, where one is known for certain.
        check: Called with the unpacked folder; raises DataError if its content is not right. It
            may complete the folder, as where the archive holds further archives.
    """

    name: str
    urls: tuple[str, ...]
    folder: str
    sha256: str | None = None
    check: Callable[[Path], None] | None = None


def cache_dir() -> Path:
    """Folder for downloads: ``MARIANA_CACHE``, else mariana-asr in the user's cache folder."""
    if given := os.environ.get("MARIANA_CACHE"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mariana-asr"


def find_corpus(corpus: PublicCorpus, corpus_dir: Path | None = None) -> Path:
    """Return the absolute path of a corpus's folder, downloading it if it is nowhere here.

    Looked at in this order: ``corpus_dir``, ``MARIANA_CORPORA/<name>``, the cache folder, and
    last the corpus's public home, from where it is unpacked into the cache.

    Raises:
        DataError: ``corpus_dir`` is no folder, or the download failed; says every way to
            provide the corpus.
    """
    if corpus_dir is not None:
        if not corpus_dir.is_dir():
            raise DataError(
                "no such folder", where=corpus_dir, remedy=_remedy(corpus, "Correct corpus_dir")
            )
        return corpus_dir.resolve()
    corpora = os.environ.get("MARIANA_CORPORA")
    for folder in [Path(corpora) / corpus.name] if corpora else []:
        if folder.is_dir():
            return folder.resolve()
        logger.info("MARIANA_CORPORA has no folder %s", corpus.name)
    cached = (cache_dir() / corpus.name).absolute()
    if not cached.is_dir():
        fetch_corpus(corpus, cached)
    return cached.resolve()


def fetch_corpus(corpus: PublicCorpus, folder: Path) -> None:
    """Download a corpus's archive, verify it, and unpack it as ``folder``.

    The folder appears by one rename after everything was checked, never half.

    Raises:
        DataError: No address gave the right archive, or it could not be written here.
    """
    failures: list[str] = []
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{corpus.name}.") as name:
            for url in corpus.urls:
                work = Path(name) / str(len(failures))
                try:
                    archive = work / "archive.tar"
                    download(url, archive, corpus.sha256)
                    extract_tar(archive, work / "unpacked")
                    unpacked = work / "unpacked" / corpus.folder
                    if not unpacked.is_dir():
                        raise DataError(f"the archive holds no folder {corpus.folder}", where=url)
                    if corpus.check is not None:
                        corpus.check(unpacked)
                except DataError as error:
                    logger.warning("%s: %s", corpus.name, error)
                    failures.append(f"{url}: {error.what}")
                else:
                    _move(unpacked, folder)
                    return
    except OSError as error:
        failures.append(f"{folder.parent}: {error.strerror or error}")
    raise DataError(
        f"the corpus {corpus.name} is not on this machine and could not be fetched "
        f"({'; '.join(failures)})",
        where=folder,
        remedy=_remedy(corpus, "Try again with a network connection"),
    )


def _move(unpacked: Path, folder: Path) -> None:
    try:
        os.replace(unpacked, folder)
    except OSError:
        # Another process may have fetched the same corpus meanwhile; its copy was checked too.
        if not folder.is_dir():
            raise


def _remedy(corpus: PublicCorpus, first: str) -> str:
    return (
        f"{first}; or set corpus_dir to a folder that holds the corpus; or set MARIANA_CORPORA "
        f"to a folder that has it as {corpus.name}/; or unpack {corpus.urls[0]} so that its "
        f"{corpus.folder} becomes {cache_dir() / corpus.name}"
    )


def download(url: str, path: Path, sha256: str | None = None) -> str:
    """Download a file over HTTP, with a progress bar on a terminal; return its SHA-256.

    The file appears at ``path`` only when it is whole and its checksum is right.

    Raises:
        DataError: The server cannot be reached, refuses, or breaks off, or the checksum is not
            ``sha256``.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DataError("not an http or https address", where=url)
    logger.info("downloading %s", url)
    with atomic_file(path) as temporary:
        try:
            digest = _download(url, temporary)
        except urllib.error.HTTPError as error:
            raise DataError(f"the server answers {error.code} {error.reason}", where=url) from error
        except urllib.error.URLError as error:
            raise DataError(f"cannot be reached: {error.reason}", where=url) from error
        except (http.client.HTTPException, ConnectionError, ssl.SSLError, TimeoutError) as error:
            raise DataError(
                f"the connection broke off: {error or type(error).__name__}", where=url
            ) from error
        if sha256 is not None and digest != sha256:
            raise DataError(
                f"the file's SHA-256 is {digest}, not {sha256}",
                where=url,
                remedy="The download was damaged, or the file at this address has changed",
            )
    logger.info("downloaded %s: %d bytes, SHA-256 %s", url, path.stat().st_size, digest)
    return digest


def _download(url: str, path: Path) -> str:
    digest = hashlib.sha256()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn())
    request = urllib.request.Request(url, headers={"User-Agent": "mariana-asr"})
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response,
        path.open("wb") as file,
        Progress(
            *columns,
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        ) as progress,
    ):
        length = response.headers.get("Content-Length")
        expected = int(length) if length and length.isdigit() else None
        task = progress.add_task(url.rsplit("/", 1)[-1], total=expected)
        received = 0
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            progress.update(task, completed=received)
        # A read with a size returns what there is when the server hangs up, without an error.
        if expected is not None and received != expected:
            raise http.client.IncompleteRead(b"", expected - received)
    return digest.hexdigest()


def extract_tar(archive: Path, folder: Path) -> None:
    """Unpack a tar archive of any compression, refusing members that reach outside of it.

    Raises:
        DataError: It is no tar archive, is damaged or cut short, or holds unsafe members
            (absolute paths, ``..``, links to elsewhere, devices).
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise DataError(f"the archive holds an unsafe member: {error}", where=archive) from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"not a whole tar archive: {error}", where=archive) from error
    except OSError as error:
        if error.errno is not None:
            raise
        # gzip and bz2 report damaged data as an OSError without a number.
        raise DataError(f"not a whole tar archive: {error}", where=archive) from error
