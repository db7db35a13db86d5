from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mariana_asr.cli.main import main
from mariana_asr.errors import RecipeError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.nnet.acoustic_model import AcousticModel, log_priors_from_counts
from mariana_asr.nnet.build import build_network
from mariana_asr.nnet.dnn import Dnn, DnnOptions
from mariana_asr.nnet.factoring import factor_dnn
from mariana_asr.nnet.options import TdnnOptions

FRAME_DIM, OUTPUTS = 4, 5
INPUTS = 3 * FRAME_DIM


def network_of(**options):
    """A network as if it were trained: no parameter has the value that all begin with."""
    given = {"hidden_layers": 3, "hidden_dim": 10, "left_context": 1, "right_context": 1}
    network = Dnn(DnnOptions(**(given | options)), FRAME_DIM, OUTPUTS)
    network.set_input_statistics(np.arange(FRAME_DIM), np.arange(1, FRAME_DIM + 1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    network(windows(200))
    return network.eval()


def windows(count):
    return 3.0 * torch.randn(count, INPUTS, generator=torch.Generator().manual_seed(3))


def matrices(network):
    weights = [
        layer.outer.weight @ layer.inner.weight if hasattr(layer, "inner") else layer.weight
        for layer in network.hidden_maps()
    ]
    return [weight.detach().double().numpy() for weight in weights]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalisation": "none", "activation": "sigmoid"},
        {"normalisation": "layer", "activation": "maxout"},
        {"residual": True, "activation": "pnorm"},
        {"bottleneck": 6},
    ],
)
def test_with_full_rank_the_network_gives_the_same(options):
    network = network_of(**options)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    factored = factor_dnn(network, rank=1000)
    grouped = 10 * (5 if options.get("activation") in ("maxout", "pnorm") else 1)
    assert factored.options.bottlenecks == (min(INPUTS, grouped), 10, 10)
    assert not factored.training
    torch.testing.assert_close(factored(windows(50)), network(windows(50)), rtol=1e-4, atol=1e-4)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("rank", [1, 4])
def test_the_products_are_the_closest_of_their_rank(rank):
    network = network_of()
    factored = factor_dnn(network, rank=rank)
    assert factored.options == network.options.model_copy(update={"bottleneck": (rank,) * 3})
    for matrix, product in zip(matrices(network), matrices(factored), strict=True):
        # Eckart and Young (1936).
        values = np.linalg.svd(matrix, compute_uv=False)
        distance = np.linalg.norm(matrix - product)
        assert distance == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-4)
        assert np.linalg.matrix_rank(product, tol=1e-4) == rank
    # All else is the same.
    old, new = network.state_dict(), factored.state_dict()
    assert set(new) - set(old) == {
        f"hidden.{place}.{name}.weight" for place in (0, 4, 8) for name in ("inner", "outer")
    }
    assert all(torch.equal(new[name], old[name]) for name in new if name in old)


def test_each_layer_keeps_as_few_units_as_its_share_of_the_energy_takes():
    network = network_of(hidden_layers=2)
    generator = np.random.default_rng(0)
    spectra = [[10.0, 3.0, 1.0, 0.1], [5.0, 5.0, 5.0, 4.0, 3.0]]
    for layer, spectrum in zip(network.hidden_maps(), spectra, strict=True):
        left, _ = np.linalg.qr(generator.standard_normal((10, len(spectrum))))
        right, _ = np.linalg.qr(generator.standard_normal((layer.in_features, len(spectrum))))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy((left * spectrum) @ right.T))
    # Squares: 100, 9, 1, 0.01 of 110.01; 25, 25, 25, 16, 9 of 100.
    for share, ranks in ((0.90, (1, 4)), (0.95, (2, 5)), (0.745, (1, 3)), (0.755, (1, 4))):
        assert factor_dnn(network, energy=share).options.bottleneck == ranks


def test_what_is_factored_trains_on():
    factored = factor_dnn(network_of(dropout=0.0).train(), rank=3)
    assert factored.training
    factored(windows(50)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in factored.parameters())


@pytest.mark.parametrize(
    "wrong",
    [{}, {"rank": 3, "energy": 0.5}, {"rank": 0}, {"energy": 0.0}, {"energy": 1.5}],
)
def test_a_rank_or_a_share_must_be_given(wrong):
    with pytest.raises(RecipeError, match=r"rank|energy"):
        factor_dnn(network_of(), **wrong)


def save_model(folder: Path, network, options):
    folder.mkdir()
    transform = TransformOptions()
    front_end = FrontEnd({"type": "mfcc", "num_ceps": FRAME_DIM}, FRAME_DIM, transform)
    priors = log_priors_from_counts(np.ones(OUTPUTS, dtype=int))
    AcousticModel(network, options, front_end, priors).save(folder / "nnet.pt")
    for name in ("final.mdl", "tree"):
        (folder / name).write_text(name)


def test_the_command_writes_a_model_that_loads(tmp_path: Path):
    network = network_of()
    save_model(tmp_path / "model", network, network.options)
    words = ["factor", str(tmp_path / "model"), str(tmp_path / "out"), "--rank", "4"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "bottlenecks of 4, 4, 4 units" in result.output
    assert (tmp_path / "out" / "tree").read_text() == "tree"
    assert (tmp_path / "out" / "final.mdl").read_text() == "final.mdl"
    loaded = AcousticModel.load(tmp_path / "out" / "nnet.pt")
    assert loaded.options.bottleneck == (4, 4, 4)
    expected = factor_dnn(network, rank=4)
    torch.testing.assert_close(loaded.network(windows(9)), expected(windows(9)))
    both = CliRunner().invoke(main, [*words, "--energy", "0.5"])
    assert both.exit_code == 1
    assert "either --rank or --energy" in both.output


def test_the_command_refuses_other_networks(tmp_path: Path):
    options = TdnnOptions()
    save_model(tmp_path / "model", build_network(options, FRAME_DIM, OUTPUTS), options)
    words = ["factor", str(tmp_path / "model"), str(tmp_path / "out"), "--rank", "4"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "type tdnn" in result.output
    assert not (tmp_path / "out").exists()
