"""Made-up alignments and contexts, whose phones and statistics are known, for tests of trees."""

from dataclasses import dataclass

import numpy as np

from mariana_asr.align.tree.statistics import ABSENT, TreeStats
from mariana_asr.kaldi import kaldi_hmm_gmm as khg
from mariana_asr.lang.topology import topology_text

SILENCE = 1
SPEECH = [2, 3, 4, 5, 6]


def made_topology(states: int = 3):
    topology = khg.HmmTopology()
    topology.read(topology_text(SPEECH, [SILENCE], num_nonsil_states=states))
    return topology


def monophone_model(topology):
    """A tree and a transition model without context, every phone for itself."""
    sets = [[phone] for phone in (SILENCE, *SPEECH)]
    tree = khg.monophone_context_dependency_shared(sets, topology.get_phone_to_num_pdf_classes())
    return tree, khg.TransitionModel(tree, topology)


@dataclass
class Spoken:
    """One utterance: transition ids, and what they mean frame by frame."""

    tids: np.ndarray
    phones: list[int]
    lengths: list[int]
    pdf_classes: list[int]


def speak(transition_model, phones, random, *, reordered: bool = True) -> Spoken:
    """Walk through the HMMs of some phones.

    Frames that stay in a state stand before the way out of it, or behind where ``reordered``.
    """
    _, phone_to_entry, entries = transition_model.topo.__getstate__()
    first = {
        state.__getstate__()[:2]: transition_model.state2id[number]
        for number, state in enumerate(transition_model.tuples, 1)
    }
    tids, lengths, pdf_classes = [], [], []
    for phone in phones:
        topology = [state.__getstate__() for state in entries[phone_to_entry[phone]]]
        state, begin = 0, len(tids)
        while topology[state][2]:
            ways = [(index, to) for index, (to, _) in enumerate(topology[state][2]) if to != state]
            loop = next(index for index, (to, _) in enumerate(topology[state][2]) if to == state)
            way, target = ways[random.integers(len(ways))]
            stays = [first[phone, state] + loop] * int(random.integers(0, 3))
            out = [first[phone, state] + way]
            tids += out + stays if reordered else stays + out
            pdf_classes += [topology[state][0]] * (1 + len(stays))
            state = target
        lengths.append(len(tids) - begin)
    return Spoken(np.array(tids, dtype=np.int32), list(phones), lengths, pdf_classes)


def some_phones(random, count: int) -> list[int]:
    """Phones of which no two neighbours are alike."""
    phones = [SILENCE]
    while len(phones) < count:
        phone = int(random.choice([SILENCE, *SPEECH]))
        if phone != phones[-1]:
            phones.append(phone)
    return phones


def made_stats(random, contexts: int = 150, dim: int = 3) -> TreeStats:
    """Statistics of triphones whose means depend on all that can be asked about."""
    rows = {}
    effect = random.normal(size=(3, 7, dim)) * np.array([2.0, 4.0, 2.0])[:, None, None]
    state_effect = random.normal(size=(5, dim)) * 2
    for _ in range(contexts):
        phones = [int(phone) for phone in random.integers(0, 7, size=3)]
        phones[1] = int(random.integers(1, 7))
        pdf_class = int(random.integers(0, 5 if phones[1] == SILENCE else 3))
        mean = sum(effect[place, phone] for place, phone in enumerate(phones))
        if phones[1] == SILENCE:
            mean = effect[1, SILENCE]
            phones = [ABSENT, SILENCE, ABSENT]
        feats = mean + state_effect[pdf_class] + random.normal(size=(random.integers(1, 60), dim))
        rows.setdefault((pdf_class, *phones), []).append(feats)
    keys = sorted(rows)
    frames = [np.concatenate(rows[key]) for key in keys]
    sums = [np.concatenate([[len(f)], f.sum(axis=0), np.square(f).sum(axis=0)]) for f in frames]
    return TreeStats(np.array(keys, dtype=np.int32), np.array(sums), 1)
