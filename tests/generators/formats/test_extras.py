"""Whatever forks store with a generator is skipped: it is neither run nor called hostile."""

import argparse
import collections
import copy
import datetime
import enum
import fractions
import functools
import logging
import pathlib
import random
import types
import uuid
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from generators import CheckpointError, load_generator
from generators.unpickling.hostile_names import is_hostile
from tests.generators.archives import archive_of, entries_of
from tests.generators.converted import rosinality_state, torch_file
from tests.generators.hostile import HOSTILE, text
from tests.generators.published import ada_arguments, persistent, pickled, tiny

PICKLE = "archive/data.pkl"


class Colour(enum.Enum):
    RED = 1


class Settings(dict):
    """A dictionary with attributes, as EasyDict and ConfigDict are."""

    __getattr__ = dict.get


class Log(list):
    """A list of a fork's own."""


class Point(collections.namedtuple("Point", "x y")):
    """A named tuple."""


class Trainer:
    """An object of a fork's own, with what trainings have."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(2, 2)
        self.step, self.notes = 7, {"a": {1, 2}}

    def __getstate__(self) -> dict:
        return self.__dict__


def trained() -> dict:
    network = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(network.parameters(), betas=(0.0, 0.99))
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 5)
    network(torch.ones(2)).sum().backward()
    optimiser.step()
    return {"optimiser": optimiser.state_dict(), "whole": optimiser, "schedule": schedule.state_dict(), "net": network}


BESIDE = {
    "paths": lambda: {"a": argparse.Namespace(path=Path("x/y")), "w": pathlib.PureWindowsPath("C:\\x")},
    "types": lambda: [torch.float32, torch.device("cuda:0"), torch.Size([1, 2])],
    "type objects": lambda: [int, dict, np.ndarray, np.float32, torch.nn.Linear, torch.Tensor],
    "functions": lambda: [np.mean, torch.nn.functional.relu, len, getattr, functools.partial(max, 1), "a".upper],
    "defaultdict": lambda: {"log": collections.defaultdict(list, {"fid": [1.0]}), "c": collections.Counter("aab")},
    "collections": lambda: [collections.deque([1, 2], 5), Point(1, 2), collections.ChainMap({"a": 1})],
    "sets": lambda: [{1, 2}, frozenset({"a"}), {(1, 2), (3, 4)}, set()],
    "times": lambda: [datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(1), uuid.UUID(int=5)],
    "numbers": lambda: [1j, fractions.Fraction(1, 3), range(3), slice(1, 2), bytearray(b"x" * 9), b"y" * 3000, 2**80],
    "enum": lambda: {"colour": Colour.RED, Colour.RED: 1},
    "dictionaries": lambda: {"cfg": Settings(size=8, nested=Settings(a=1)), 3: {2.5: 1, None: 2, (1, 2): 3, b"k": 4}},
    "keys": lambda: {torch.float32: 1, Path("a"): 2, int: 3, torch.nn.Linear: 4, frozenset({1}): 5},
    "own objects": lambda: [Trainer(), Log([1, 2]), types.SimpleNamespace(a=1), logging.getLogger("x")],
    "random states": lambda: [torch.get_rng_state(), np.random.RandomState(0).get_state(), random.Random(1).getstate()],
    "generators": lambda: [np.random.RandomState(0), np.random.default_rng(1), random.Random(3)],
    "numpy": lambda: [
        np.array(["a", None], object),
        np.array(["text"]),
        np.arange(3, dtype=">i4"),
        np.datetime64("2024-01-01"),
        np.dtype([("a", "f4")]),
        np.complex64(1j),
        np.zeros(99),
        np.ma.masked_array([1.0], [True]),
        np.str_("s"),
    ],
    "tensors": lambda: [
        torch.ones(2, dtype=torch.complex64),
        torch.eye(2).to_sparse(),
        torch.ones(2).to(torch.float8_e4m3fn),
        torch.ones(2, dtype=torch.uint16),
        torch.nn.Parameter(torch.ones(2), requires_grad=False),
        torch.zeros(2, device="meta"),
        torch.ones(0),
    ],
    "training": trained,
}


def hold_itself() -> dict:
    held: dict = {"list": [], "own": Trainer()}
    held["list"].append(held)
    held["own"].notes = (held["own"],)
    return held


BESIDE["cycles"] = hold_itself


def content() -> dict:
    generator = tiny(z_dim=5)
    return {"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", BESIDE)
def test_it_is_passed_over_in_a_torch_file(tmp_path: Path, name: str, legacy: bool):
    held = BESIDE[name]()
    for kind, beside in {"after": {**content(), "x": held}, "before": {"x": copy.copy(held), **content()}}.items():
        path = tmp_path / f"{kind}.pt"
        path.write_bytes(torch_file(beside, legacy=legacy))
        found = load_generator(path)
        assert torch.equal(found.synthesis.b4.const, tiny(z_dim=5).synthesis.b4.const)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", BESIDE)
def test_it_is_passed_over_at_every_protocol(tmp_path: Path, name: str, protocol: int):
    torch.save({**content(), "x": BESIDE[name]()}, tmp_path / "a.pt", pickle_protocol=protocol)
    assert load_generator(tmp_path / "a.pt").resolution == 8


@pytest.mark.parametrize("name", BESIDE)
def test_it_is_passed_over_in_a_pickle_of_nvidias(tmp_path: Path, name: str):
    generator = tiny()
    network = persistent(generator.state_dict(), _init_args=(), _init_kwargs=ada_arguments(generator.config))
    (tmp_path / "a.pkl").write_bytes(pickled({"before": BESIDE[name](), "G_ema": network}))
    assert torch.equal(load_generator(tmp_path / "a.pkl").synthesis.b4.const, generator.synthesis.b4.const)


def with_beside(operations: bytes) -> bytes:
    """Return a torch file of a sound generator, and of what some operations make."""
    entries = entries_of(content())
    entries[PICKLE] = entries[PICKLE].removesuffix(b".") + text("extra") + operations + b"s."
    return archive_of(entries)


LIKE_A_FORK = ("own name", "NEWOBJ", "NEWOBJ_EX", "BUILD", "in a storage", "in a storage's root")
"""Attacks that look as a class of a fork's does: passed over, and never made."""


@pytest.mark.parametrize("attack", HOSTILE)
def test_an_attack_next_to_a_sound_generator_runs_nothing(tmp_path: Path, attack: str):
    sentinel, path = tmp_path / "sentinel", tmp_path / "a.pt"
    path.write_bytes(with_beside(HOSTILE[attack](str(sentinel))))
    with nullcontext() if attack in LIKE_A_FORK else pytest.raises(CheckpointError):
        load_generator(path)
    assert not sentinel.exists()


@pytest.mark.parametrize("attack", ["GLOBAL", "STACK_GLOBAL", "eval", "exec", "in the middle", "left on the stack"])
def test_a_file_that_names_what_runs_programs_is_called_hostile(tmp_path: Path, attack: str):
    path = tmp_path / "a.pt"
    path.write_bytes(with_beside(HOSTILE[attack]("x")))
    with pytest.raises(CheckpointError, match="the file is hostile; nothing of it was run"):
        load_generator(path)


def test_what_the_weights_depend_on_is_named(tmp_path: Path):
    held = content()
    held["g_ema"]["conv1.conv.weight"] = Trainer()
    (tmp_path / "a.pt").write_bytes(torch_file(held))
    with pytest.raises(CheckpointError) as caught:
        load_generator(tmp_path / "a.pt")
    assert "test_extras.Trainer', which is never loaded" in str(caught.value)
    assert "it represents 'conv1.conv.weight'" in str(caught.value)
    assert "hostile" not in str(caught.value)


def test_tensors_with_attributes_are_read(tmp_path: Path):
    held = content()
    weight = torch.nn.Parameter(held["g_ema"]["conv1.conv.weight"])
    weight.lr_scale = 2
    held["g_ema"]["conv1.conv.weight"] = weight
    (tmp_path / "a.pt").write_bytes(torch_file(held))
    assert torch.equal(load_generator(tmp_path / "a.pt").synthesis.b4.conv1.weight, weight[0])


@pytest.mark.parametrize(
    ("name", "hostile"),
    [
        ("os system", True),
        ("posix execve", True),
        ("nt remove", True),
        ("subprocess Popen", True),
        ("subprocess.sub call", True),
        ("builtins eval", True),
        ("__builtin__ execfile", True),
        ("pickle loads", True),
        ("torch load", True),
        ("torch.hub load_state_dict_from_url", True),
        ("_posixsubprocess fork_exec", True),
        ("multiprocessing.util spawnv_passfds", True),
        ("torch.serialization load", True),
        ("numpy.testing._private.utils runstring", True),
        ("pydoc pipepager", True),
        ("distutils.spawn spawn", True),
        ("distutils.version LooseVersion", False),
        ("os _Environ", False),
        ("os PathLike", False),
        ("builtins getattr", False),
        ("builtins set", False),
        ("pathlib PosixPath", False),
        ("numpy.random._pickle __randomstate_ctor", False),
        ("torch.optim.adam Adam", False),
        ("codes Code", False),
    ],
)
def test_only_what_can_run_programs_or_touch_files_is_hostile(name: str, hostile: bool):
    assert is_hostile(name) is hostile
