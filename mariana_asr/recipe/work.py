"""What the stages of an experiment do: a method for each, which fills the stage's folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.alignment import AlignOptions, align
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
from mariana_asr.errors import DataError
from mariana_asr.features.augmentation.distortion import Distorter
from mariana_asr.features.extract import extract_features
from mariana_asr.features.fbank import FbankOptions
from mariana_asr.features.mfcc import MfccOptions
from mariana_asr.lang.graph import make_graph
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.options import narrowed
from mariana_asr.recipe.kaldi_import import check_overlap, copy_lang, import_alignments
from mariana_asr.recipe.language import make_lang
from mariana_asr.recipe.load import recipe_text
from mariana_asr.recipe.network import (
    AlignedData,
    count_parameters,
    pack_aligned_frames,
    train_acoustic_model,
)
from mariana_asr.recipe.runner import stage_seconds
from mariana_asr.recipe.schema import Recipe
from mariana_asr.recipe.selection import select_network
from mariana_asr.recipe.sequence import SequenceWork
from mariana_asr.recipe.sets import DEV, TRAIN, TRAIN_COPIES, ExperimentSets
from mariana_asr.score.candidates import SELECTION_FILE, read_selection
from mariana_asr.score.error_counts import ErrorCounts
from mariana_asr.score.report import read_log, write_report
from mariana_asr.score.results import UNITS, Result, write_results
from mariana_asr.score.training_figures import frames_per_second
from mariana_asr.score.tuning import choose_setting, score_decodes, score_settings


class StageWork:
    """The work of an experiment's stages; each method is given the folder to fill."""

    def __init__(self, recipe: Recipe, folder: Path, *, jobs: int, allow_pipes: bool) -> None:
        """Arguments as of ``Experiment``."""
        self.recipe = recipe
        self.folder = folder
        self.jobs = jobs
        self.allow_pipes = allow_pipes
        self._sets = ExperimentSets(recipe, folder)
        self.sequence = SequenceWork(recipe, folder, self._sets, jobs=jobs)

    def corpus(self, out: Path) -> None:
        """Data directories and dictionary."""
        prepare_corpus(self.recipe.corpus, out)
        self._sets.decoded_names(out)
        if self.recipe.align.kaldi is not None:
            # Now, not after hours of feature extraction.
            check_overlap(read_data_dir(out / TRAIN), self.recipe.align.kaldi)

    def features(self, out: Path) -> None:
        """Features and CMVN statistics of every set."""
        for data in self._sets.corpus():
            self._extract(data, out / data.path.name, self.recipe.features)

    def copies(self, out: Path) -> None:
        """Features of the training set's copies at other speeds."""
        copies = self._sets.training_audio(TRAIN_COPIES)
        self._extract(copies, out / TRAIN_COPIES, self.recipe.features)

    def network_features(self, out: Path) -> None:
        """The network's own features of every set, after those of the GMMs if it takes both.

        Raises:
            DataError: There is no audio.
        """
        for data in self._sets.corpus():
            if not data.wav:
                raise DataError(
                    "no audio to compute the network's own features of",
                    where=data.path,
                    remedy="Leave out model.features",
                )
            self._extract_own(data, out, data.path.name)

    def network_copies(self, out: Path) -> None:
        """The network's own features of the training set's copies at other speeds."""
        self._extract_own(self._sets.training_audio(TRAIN_COPIES), out, TRAIN_COPIES)

    def distorted(self, out: Path) -> None:
        """What the network reads of the training set and its copies, in rooms and in noise.

        Raises:
            DataError: There is no audio, or a recording of noise or a room cannot be used.
        """
        augmentation, own = self.recipe.augmentation, self.recipe.model.features
        assert augmentation is not None, "the stage is only there where the recipe asks for it"
        train = self._sets.training_audio(TRAIN)
        for number in range(1, augmentation.copies + 1):
            distorter = Distorter(augmentation, train, number, allow_pipes=self.allow_pipes)
            for name in self._sets.training_names:
                data, place = self._sets.training_audio(name), out / f"{name}_{number}"
                if own is None:
                    self._extract(data, place, self.recipe.features, distorter=distorter)
                elif not self.recipe.model.adapted:
                    self._extract(data, place, own, distorter=distorter)
                else:
                    with TemporaryDirectory(dir=out) as folder:
                        gmm = Path(folder) / name
                        first = self._extract(data, gmm, self.recipe.features, distorter=distorter)
                        self._extract(data, place, own, beside=first, distorter=distorter)

    def _extract_own(self, data: DataDir, out: Path, name: str) -> None:
        """Compute a set's features of the network's own, beside those of the GMMs if need be."""
        model = self.recipe.model
        assert model.features is not None, "the stage is only there where the recipe asks for it"
        beside = self._sets.gmm(name) if model.adapted else None
        self._extract(data, out / name, model.features, beside=beside)

    def _extract(
        self,
        data: DataDir,
        out: Path,
        options: MfccOptions | FbankOptions,
        *,
        beside: DataDir | None = None,
        distorter: Distorter | None = None,
    ) -> DataDir:
        summary = extract_features(
            data,
            out,
            options,
            beside=beside,
            distorter=distorter,
            jobs=self.jobs,
            allow_pipes=self.allow_pipes,
        )
        return summary.data

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
        align, train, lang = self.recipe.align, self._sets.gmm(TRAIN), self._lang()
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

    def ali(self, names: Sequence[str], out: Path) -> None:
        """Alignments of sets with the last GMM system: the network's targets."""
        last = self.folder / self.recipe.align.rungs[-1]
        for name in names:
            options = self.recipe.align.labels
            align(self._sets.gmm(name), self._lang(), last, out / name, options, jobs=self.jobs)

    def import_ali(self, names: Sequence[str], out: Path) -> None:
        """Kaldi's alignments of sets."""
        kaldi, options = self.recipe.align.kaldi, self.recipe.align.labels
        assert kaldi is not None, "the stage is only there where the recipe names them"
        check_overlap(self._sets.gmm(TRAIN), kaldi)
        for name in names:
            import_alignments(
                self._sets.gmm(name),
                self._lang(),
                kaldi,
                options,
                out / name,
                jobs=self.jobs,
                adapted=self.recipe.model.adapted,
            )

    def realign(self, network: str, options: AlignOptions, names: Sequence[str], out: Path) -> None:
        """Alignments of sets with a network."""
        scorer = load_network(self.folder / network, prior_scale=options.prior_scale)
        for name in names:
            align(
                self._sets.network(name),
                self._lang(),
                self.folder / network,
                out / name,
                options,
                jobs=self.jobs,
                acoustic_model=scorer,
                transforms=self._sets.transforms(self._sets.labels("ali", name)),
            )

    def lang_pron(self, out: Path) -> None:
        """The lang directory with probabilities of pronunciations and silence."""
        train = self._sets.gmm(TRAIN)
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
        is_network = system in self.recipe.networks
        for data in self._sets.decoded():
            name = data.path.name
            if is_network:
                self._decode_with_network(name, self.folder / system, graph, out / name)
            else:
                self._decode_set(data, self.folder / system, graph, out / name)

    def _decode_with_network(self, name: str, network: Path, graph: str, out: Path) -> None:
        data = self._sets.network(name)
        transforms = self._sets.transforms(self.folder / self.recipe.adapting_stage / name)
        self._decode_set(data, network, graph, out, transforms)

    def _decode_set(
        self,
        data: DataDir,
        model: Path,
        graph: str,
        out: Path,
        transforms: dict[str, NDArray[np.float32]] | None = None,
    ) -> None:
        options = narrowed(self.recipe.decode, DecodeOptions)
        decode(
            data, model, self.folder / graph, out, options, jobs=self.jobs, transforms=transforms
        )

    def frames(self, ali: str, out: Path) -> None:
        """Features and targets, packed for training."""
        parts = {
            TRAIN: [part for name in self._sets.training_names for part in self._parts(name, ali)],
            DEV: [self._aligned(self._sets.network(DEV), DEV, ali)],
        }
        options = PackOptions(storage=self.recipe.engine.storage)
        for name, aligned in parts.items():
            pack_aligned_frames(aligned, self.recipe.model, out / name, options)

    def _parts(self, name: str, ali: str) -> list[AlignedData]:
        """What the network is trained on of one of the training sets."""
        variants = self._sets.training_variants(name)
        if len(variants) == 1:
            return [self._aligned(variants[0], name, ali)]
        return [
            self._aligned(data, name, ali, prefix=f"aug{number}-")
            for number, data in enumerate(variants, 1)
        ]

    def _aligned(self, data: DataDir, name: str, ali: str, prefix: str = "") -> AlignedData:
        """A variant of a set with the set's alignments and its speakers' transforms."""
        labels, transforms = self._sets.labels(ali, name), self._sets.labels("ali", name)
        return AlignedData(data, labels, transforms, prefix)

    def network(self, frames: str, ali: str, out: Path) -> None:
        """A network."""
        train_acoustic_model(
            self.folder / frames / TRAIN,
            self.folder / frames / DEV,
            self.folder / ali / TRAIN,
            self.recipe.model,
            self.recipe.train.engine_options,
            self.recipe.engine,
            out,
        )

    def select(self, frames: str, training: str, graph: str, out: Path) -> None:
        """A network with the best of the weights that its training kept, and of their averages."""
        train, metric = self.recipe.train, self.recipe.score.metrics[0]

        def count_errors(network: Path) -> ErrorCounts:
            decoding = network / "decode"
            self._decode_with_network(DEV, network, graph, decoding)
            counts = score_settings(decoding, self._sets.gmm(DEV), UNITS[metric])
            return counts[choose_setting(counts)]

        select_network(
            self.folder / training,
            self.folder / frames / TRAIN,
            self.folder / frames / DEV,
            out,
            criterion=train.select,
            average=train.average,
            metric=metric,
            count_errors=count_errors,
            train=train.engine_options,
            engine=self.recipe.engine,
        )

    def score(self, out: Path) -> None:
        """Error rates: ``results.json`` and ``RESULTS`` in the experiment's folder, the report."""
        results: list[Result] = []
        networks = self.recipe.networks
        logs = {name: read_log(self.folder / name / LOG_FILE) for name in self.recipe.systems}
        for system in self.recipe.systems:
            decoded = {
                data.path.name: (self.folder / f"decode_{system}" / data.path.name, data)
                for data in self._sets.decoded()
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
            selections={
                name: read_selection(path)
                for name in networks
                if (path := self.folder / name / SELECTION_FILE).exists()
            },
            gmm_logs={name: logs[name] for name in self.recipe.align.rungs},
            stages=stage_seconds(self.folder),
            recipe_text=recipe_text(self.recipe),
        )

    @property
    def _dictionary(self) -> Path:
        """The lexicon or dict directory that the recipe names, or the corpus's own."""
        return self.recipe.lang.lexicon or self.folder / "corpus" / "dict"

    def _lang(self) -> Lang:
        return read_lang(self.folder / "lang")
