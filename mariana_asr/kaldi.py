"""The one door to the wheels that wrap Kaldi's own code.

Importing kaldifst, kaldi_decoder or kaldilm before kaldi_hmm_gmm can hang for ever, and
kaldifst 1.8 builds FSTs that kaldi_hmm_gmm 1.1 refuses. So they are imported here, in the one
order that works, with their versions checked, and nowhere else (import-linter holds that).
"""

from importlib.metadata import PackageNotFoundError, version

from mariana_asr.errors import MissingPackageError

_SUPPORTED = {
    "kaldi-hmm-gmm": "1.1.",
    "kaldifst": "1.7.",
    "kaldi-decoder": "0.2.",
    "kaldilm": "1.15.",
    "kaldi-native-io": "1.",
}


def _check_versions() -> None:
    for package, supported in _SUPPORTED.items():
        try:
            installed = version(package)
        except PackageNotFoundError as error:
            raise MissingPackageError(
                f"the package {package} is not installed", remedy="pip install mariana-asr"
            ) from error
        if not installed.startswith(supported):
            raise MissingPackageError(
                f"{package} {installed} does not work here, {supported}x does",
                remedy=f"pip install '{package}=={supported}*'",
            )


_check_versions()

# isort: off
import kaldi_hmm_gmm  # noqa: E402
import kaldifst  # noqa: E402
import kaldi_decoder  # noqa: E402
import kaldilm  # noqa: E402
import kaldi_native_io  # noqa: E402
# isort: on

__all__ = ["kaldi_decoder", "kaldi_hmm_gmm", "kaldi_native_io", "kaldifst", "kaldilm"]
