"""Data that the tests of this room share."""

from pathlib import Path

import pytest

from mariana_asr.archives import ArchiveWriter, iterate_matrices, read_script
from mariana_asr.corpus.datadir import DataDir, read_table
from mariana_asr.features.cmvn import accumulate_cmvn_stats


@pytest.fixture(scope="session")
def an4_test(golden: Path, tmp_path_factory) -> DataDir:
    """Kaldi's AN4 test set."""
    source, folder = golden / "an4_kaldi", tmp_path_factory.mktemp("an4")
    features = dict(iterate_matrices(source / "features" / "mfcc_test.ark"))
    speakers = {utterance: utterance.split("-")[0] for utterance in features}
    with ArchiveWriter(folder / "feats") as writer:
        for utterance in sorted(features):
            writer.write(utterance, features[utterance])
    with ArchiveWriter(folder / "cmvn") as writer:
        for speaker in sorted(set(speakers.values())):
            own = [features[u] for u in sorted(features) if speakers[u] == speaker]
            writer.write(speaker, sum(accumulate_cmvn_stats(matrix) for matrix in own))
    data = DataDir(
        folder,
        speakers,
        text=read_table(source / "test_ref.txt"),
        feats=read_script(folder / "feats.scp"),
        cmvn=read_script(folder / "cmvn.scp"),
    )
    data.write()
    return data
