"""``mariana-asr doctor``: what this machine has, and what is missing."""

import os
import platform
import sys
from importlib.metadata import requires, version
from pathlib import Path

import click

from mariana_asr import __version__
from mariana_asr.errors import MarianaError, MissingPackageError
from mariana_asr.parallel import available_cores


@click.command("doctor")
def command() -> None:
    """Say which versions, devices, backends and corpora there are; fail if something is broken."""
    click.echo(f"mariana-asr {__version__}, Python {sys.version.split()[0]}, {platform.platform()}")
    _packages()
    broken = [problem for check in (_kaldi, _torch, _audio) if (problem := check())]
    _corpora()
    if broken:
        raise MissingPackageError("; ".join(broken))
    click.echo("Everything that is needed works.")


def _packages() -> None:
    for requirement in requires("mariana-asr") or []:
        if "extra ==" not in requirement:
            name = requirement.split(">")[0].split("=")[0]
            click.echo(f"  {name:<20} {version(name)}")


def _kaldi() -> str | None:
    try:
        import mariana_asr.kaldi  # noqa: F401
    except MarianaError as error:
        return str(error)
    click.echo("kaldi wheels: usable together")
    return None


def _torch() -> str | None:
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported: {error}"
    click.echo(
        f"processor: {available_cores()} cores, torch uses {torch.get_num_threads()} threads"
    )
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        click.echo(f"GPU {index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        click.echo("GPU: none, networks are trained on the processor")
    backends = [name for name in ("gloo", "nccl", "mpi") if _has_backend(name)]
    click.echo(f"torch.distributed backends: {', '.join(backends) or 'none'}")
    return None


def _has_backend(name: str) -> bool:
    import torch.distributed

    available = getattr(torch.distributed, f"is_{name}_available", None)
    return bool(torch.distributed.is_available() and available and available())


def _audio() -> str | None:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return f"soundfile cannot be imported: {error}"
    try:
        from mariana_asr.audio_backend import torchaudio
    except MarianaError as error:
        return str(error)
    formats = ", ".join(name for name in soundfile.available_formats() if name in _FORMATS)
    click.echo(f"audio: libsndfile {soundfile.__libsndfile_version__} reads {formats}")
    click.echo(f"torchaudio {torchaudio.__version__}: usable")
    return None


_FORMATS = ("WAV", "FLAC", "OGG", "NIST", "MP3")


def _corpora() -> None:
    for variable in ("MARIANA_CORPORA", "MARIANA_GOLDEN"):
        folder = os.environ.get(variable)
        if folder is None:
            click.echo(f"{variable}: not set")
        elif not Path(folder).is_dir():
            click.echo(f"{variable}: {folder} is no folder")
        else:
            names = sorted(p.name for p in Path(folder).iterdir() if p.is_dir())
            click.echo(f"{variable}: {folder} ({', '.join(names)})")
