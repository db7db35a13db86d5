"""HMM topologies in Kaldi's text form."""

from collections.abc import Sequence


def topology_text(
    nonsilence_phones: Sequence[int],
    silence_phones: Sequence[int],
    num_nonsil_states: int = 3,
    num_sil_states: int = 5,
) -> str:
    """Write the topologies that Kaldi's gen_topo.pl writes.

    A phone of speech goes through its states from left to right. In a silence phone all states
    but the first and the last are fully connected, so that it can last long or be short.

    Args:
        nonsilence_phones: Ids of the phones of speech.
        silence_phones: Ids of the silence and noise phones.
        num_nonsil_states: Emitting states of a phone of speech.
        num_sil_states: Emitting states of a silence phone: 1, or 3 and more.
    """
    speech = [[(state, 0.75), (state + 1, 0.25)] for state in range(num_nonsil_states)]
    last = num_sil_states - 1
    silence: list[list[tuple[int, float]]] = []
    if num_sil_states > 1:
        each = 1.0 / last
        silence.append([(target, each) for target in range(last)])
        silence += [[(target, each) for target in range(1, last + 1)] for _ in range(1, last)]
    silence.append([(last, 0.75), (last + 1, 0.25)])
    return (
        "<Topology>\n"
        + _entry(nonsilence_phones, speech)
        + _entry(silence_phones, silence)
        + "</Topology>\n"
    )


def _entry(phones: Sequence[int], states: list[list[tuple[int, float]]]) -> str:
    lines = ["<TopologyEntry>", "<ForPhones>", " ".join(map(str, phones)), "</ForPhones>"]
    for state, transitions in enumerate(states):
        # Perl prints 15 significant digits.
        out = " ".join(f"<Transition> {target} {p:.15g}" for target, p in transitions)
        lines.append(f"<State> {state} <PdfClass> {state} {out} </State>")
    lines += [f"<State> {len(states)} </State>", "</TopologyEntry>", ""]
    return "\n".join(lines)
