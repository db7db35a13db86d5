"""Networks on speaker-adapted features beside their own, from synthetic digits to hypotheses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from numpy.typing import NDArray

from mariana_asr.archives import iterate_matrices
from mariana_asr.cli.main import main
from mariana_asr.corpus.datadir import DataDir, read_data_dir, read_table
from mariana_asr.decode.decoder import decode, hypothesis_file
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.features.cmvn import accumulate_cmvn_stats, apply_cmvn
from mariana_asr.features.deltas import add_deltas
from mariana_asr.features.linear import read_matrix_file, read_speaker_transforms
from mariana_asr.features.splice import splice
from mariana_asr.nnet.acoustic_model import AcousticModel

RECIPE: dict[str, Any] = yaml.safe_load("""
name: adapted
corpus:
  preparer: espeak_digits
  train_voices: [en-us+m1, en-us+f1, en+m2]
  dev_voices: [en-us+m4]
  test_voices: [en-us+m6]
  train_strings: 10
  dev_strings: 5
  test_strings: 2
  snr_db: [15]
features: {sample_frequency: 8000, use_energy: false}
lang:
  lm: {type: word_loop, words: [zero, one, two, three, four, five, six, seven, eight, nine]}
align:
  mono: {totgauss: 100, num_iters: 10, max_iter_inc: 6}
  tri2: &tri {num_leaves: 40, totgauss: 120, num_iters: 5, max_iter_inc: 3, realign_iters: [3],
              dim: 20, mllt_iters: [2]}
  tri3: {num_leaves: 40, totgauss: 120, num_iters: 5, max_iter_inc: 3, realign_iters: [3],
         fmllr_iters: [2]}
  realign: {}
model:
  hidden_layers: 1
  hidden_dim: 64
  adapted: true
  features: {type: fbank, sample_frequency: 8000, num_mel_bins: 15}
  transform: {delta_order: 1}
train: {schedule: {max_iters: 3}}
decode: {sets: [dev], beam: 9, lattice_beam: 4, lm_weights: [6.0, 10.0]}
""")
NARROW = DecodeOptions(beam=6.0, lattice_beam=2.0, lm_weights=(10.0,))
Matrix = NDArray[np.float32]


def command(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def train(folder: Path, *words: object) -> str:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    status, output = command(
        "train", folder / "recipe.yaml", "--exp", folder / "exp", "-j", 1, *words
    )
    assert status == 0, output
    return output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment's folder, when all has run once."""
    folder = tmp_path_factory.mktemp("finished")
    train(folder)
    return folder / "exp" / "adapted"


def network_inputs(store: FrameStore) -> dict[str, Matrix]:
    numbers = range(store.num_utterances)
    names = store.utterance_names(numbers)
    return {
        name: store.read_utterance(number)[0] for name, number in zip(names, numbers, strict=True)
    }


def raw_features(folder: Path) -> dict[str, Matrix]:
    return dict(iterate_matrices(folder / "feats.ark"))


def by_speaker(raw: dict[str, Matrix], data: DataDir) -> dict[str, Matrix]:
    """Features without the means of their speakers."""
    stats = {
        speaker: sum(accumulate_cmvn_stats(raw[u]) for u in utterances)
        for speaker, utterances in data.spk2utt.items()
    }
    return {u: apply_cmvn(feats, stats[data.utt2spk[u]]) for u, feats in raw.items()}


def test_the_network_was_given_what_the_gmms_see_beside_its_own_features(finished: Path) -> None:
    data = read_data_dir(finished / "features" / "train")
    inputs = network_inputs(FrameStore.open(finished / "frames" / "train"))
    assert inputs.keys() == data.utt2spk.keys()
    mfcc = raw_features(finished / "features" / "train")
    both = raw_features(finished / "features_net" / "train")
    for utterance, feats in both.items():
        assert feats.shape == (len(mfcc[utterance]), 13 + 15)
        assert np.array_equal(feats[:, :13], mfcc[utterance])
    fbank = {utterance: feats[:, 13:] for utterance, feats in both.items()}
    lda = read_matrix_file(finished / "tri3" / "final.mat")
    transforms = dict(iterate_matrices(finished / "ali" / "train" / "trans.1"))
    assert lda.shape == (20, 9 * 13)
    assert len({matrix.tobytes() for matrix in transforms.values()}) == 3
    gmms, own = by_speaker(mfcc, data), by_speaker(fbank, data)
    for utterance, given in inputs.items():
        fmllr = transforms[data.utt2spk[utterance]]
        adapted = splice(gmms[utterance], 4, 4) @ lda.T @ fmllr[:, :20].T + fmllr[:, 20]
        expected = np.hstack([adapted, add_deltas(own[utterance], 1)])
        assert given.shape == expected.shape == (len(mfcc[utterance]), 20 + 2 * 15)
        assert np.allclose(given, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(("network", "frames"), [("dnn", "frames"), ("dnn2", "frames_dnn2")])
def test_decoding_gives_a_network_bit_by_bit_what_it_was_trained_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, frames: str
) -> None:
    inputs = network_inputs(FrameStore.open(finished / frames / "train"))
    data = read_data_dir(finished / "features_net" / "train")
    few = data.subset(data.utterances[::7])
    seen = []
    score = AcousticModel.log_likelihoods

    def note(model: AcousticModel, feats: Matrix, prior_scale: float = 1.0) -> Matrix:
        seen.append(feats)
        return score(model, feats, prior_scale)

    monkeypatch.setattr(AcousticModel, "log_likelihoods", note)
    transforms = read_speaker_transforms(finished / "ali" / "train")
    decode(
        replace(data, utt2spk=few.utt2spk),
        finished / network,
        finished / "graph_tri3",
        tmp_path,
        NARROW,
        transforms=transforms,
    )
    assert len(seen) == len(few.utterances) >= 4
    for utterance, feats in zip(few.utterances, seen, strict=True):
        assert np.array_equal(feats, inputs[utterance])


def test_sets_are_decoded_with_the_transforms_of_the_gmms_own_decoding(
    finished: Path, tmp_path: Path
) -> None:
    data, graph = finished / "features_net" / "dev", finished / "graph_tri3"
    options = ["beam=9", "lattice_beam=4", "lm_weights=[6.0, 10.0]"]
    words = ("decode", data, finished / "dnn", graph)
    transforms = finished / "decode_tri3" / "dev"
    status, output = command(
        *words, tmp_path / "same", "-j", 1, "--transform-dir", transforms, *options
    )
    assert status == 0, output
    for weight in (6.0, 10.0):
        ours = hypothesis_file(tmp_path / "same", weight, 0.0)
        assert (
            ours.read_text()
            == hypothesis_file(finished / "decode_dnn" / "dev", weight, 0.0).read_text()
        )
    text = read_table(finished / "features" / "dev" / "text")
    alike = sum(words == text[utterance] for utterance, words in read_table(ours).items())
    assert alike >= 3


def test_an_utterance_without_its_features_is_listed_and_has_no_words(
    finished: Path, tmp_path: Path
) -> None:
    data = read_data_dir(finished / "features_net" / "dev")
    first, *others = data.utterances
    some = replace(data, feats={u: place for u, place in (data.feats or {}).items() if u != first})
    transforms = read_speaker_transforms(finished / "decode_tri3" / "dev")
    model, graph = finished / "dnn", finished / "graph_tri3"
    summary = decode(some, model, graph, tmp_path, NARROW, transforms=transforms)
    assert (summary.utterances, summary.decoded, summary.skipped) == (5, 4, 1)
    assert first in (tmp_path / "skipped.txt").read_text()
    hypotheses = read_table(hypothesis_file(tmp_path, 10.0, 0.0))
    assert hypotheses.pop(first) == ""
    assert all(hypotheses[utterance] for utterance in others)


def test_decoding_without_transforms_is_refused_with_what_to_do(
    finished: Path, tmp_path: Path
) -> None:
    data, graph = finished / "features_net" / "dev", finished / "graph_tri3"
    status, output = command("decode", data, finished / "dnn", graph, tmp_path / "out")
    assert status == 1
    assert "the model takes features that are adapted to each speaker" in output
    assert "--transform-dir" in output
    assert not (tmp_path / "out").exists()
    # Transforms of other speakers leave nothing to decode.
    status, output = command(
        "decode", data, finished / "dnn", graph, tmp_path / "out", "-j", 1,
        "--transform-dir", finished / "ali" / "train",
    )  # fmt: skip
    assert status == 1
    assert "no fMLLR transform of its speaker enus_m4" in output
    status, output = command(
        "decode", data, finished / "dnn", graph, tmp_path / "out", "--transform-dir", tmp_path
    )
    assert status == 1
    assert "no trans.* here" in output
    # GMMs estimate their own.
    status, output = command(
        "decode", finished / "features" / "dev", finished / "tri3", graph, tmp_path / "out",
        "--transform-dir", finished / "decode_tri3" / "dev",
    )  # fmt: skip
    assert status == 1
    assert "Give no transforms" in output
    # Features of one kind alone are not what the network knows.
    status, output = command(
        "decode", finished / "features" / "dev", finished / "dnn", graph, tmp_path / "out",
        "--transform-dir", finished / "decode_tri3" / "dev",
    )  # fmt: skip
    assert status == 1
    assert "type (model: joined, data: mfcc)" in output


def test_alignment_with_the_network_needs_the_transforms_too(
    finished: Path, tmp_path: Path
) -> None:
    words = ("align", finished / "features_net" / "dev", finished / "lang", finished / "dnn")
    status, output = command(*words, tmp_path / "ali", "-j", 1)
    assert status == 1
    assert "--transforms" in output
    status, output = command(
        *words, tmp_path / "ali", "-j", 1, "--transforms", finished / "ali" / "dev"
    )
    assert status == 0, output
    ours, recipes = (
        folder / "scores.txt" for folder in (tmp_path / "ali", finished / "ali_dnn" / "dev")
    )
    assert ours.read_text() == recipes.read_text()


def test_the_shell_command_trains_the_same_network(finished: Path, tmp_path: Path) -> None:
    sets = finished / "features_net", finished / "ali"
    words = [
        "train-nnet", sets[0] / "train", sets[1] / "train", sets[0] / "dev", sets[1] / "dev",
        tmp_path / "dnn", "model.adapted=true", "model.hidden_layers=1", "model.hidden_dim=64",
        "model.transform.delta_order=1", "train.schedule.max_iters=3",
    ]  # fmt: skip
    status, output = command(*words)
    assert status == 0, output
    ours, recipes = (
        AcousticModel.load(f / "nnet.pt") for f in (tmp_path / "dnn", finished / "dnn")
    )
    assert ours.front_end == recipes.front_end
    others = recipes.network.state_dict()
    for name, weights in ours.network.state_dict().items():
        assert weights.equal(others[name]), name
    # Where the network itself has aligned there are no GMMs, so another folder has to be named.
    words[2] = finished / "ali_dnn" / "train"
    words[5] = tmp_path / "dnn2"
    status, output = command(*words)
    assert status == 1
    assert "ali_dnn" in output
    status, output = command(*words, "--transform-dir", finished / "ali" / "train")
    assert status == 0, output


def test_adapted_features_alone_or_own_ones_alone_use_what_has_been_made(finished: Path) -> None:
    folder = finished.parents[1]
    for overrides, frame_dim, made in (
        (["model.features=null", "model.transform={}"], 20, "features"),
        (["model.adapted=false"], 2 * 15, "features_net"),
    ):
        output = train(folder, "align.realign=null", *overrides)
        assert "stage tri3: up to date" in output
        model = AcousticModel.load(finished / "dnn" / "nnet.pt")
        assert model.network.frame_dim == frame_dim
        assert model.front_end.adapted == (frame_dim == 20)
        model.front_end.check(finished / made / "dev")
        texts = read_table(finished / "features" / "dev" / "text")
        hypotheses = read_table(hypothesis_file(finished / "decode_dnn" / "dev", 10.0, 0.0))
        assert sum(texts[u] == words for u, words in hypotheses.items()) >= 3
