import numpy as np
import pytest
import torch
from plain_layers import affine, logits_of, normalised_input, random_frames, with_statistics
from pydantic import ValidationError

from mariana_asr.nnet.lstm import Lstm
from mariana_asr.nnet.options import LstmOptions


def sigmoid(values):
    return 1.0 / (1.0 + np.exp(-values))


def run_through(state, suffix, frames):
    """One direction of a layer by the equations of the LSTM, from an empty memory."""

    def parameter(name):
        return state[f"{name}_l0{suffix}"].numpy()

    cell = np.zeros(len(parameter("weight_ih")) // 4)
    given = np.zeros(parameter("weight_hh").shape[1])
    outputs = []
    for frame in frames:
        gates = parameter("weight_ih") @ frame + parameter("bias_ih")
        gates = gates + parameter("weight_hh") @ given + parameter("bias_hh")
        entry, forget, candidate, exit_ = np.split(gates, 4)
        cell = sigmoid(forget) * cell + sigmoid(entry) * np.tanh(candidate)
        given = sigmoid(exit_) * np.tanh(cell)
        if f"weight_hr_l0{suffix}" in state:
            given = parameter("weight_hr") @ given
        outputs.append(given)
    return np.array(outputs)


def plain_lstm(network, options, window, delay):
    values = normalised_input(network, window)
    for layer in network.layers:
        state = layer.state_dict()
        directions = [run_through(state, "", values)]
        if options.bidirectional:
            directions.append(run_through(state, "_reverse", values[::-1])[::-1])
        values = np.concatenate(directions, axis=1)
    first = network.left_context + delay
    length = len(window) - network.left_context - network.right_context
    return [affine(network.output, value) for value in values[first : first + length]]


@pytest.mark.parametrize(
    ("settings", "right_context", "delay"),
    [
        ({"bidirectional": True, "left_context": 4}, 20, 0),
        ({"bidirectional": True, "left_context": 0, "right_context": 0}, 0, 0),
        ({"bidirectional": True, "projection_dim": 3, "right_context": 2}, 2, 0),
        ({"bidirectional": False}, 5, 5),
        ({"bidirectional": False, "right_context": 0}, 0, 0),
        ({"bidirectional": False, "projection_dim": 2, "right_context": 3}, 3, 3),
    ],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_logits_are_those_of_the_lstms_equations(settings, right_context, delay):
    options = LstmOptions(cell_dim=6, chunk_frames=7, **settings)
    network = with_statistics(Lstm(options, frame_dim=4, num_outputs=5))
    assert network.right_context == right_context
    assert not network.exact_chunks
    window = random_frames(network.left_context + 7 + right_context, 4)
    found = logits_of(network, window)
    assert found.shape == (7, 5)
    np.testing.assert_allclose(found, plain_lstm(network, options, window, delay), atol=1e-12)


def test_memories_begin_by_keeping_and_weights_with_the_variance_of_their_inputs():
    network = Lstm(LstmOptions(cell_dim=200, projection_dim=100), frame_dim=90, num_outputs=50)
    for layer in network.layers:
        for name, parameter in layer.named_parameters():
            if parameter.dim() == 2:
                expected = 1 / parameter.shape[1]
                assert parameter.var().item() == pytest.approx(expected, rel=0.05), name
            else:
                forget = 1.0 if name.startswith("bias_ih") else 0.0
                expected = torch.tensor([0.0, forget, 0.0, 0.0]).repeat_interleave(200)
                assert torch.equal(parameter, expected), name
    assert network.output.in_features == 200


def test_frames_after_the_delay_make_no_difference_without_the_other_direction():
    network = Lstm(LstmOptions(cell_dim=6, bidirectional=False, right_context=3), 4, 5).eval()
    window = random_frames(20 + 2 + 3, 4)
    changed = window.copy()
    changed[-1] += 1.0
    difference = logits_of(network, changed) - logits_of(network, window)
    assert (difference[0] == 0).all()
    assert (difference[1] != 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"projection_dim": 256},
        {"hidden_layers": 0},
        {"right_context": -1},
        {"normalisation": "batch"},
    ],
)
def test_impossible_options_of_recurrent_networks_are_refused(wrong):
    with pytest.raises(ValidationError):
        LstmOptions(**wrong)
