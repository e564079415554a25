"""Mutated files of every format: whatever comes, it is a generator or a CheckpointError."""

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generators import CheckpointError, load_generator
from generators.checkpoints import save_generator
from generators.generator import Generator
from tests.generators.converted import (
    rosinality_state,
    tensorflow_arguments,
    tensorflow_pickle,
    tensorflow_variables,
    torch_file,
)
from tests.generators.published import ada_arguments, network_pickle, tiny

EXAMPLES = int(os.environ.get("INVERTMILL_FUZZ_EXAMPLES", "40"))
"""Of each format; a long search sets it, and then draws new ones in every run."""
FORMATS = ("own", "nvidia", "tensorflow", "rosinality", "rosinality, legacy")
BYTES_OF_NOTE = [
    b"\x00",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\xff\xff\xff\x7f",
    b".",
    b"R",
    b"(",
    b"c",
]

mutations = st.tuples(
    st.sampled_from(("set", "insert", "delete", "repeat", "cut", "move")),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.one_of(st.sampled_from(BYTES_OF_NOTE), st.binary(min_size=1, max_size=9)),
)


@cache
def whole(name: str) -> bytes:
    generator = tiny(z_dim=5)
    content = {"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg}
    if name == "nvidia":
        return network_pickle(generator.state_dict(), ada_arguments(generator.config))
    if name == "tensorflow":
        return tensorflow_pickle(tensorflow_variables(generator), tensorflow_arguments(generator.config))
    return torch_file(content, legacy="legacy" in name)


def mutated(data: bytes, changes: list[tuple[str, float, float, bytes]]) -> bytes:
    for kind, first, second, piece in changes:
        at, other = int(first * len(data)), int(second * len(data))
        if kind == "set":
            data = data[:at] + piece + data[at + len(piece) :]
        elif kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + len(piece) :]
        elif kind == "repeat":
            data = data[:at] + data[min(at, other) : min(at, other) + 200] + data[at:]
        elif kind == "move":
            data = data[:at] + data[other : other + 40] + data[at + 40 :]
        elif kind == "cut":
            data = data[: max(1, at)]
    return data


@pytest.mark.parametrize("name", FORMATS)
def test_a_mutated_file_is_loaded_or_refused(tmp_path: Path, name: str):
    path = tmp_path / "mutated"
    if name == "own":
        save_generator(tiny(z_dim=5), path, about="random")
    data = path.read_bytes() if name == "own" else whole(name)
    before = set(tmp_path.iterdir()) | {path}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="INVERTMILL_FUZZ_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(mutations, min_size=1, max_size=4))
    def load(changes: list[tuple[str, float, float, bytes]]) -> None:
        path.write_bytes(mutated(data, changes))
        try:
            generator, refusal = load_generator(path), ""
        except CheckpointError as error:
            generator, refusal = None, str(error)
        assert len(refusal) < 3000  # messages must be readable
        if generator is not None:
            assert isinstance(generator, Generator)
            assert sum(tensor.numel() for tensor in generator.state_dict().values()) < 4 * len(data)
            assert generator.map(torch.zeros(1, generator.z_dim), None).shape == (1, generator.num_ws, generator.w_dim)

    load()
    assert set(tmp_path.iterdir()) == before
