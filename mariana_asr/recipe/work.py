"""What the stages of an experiment do: a method for each, which fills the stage's folder."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.alignment import align
from mariana_asr.align.formats.model_io import read_transition_model
from mariana_asr.align.formats.tree_io import read_tree
from mariana_asr.align.pronunciations.probabilities import learn_pronunciations
from mariana_asr.align.training.lda_mllt import train_lda_mllt
from mariana_asr.align.training.mono import train_mono
from mariana_asr.align.training.sat import train_sat
from mariana_asr.align.training.triphone import train_deltas
from mariana_asr.corpus.datadir import DataDir, read_data_dir
from mariana_asr.corpus.prepare import prepare_corpus
from mariana_asr.decode.decoder import decode
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.decode.scorers import NETWORK, load_network
from mariana_asr.engine.frames.packing import PackOptions
from mariana_asr.engine.training.summary import LOG_FILE
from mariana_asr.errors import DataError, RecipeError
from mariana_asr.features.extract import extract_features
from mariana_asr.features.linear import require_speaker_transforms
from mariana_asr.lang.graph import make_graph
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.options import narrowed
from mariana_asr.recipe.kaldi_import import check_overlap, copy_lang, import_alignments
from mariana_asr.recipe.language import make_lang
from mariana_asr.recipe.load import recipe_text
from mariana_asr.recipe.network import (
    count_parameters,
    pack_aligned_frames,
    train_acoustic_model,
)
from mariana_asr.recipe.runner import stage_seconds
from mariana_asr.recipe.schema import Recipe
from mariana_asr.score.report import read_log, write_report
from mariana_asr.score.results import Result, write_results
from mariana_asr.score.training_figures import frames_per_second
from mariana_asr.score.tuning import score_decodes

TRAIN, DEV = "train", "dev"

NETWORK_FEATURES = "features_net"
"""The stage that computes features of the network's own."""


class StageWork:
    """The work of an experiment's stages; each method is given the folder to fill."""

    def __init__(self, recipe: Recipe, folder: Path, *, jobs: int, allow_pipes: bool) -> None:
        """Arguments as of ``Experiment``."""
        self.recipe = recipe
        self.folder = folder
        self.jobs = jobs
        self.allow_pipes = allow_pipes

    def corpus(self, out: Path) -> None:
        """Data directories and dictionary."""
        prepare_corpus(self.recipe.corpus, out)
        self._names_of_decoded_sets(out)
        if self.recipe.align.kaldi is not None:
            # Now, not after hours of feature extraction.
            check_overlap(read_data_dir(out / TRAIN), self.recipe.align.kaldi)

    def features(self, out: Path) -> None:
        """Features and CMVN statistics of every set."""
        for data in self._corpus_sets():
            extract_features(
                data,
                out / data.path.name,
                self.recipe.features,
                jobs=self.jobs,
                allow_pipes=self.allow_pipes,
            )

    def network_features(self, out: Path) -> None:
        """The network's own features of every set, after those of the GMMs if it takes both.

        Raises:
            DataError: There is no audio.
        """
        model = self.recipe.model
        assert model.features is not None, "the stage is only there where the recipe asks for it"
        for data in self._corpus_sets():
            if not data.wav:
                raise DataError(
                    "no audio to compute the network's own features of",
                    where=data.path,
                    remedy="Leave out model.features",
                )
            extract_features(
                data,
                out / data.path.name,
                model.features,
                beside=self._set(data.path.name) if model.adapted else None,
                jobs=self.jobs,
                allow_pipes=self.allow_pipes,
            )

    def lang(self, out: Path) -> None:
        """The lang directory, with G."""
        section, kaldi = self.recipe.lang, self.recipe.align.kaldi
        transcripts = read_data_dir(self.folder / "corpus" / TRAIN).text.values()
        if kaldi is not None:
            copy_lang(kaldi, section, transcripts, out)
        else:
            make_lang(section, self._dictionary, transcripts, out)

    def gmm(self, rung: str, before: str | None, out: Path) -> None:
        """A GMM system, on the alignments of the one before, and its own of the training set."""
        align, train, lang = self.recipe.align, self._set(TRAIN), self._lang()
        if before is None:
            train_mono(train, lang, align.mono, out, jobs=self.jobs)
            return
        source = self.folder / before
        if rung == "tri1" and align.tri1 is not None:
            train_deltas(train, lang, source, align.tri1, out, jobs=self.jobs)
        elif rung == "tri2" and align.tri2 is not None:
            train_lda_mllt(train, lang, source, align.tri2, out, jobs=self.jobs)
        elif rung == "tri3" and align.tri3 is not None:
            train_sat(train, lang, source, align.tri3, out, jobs=self.jobs)

    def ali(self, out: Path) -> None:
        """Alignments of training and dev set with the last GMM system: the network's targets."""
        last = self.folder / self.recipe.align.rungs[-1]
        for name in (TRAIN, DEV):
            options = self.recipe.align.labels
            align(self._set(name), self._lang(), last, out / name, options, jobs=self.jobs)

    def import_ali(self, out: Path) -> None:
        """Kaldi's alignments of training and dev set."""
        kaldi, options = self.recipe.align.kaldi, self.recipe.align.labels
        assert kaldi is not None, "the stage is only there where the recipe names them"
        check_overlap(self._set(TRAIN), kaldi)
        for name in (TRAIN, DEV):
            import_alignments(
                self._set(name),
                self._lang(),
                kaldi,
                options,
                out / name,
                jobs=self.jobs,
                adapted=self.recipe.model.adapted,
            )

    def realign(self, out: Path) -> None:
        """Alignments of training and dev set with the first network."""
        options = self.recipe.align.realign
        assert options is not None, "the stage is only there where the recipe asks for it"
        network = self.folder / "dnn"
        scorer = load_network(network, prior_scale=options.prior_scale)
        for name in (TRAIN, DEV):
            align(
                self._network_set(name),
                self._lang(),
                network,
                out / name,
                options,
                jobs=self.jobs,
                acoustic_model=scorer,
                transforms=self._transforms(self.folder / "ali" / name),
            )

    def lang_pron(self, out: Path) -> None:
        """The lang directory with probabilities of pronunciations and silence."""
        train = self._set(TRAIN)
        learn_pronunciations(
            train,
            self._lang(),
            self.folder / "ali" / TRAIN,
            self._dictionary,
            out / "dict",
            self.recipe.align.pronunciations,
            jobs=self.jobs,
        )
        make_lang(self.recipe.lang, out / "dict", train.text.values(), out)

    def graph(self, lang: str, model: str, out: Path) -> None:
        """HCLG for the tree and the transitions of a model."""
        model_dir = self.folder / model
        make_graph(
            self.folder / lang,
            read_tree(model_dir / "tree"),
            read_transition_model(model_dir / "final.mdl"),
            out,
            self.recipe.lang.graph,
        )

    def decode(self, system: str, graph: str, out: Path) -> None:
        """Hypotheses of a system."""
        options = narrowed(self.recipe.decode, DecodeOptions)
        is_network = system in self.recipe.align.networks
        for data in self._decoded_sets():
            name, transforms = data.path.name, None
            if is_network:
                data = self._network_set(name)
                transforms = self._transforms(self.folder / self.recipe.adapting_stage / name)
            decode(
                data,
                self.folder / system,
                self.folder / graph,
                out / name,
                options,
                jobs=self.jobs,
                transforms=transforms,
            )

    def frames(self, ali: str, out: Path) -> None:
        """Features and targets, packed for training."""
        for name in (TRAIN, DEV):
            pack_aligned_frames(
                self._network_set(name),
                self.folder / ali / name,
                self.recipe.model,
                out / name,
                PackOptions(storage=self.recipe.engine.storage),
                transform_dir=self.folder / "ali" / name,
            )

    def network(self, frames: str, ali: str, out: Path) -> None:
        """A network."""
        train_acoustic_model(
            self.folder / frames / TRAIN,
            self.folder / frames / DEV,
            self.folder / ali / TRAIN,
            self.recipe.model,
            self.recipe.train,
            self.recipe.engine,
            out,
        )

    def score(self, out: Path) -> None:
        """Error rates: ``results.json`` and ``RESULTS`` in the experiment's folder, the report."""
        results: list[Result] = []
        networks = self.recipe.align.networks
        logs = {name: read_log(self.folder / name / LOG_FILE) for name in self.recipe.align.systems}
        for system in self.recipe.align.systems:
            decoded = {
                data.path.name: (self.folder / f"decode_{system}" / data.path.name, data)
                for data in self._decoded_sets()
            }
            dev = decoded.pop(DEV)
            scored = score_decodes(system, dev, decoded, self.recipe.score.metrics)
            if system in networks:
                parameters = count_parameters(self.folder / system / NETWORK)
                speed = frames_per_second(logs[system])
                scored = [
                    replace(result, parameters=parameters, frames_per_second=speed)
                    for result in scored
                ]
            results += scored
        write_results(self.folder, results)
        write_report(
            self.folder / "report",
            self.recipe.name,
            results,
            network_logs={name: logs[name] for name in networks},
            gmm_logs={name: logs[name] for name in self.recipe.align.rungs},
            stages=stage_seconds(self.folder),
            recipe_text=recipe_text(self.recipe),
        )

    @property
    def _dictionary(self) -> Path:
        """The lexicon or dict directory that the recipe names, or the corpus's own."""
        return self.recipe.lang.lexicon or self.folder / "corpus" / "dict"

    def _corpus_sets(self) -> Iterator[DataDir]:
        for path in sorted((self.folder / "corpus").glob("*/utt2spk")):
            yield read_data_dir(path.parent)

    def _network_set(self, name: str) -> DataDir:
        """A set with what networks read; its utterances are those that have the GMMs' features."""
        data = self._set(name)
        if self.recipe.model.features is None:
            return data
        own = read_data_dir(self.folder / NETWORK_FEATURES / name)
        return replace(data, path=own.path, feats=own.feats, cmvn=own.cmvn)

    def _transforms(self, folder: Path) -> dict[str, NDArray[np.float32]] | None:
        """The speakers' transforms in a folder, if networks take adapted features."""
        return require_speaker_transforms(folder) if self.recipe.model.adapted else None

    def _decoded_sets(self) -> Iterator[DataDir]:
        for name in self._names_of_decoded_sets(self.folder / "features"):
            yield self._set(name)

    def _names_of_decoded_sets(self, folder: Path) -> list[str]:
        """Names of the sets to decode, of those in a folder.

        Raises:
            RecipeError: The recipe names one that the corpus has not.
        """
        found = sorted(path.parent.name for path in folder.glob("*/utt2spk"))
        wanted = self.recipe.decode.sets
        if wanted is None:
            return [name for name in found if name != TRAIN]
        if unknown := [name for name in wanted if name not in found]:
            raise RecipeError(
                f"decode.sets names {', '.join(unknown)}; the corpus has {', '.join(found)}",
                where=folder,
            )
        return list(wanted)

    def _set(self, name: str) -> DataDir:
        return read_data_dir(self.folder / "features" / name)

    def _lang(self) -> Lang:
        return read_lang(self.folder / "lang")
