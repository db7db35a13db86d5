"""What a model's transition ids and a lang directory's phones have to do with each other."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import TransitionModel, read_transition_model
from mariana_asr.errors import FormatError, summarise
from mariana_asr.lang.langdir import Lang, read_symbol_table


def speech_transition_ids(transition_model: TransitionModel, lang: Lang) -> NDArray[np.bool_]:
    """For each transition id whether its phone is no silence; index 0 is none and False."""
    silence = set(lang.silence_phones)
    count = transition_model.num_transition_ids
    phones = map(transition_model.transition_id_to_phone, range(1, count + 1))
    return np.array([False, *(phone not in silence for phone in phones)])


def check_phones(lang: Lang, model_dir: Path) -> None:
    """Check that a model was trained with the phones of a lang directory.

    Without a ``phones.txt`` beside it, only the numbers of the phones can be compared.

    Raises:
        FormatError: Their ids differ (Kaldi: utils/lang/check_phones_compatible.sh); or there is
            no model.
    """
    table = model_dir / "phones.txt"
    if not table.exists():
        _check_phone_ids(lang, model_dir / "final.mdl")
        return
    trained = {s: n for s, n in read_symbol_table(table).items() if not s.startswith("#")}
    given = {symbol: n for symbol, n in lang.phones.items() if not symbol.startswith("#")}
    if differing := sorted(
        symbol
        for symbol in trained.keys() | given.keys()
        if trained.get(symbol) != given.get(symbol)
    ):
        raise FormatError(
            f"the model has other phones than {lang.path}: {summarise(differing)}",
            where=table,
            remedy="Use the lang directory that the model was trained with",
        )


def _check_phone_ids(lang: Lang, model: Path) -> None:
    trained = set(read_transition_model(model).phones)
    given = {*lang.silence_phones, *lang.nonsilence_phones}
    if trained != given:
        raise FormatError(
            f"the model has other phones than {lang.path}: {len(trained)}, with ids up to "
            f"{max(trained)}, not {len(given)} up to {max(given)}",
            where=model,
            remedy="Use the lang directory that the model was trained with",
        )
