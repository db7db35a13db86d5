"""Small dictionaries, and costs of paths through FSTs, for the lang room's tests."""

from collections.abc import Sequence
from pathlib import Path

from mariana_asr.kaldi import kaldi_hmm_gmm, kaldifst
from mariana_asr.lang.langdir import Lang

TOY_LEXICON = """\
one W AH N
two T UW
too T UW
to T UW
to T AH
ton T AH N
a AH
<UNK> SPN
"""


def write_dict(folder: Path, lexicon: str, silence: str = "SIL\nSPN\n", speech: str = "") -> Path:
    """Write a dict directory; phones of speech default to those of the lexicon."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lexicon.txt").write_text(lexicon)
    (folder / "silence_phones.txt").write_text(silence)
    phones = {phone for line in lexicon.splitlines() for phone in line.split()[1:]}
    speech = speech or "".join(f"{phone}\n" for phone in sorted(phones - set(silence.split())))
    (folder / "nonsilence_phones.txt").write_text(speech)
    (folder / "optional_silence.txt").write_text("SIL\n")
    return folder


def path_cost(
    fst: "kaldifst.StdVectorFst",
    inputs: Sequence[int] | None = None,
    outputs: Sequence[int] | None = None,
) -> float | None:
    """Cost of the best path with these input and output labels; None where there is no path."""
    if inputs is not None:
        fst = fst.copy()
        kaldifst.arcsort(fst, sort_type="ilabel")
        fst = kaldifst.compose(kaldifst.make_linear_acceptor(list(inputs)), fst)
    if outputs is not None:
        fst = fst.copy()
        kaldifst.arcsort(fst, sort_type="olabel")
        fst = kaldifst.compose(fst, kaldifst.make_linear_acceptor(list(outputs)))
    if not fst.num_states:
        return None
    _, _, _, weight = kaldifst.get_linear_symbol_sequence(kaldifst.shortest_path(fst))
    return float(weight.value)


def monophone_model(lang: Lang) -> tuple[object, object]:
    """A tree of one leaf a state and phone, and its transition model."""
    topology = lang.topology()
    tree = kaldi_hmm_gmm.monophone_context_dependency(
        lang.silence_phones + lang.nonsilence_phones, topology.get_phone_to_num_pdf_classes()
    )
    return tree, kaldi_hmm_gmm.TransitionModel(tree, topology)
