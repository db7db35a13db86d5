"""The decoding graph HCLG."""

import logging
import shutil
import time
from pathlib import Path

import numpy as np

from mariana_asr.errors import FormatError, StageError, summarise
from mariana_asr.files import write_text
from mariana_asr.kaldi import kaldi_hmm_gmm, kaldifst
from mariana_asr.lang.fst_arrays import from_fst, read_fst, to_fst, write_fst
from mariana_asr.lang.fst_operations import (
    push_special,
    remove_epsilons_locally,
    remove_output_arcs,
    remove_symbols,
)
from mariana_asr.lang.grammar import grammar_problems
from mariana_asr.lang.langdir import Lang, kaldi_message, read_lang
from mariana_asr.lang.options import GraphOptions

logger = logging.getLogger(__name__)


def make_graph(
    lang_dir: str | Path,
    context_dependency: "kaldi_hmm_gmm.ContextDependency",
    transition_model: "kaldi_hmm_gmm.TransitionModel",
    out_dir: str | Path,
    options: GraphOptions | None = None,
) -> None:
    """Build HCLG as Kaldi's utils/mkgraph.sh does.

    Writes ``HCLG.fst`` (type const), ``words.txt``, ``phones.txt``, ``num_pdfs``,
    ``disambig_tid.int`` and, under ``phones/``, the files that decoders and aligners read.
    ``HCLG.fst`` comes last, so where it stands the directory is whole.

    Args:
        lang_dir: A lang directory with ``L_disambig.fst`` and ``G.fst``.
        context_dependency: The model's decision tree.
        transition_model: The model's transitions.
        out_dir: The graph directory.
        options: Scales; the defaults are mkgraph.sh's.

    Raises:
        FormatError: A file of the lang directory is missing, malformed, or does not fit the
            model.
        StageError: No path is left in the graph, or it cannot be determinised.
    """
    options = options or GraphOptions()
    lang = read_lang(lang_dir)
    _check_model(lang, transition_model)
    began = time.monotonic()
    fst = _compose_lexicon_and_grammar(lang)
    clg, ilabels = kaldifst.compose_context(
        lang.disambig_phones,
        context_dependency.context_width,
        context_dependency.central_position,
        fst,
    )
    if options.remove_oov:
        clg = to_fst(remove_output_arcs(from_fst(clg), [lang.oov]))
        kaldifst.connect(clg)
    kaldifst.arcsort(clg, sort_type="ilabel")
    config = kaldi_hmm_gmm.HTransducerConfig(transition_scale=options.transition_scale)
    try:
        h, disambig_tids = kaldi_hmm_gmm.get_h_transducer(
            ilabels, context_dependency, transition_model, config
        )
    except RuntimeError as error:
        raise FormatError(
            f"the decision tree has no model for a phone in context: {kaldi_message(error)}",
            where=lang.path,
            remedy="Use the lang directory that the model was trained with",
        ) from error
    kaldifst.arcsort(h, sort_type="olabel")
    hclg = kaldifst.compose(h, clg)
    _determinize(hclg, f"H composed with CLG of {lang.path}")
    arrays = remove_epsilons_locally(remove_symbols(from_fst(hclg), disambig_tids))
    hclg = to_fst(arrays)
    kaldifst.connect(hclg)
    kaldifst.minimize_encoded(hclg)
    hclg = kaldi_hmm_gmm.add_self_loops(
        self_loop_scale=options.self_loop_scale,
        disambig_syms=[],
        reorder=True,
        trans_model=transition_model,
        ifst=hclg,
    )
    if not hclg.num_states:
        raise StageError("the decoding graph is empty", where=lang.path)
    _write(lang, hclg, disambig_tids, transition_model.num_pdfs, Path(out_dir))
    logger.info(
        "%s: HCLG of %d states in %.1f s", out_dir, hclg.num_states, time.monotonic() - began
    )


def _compose_lexicon_and_grammar(lang: Lang) -> "kaldifst.StdVectorFst":
    lexicon = read_fst(lang.path / "L_disambig.fst")
    grammar = read_fst(lang.path / "G.fst")
    problems = grammar_problems(from_fst(grammar), lang)
    if problems:
        raise FormatError("; ".join(problems), where=lang.path / "G.fst")
    kaldifst.arcsort(lexicon, sort_type="olabel")
    kaldifst.arcsort(grammar, sort_type="ilabel")
    fst = kaldifst.compose(lexicon, grammar)
    if not fst.num_states:
        raise StageError(
            "L and G share no path",
            where=lang.path,
            remedy="Was G.fst made for another words.txt?",
        )
    _determinize(fst, f"L composed with G of {lang.path}")
    kaldifst.minimize_encoded(fst)
    return to_fst(push_special(from_fst(fst)))


def _determinize(fst: "kaldifst.StdVectorFst", what: str) -> None:
    # Determinisation of an unfit grammar never ends; fit ones hardly grow.
    limit = 10 * fst.num_states + 10_000
    try:
        stopped_early = kaldifst.determinize_star(fst, max_states=limit, use_log=True)
    except RuntimeError as error:
        raise StageError(f"cannot be determinised: {kaldi_message(error)}", where=what) from error
    if stopped_early:
        raise StageError(
            f"cannot be determinised: more than {limit} states",
            where=what,
            remedy="Does G give two costs to one word string, or lack #0 on back-off arcs?",
        )
    if not fst.num_states:
        raise StageError("nothing is left after composition", where=what)


def _check_model(lang: Lang, transition_model: "kaldi_hmm_gmm.TransitionModel") -> None:
    modelled = {int(phone) for phone in transition_model.phones}
    unmodelled = set(lang.silence_phones + lang.nonsilence_phones) - modelled
    missing = [name for name, number in lang.phones.items() if number in unmodelled]
    if missing:
        raise FormatError(
            f"the model has no HMM for the phones {summarise(missing)}",
            where=lang.path / "phones.txt",
            remedy="Use the lang directory that the model was trained with",
        )


def _write(
    lang: Lang,
    hclg: "kaldifst.StdVectorFst",
    disambig_tids: list[int],
    num_pdfs: int,
    out: Path,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "HCLG.fst").unlink(missing_ok=True)
    (out / "phones").mkdir(exist_ok=True)
    for name in ("words.txt", "phones.txt"):
        shutil.copyfile(lang.path / name, out / name)
    for pattern in ("word_boundary", "align_lexicon", "optional_silence", "disambig", "silence"):
        for file in sorted((lang.path / "phones").glob(f"{pattern}.*")):
            shutil.copyfile(file, out / "phones" / file.name)
    write_text(out / "disambig_tid.int", "".join(f"{tid}\n" for tid in np.asarray(disambig_tids)))
    write_text(out / "num_pdfs", f"{num_pdfs}\n")
    write_fst(out / "HCLG.fst", hclg, const=True)
