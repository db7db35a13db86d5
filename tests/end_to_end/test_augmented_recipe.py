"""Recipes that train their network on copies at other speeds, in rooms and in noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from mariana_asr.align.formats.model_io import read_transition_model, transition_id_to_pdf
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.cli.main import main
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.features.linear import require_speaker_transforms

RECIPE: dict[str, Any] = {
    "name": "digits",
    "corpus": {
        "preparer": "espeak_digits",
        "train_voices": ["en-us+m1", "en-us+f1", "en+m2", "en-gb-x-rp+Denis"],
        "dev_voices": ["en-us+m4"],
        "test_voices": ["en-us+m6"],
        "train_strings": 10,
        "dev_strings": 4,
        "test_strings": 4,
        "snr_db": [20],
    },
    "features": {"sample_frequency": 8000, "use_energy": False},
    "lang": {"lm": {"type": "word_loop"}},
    "align": {
        "mono": {"totgauss": 100, "num_iters": 8, "max_iter_inc": 6},
        "tri3": {"num_leaves": 40, "totgauss": 100, "num_iters": 5, "max_iter_inc": 3},
        "realign": {},
    },
    "augmentation": {
        "speeds": [0.9, 1.0],
        "volume": [0.5, 2.0],
        "noise": {"kinds": ["pink", "babble"], "voices": [1, 2], "probability": 0.8},
        "reverberation": {},
        "copies": 2,
    },
    "model": {
        "features": {"type": "fbank", "sample_frequency": 8000, "num_mel_bins": 20},
        "adapted": True,
        "hidden_layers": 1,
        "hidden_dim": 32,
    },
    "train": {"schedule": {"max_iters": 1}},
    "decode": {"sets": ["dev"], "beam": 9.0, "lattice_beam": 4.0, "lm_weights": [10.0]},
}


def train(folder: Path, recipe: dict[str, Any], *words: str) -> str:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = ["train", str(folder / "recipe.yaml"), "--exp", str(folder / "exp"), "-j", "1"]
    done = CliRunner().invoke(main, [*command, *words])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe has run once."""
    folder = tmp_path_factory.mktemp("augmented")
    train(folder, RECIPE)
    return folder / "exp" / "digits"


def pdfs_of(ali: Path) -> dict[str, np.ndarray]:
    pdfs = transition_id_to_pdf(read_transition_model(ali / "final.mdl"))
    return {utterance: pdfs[tids] for utterance, tids in read_alignments(ali).items()}


def stored(store: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    frames = FrameStore.open(store)
    names = frames.utterance_names(range(frames.num_utterances))
    assert len(set(names)) == frames.num_utterances
    return {name: frames.read_utterance(number) for number, name in enumerate(names)}


def test_copies_at_other_speeds_are_aligned_each_speaker_with_a_transform_of_its_own(
    finished: Path,
) -> None:
    recorded = read_data_dir(finished / "features/train")
    copies = read_data_dir(finished / "features_sp/train_sp")
    assert copies.utterances == [f"sp0.9-{u}" for u in recorded.utterances]
    plain, slow = (pdfs_of(finished / ali) for ali in ("ali/train", "ali_sp/train_sp"))
    assert plain.keys() == recorded.utt2spk.keys()
    assert slow.keys() == copies.utt2spk.keys()
    ratios = [len(slow[f"sp0.9-{u}"]) / len(plain[u]) for u in plain]
    assert np.allclose(ratios, 1 / 0.9, atol=0.03)
    transforms = require_speaker_transforms(finished / "ali_sp/train_sp")
    assert transforms.keys() == set(copies.utt2spk.values())


@pytest.mark.parametrize("frames", ["frames", "frames_dnn2"])
def test_distorted_copies_have_the_labels_of_the_clean_ones(finished: Path, frames: str) -> None:
    ali = "ali" if frames == "frames" else "ali_dnn"
    labels = pdfs_of(finished / ali / "train") | pdfs_of(finished / f"{ali}_sp" / "train_sp")
    assert len(labels) == 80
    packed = stored(finished / frames / "train")
    assert packed.keys() == {f"aug{n}-{utterance}" for n in (1, 2) for utterance in labels}
    for name, (_, targets) in packed.items():
        np.testing.assert_array_equal(targets, labels[name.partition("-")[2]])
    # The two copies differ in noise, rooms and volumes, in the adapted features and in the own.
    for utterance in labels:
        one, other = (packed[f"aug{number}-{utterance}"][0] for number in (1, 2))
        assert one.shape == other.shape
        differs = np.abs(one - other).max(axis=0) > 1e-3
        assert differs.all()
    dev = stored(finished / frames / "dev")
    assert dev.keys() == read_data_dir(finished / "features/dev").utt2spk.keys()


def test_only_what_depends_on_the_noise_is_made_again(finished: Path) -> None:
    folder = finished.parents[1]
    assert "to run" not in train(folder, RECIPE, "--dry-run")
    output = train(folder, RECIPE, "--dry-run", "augmentation.noise.probability=0.5")
    rows = [line.split() for line in output.splitlines() if line.startswith("│")]
    to_run = [row[1] for row in rows if row[3:5] == ["to", "run"]]
    expected = ["features_aug", "frames", "dnn", "decode_dnn", "ali_dnn", "ali_dnn_sp"]
    assert to_run == [*expected, "frames_dnn2", "dnn2", "decode_dnn2", "score"]


def test_the_default_is_copies_at_two_other_speeds_as_they_are(finished: Path) -> None:
    folder = finished.parents[1]
    model = {"hidden_layers": 1, "hidden_dim": 32, "transform": {"delta_order": 0, "cmvn": "none"}}
    align = {name: RECIPE["align"][name] for name in ("mono", "tri3")}
    output = train(folder, RECIPE | {"augmentation": {}, "model": model, "align": align})
    assert "stage tri3: up to date" in output
    packed = stored(finished / "frames/train")
    recorded = read_data_dir(finished / "features/train").utterances
    assert packed.keys() == {p + u for u in recorded for p in ("", "sp0.9-", "sp1.1-")}
    labels = pdfs_of(finished / "ali/train") | pdfs_of(finished / "ali_sp/train_sp")
    assert {name: len(features) for name, (features, _) in packed.items()} == {
        name: len(pdfs) for name, pdfs in labels.items()
    }
