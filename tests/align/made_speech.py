"""A made-up language of four phones, and speech in it whose boundaries are known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from plain_phones import alignment_to_phones

from mariana_asr.archives import ArchiveWriter
from mariana_asr.corpus.datadir import DataDir, read_data_dir, read_table
from mariana_asr.features.cmvn import accumulate_cmvn_stats
from mariana_asr.lang.langdir import Lang

# Every phone has several neighbours on either side: else a boundary could lie anywhere between two.
LEXICON = {"ba": "B A", "ob": "O B", "ad": "A D", "do": "D O", "bado": "B A D O"}
PHONES = ["SIL", "A", "B", "D", "O"]
DIM = 4


@dataclass
class Made:
    """Speech made of Gaussians: each phone has its own mean.

    ``truth`` gives the index in PHONES of each frame of each utterance.
    """

    data: DataDir
    lang: Lang
    truth: dict[str, np.ndarray]


def write_data_dir(
    path: Path, feats: dict[str, np.ndarray], text: dict[str, str], speakers: dict[str, str]
) -> DataDir:
    with ArchiveWriter(path / "feats") as writer:
        for utterance in sorted(feats):
            writer.write(utterance, feats[utterance])
    stats: dict[str, np.ndarray] = {}
    for utterance in sorted(feats):
        part = accumulate_cmvn_stats(feats[utterance])
        stats[speakers[utterance]] = stats.get(speakers[utterance], 0) + part
    with ArchiveWriter(path / "cmvn") as writer:
        for speaker in sorted(stats):
            writer.write(speaker, stats[speaker])
    scp = {name: read_table(path / f"{name}.scp") for name in ("feats", "cmvn")}
    DataDir(path, speakers, text=text, feats=scp["feats"], cmvn=scp["cmvn"]).write()
    return read_data_dir(path)


def phone_accuracy(alignments: dict[str, np.ndarray], made: Made, transition_model) -> float:
    """Part of all frames whose phone is the true one."""
    ids = np.array([made.lang.phones[phone] for phone in PHONES])
    right = [
        np.repeat(*np.array(alignment_to_phones(tids, transition_model)).T) == ids[made.truth[u]]
        for u, tids in alignments.items()
    ]
    return float(np.concatenate(right).mean())
