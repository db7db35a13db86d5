"""Data that the tests of this room share: a made-up language, and some of AN4."""

import numpy as np
import pytest
from an4_speech import write_an4
from made_speech import DIM, LEXICON, PHONES, Made, write_data_dir

from mariana_asr.corpus.datadir import DataDir
from mariana_asr.lang.dictionary import Dictionary
from mariana_asr.lang.options import LangOptions
from mariana_asr.lang.prepare import prepare_lang


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    (folder / "lexicon.txt").write_text(
        "".join(f"{word} {phones}\n" for word, phones in LEXICON.items())
    )
    options = LangOptions(position_dependent_phones=False)
    lang = prepare_lang(Dictionary.from_lexicon(folder / "lexicon.txt"), options, folder / "lang")
    random = np.random.default_rng(0)
    means = random.normal(size=(len(PHONES), DIM)) * 6
    feats, text, truth = {}, {}, {}
    for number in range(40):
        words = random.choice(list(LEXICON), size=random.integers(2, 6)).tolist()
        phones = ["SIL"]
        for word in words:
            phones += LEXICON[word].split() + (["SIL"] if random.random() < 0.4 else [])
        phones += [] if phones[-1] == "SIL" else ["SIL"]
        frames = [
            index
            for phone in phones
            for index in [PHONES.index(phone)] * int(random.integers(6, 16))
        ]
        utterance = f"s{number % 4}-{number:02}"
        truth[utterance] = np.array(frames)
        feats[utterance] = means[frames] + random.normal(size=(len(frames), DIM))
        text[utterance] = " ".join(words)
    speakers = {utterance: utterance.split("-")[0] for utterance in feats}
    data = write_data_dir(folder / "data", feats, text, speakers)
    return Made(data, lang, truth)


@pytest.fixture(scope="session")
def an4(corpora, tmp_path_factory) -> DataDir:
    """The first 150 training utterances of AN4 with MFCC as the golden models saw them."""
    return write_an4(corpora, tmp_path_factory.mktemp("an4"), 150)
