"""Finding the generator's state dictionary in a torch.save file, whatever its key and prefix."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from generators.errors import UnknownFormatError
from generators.unpickling.records import brief, expect, refusal_of

PUBLISHED = "g_ema"
"""The key of the generator in rosinality's files."""
MAX_DICTIONARIES = 1_000
MAX_NAMES = 200_000

_BOTTOMS = ("input.input", "constant_input.weight")
_AVERAGE = re.compile(r"ema|averag|avg|swa", re.IGNORECASE)
_ORDER = ("generator", "netg", "net_g", "g", "gen", "params", "state_dict", "model", "")
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel, of torch.compile
_COUNTERS = ("n_averaged", "num_updates", "decay")  # stored with averages, next to the weights
_BASICSR = (  # names in BasicSR's StyleGAN2Generator, and those in rosinality's
    (re.compile(r"style_mlp\."), "style."),
    (re.compile(r"constant_input\.weight"), "input.input"),
    (re.compile(r"noises\.noise(\d)"), r"noises.noise_\1"),
    (re.compile(r"(to_rgb.*)\.modulated_conv\."), r"\1.conv."),
    (re.compile(r"style_conv(1|s\.\d+)\.weight"), r"conv\1.noise.weight"),
    (re.compile(r"style_conv(1|s\.\d+)\.modulated_conv\."), r"conv\1.conv."),
    (re.compile(r"style_conv(1|s\.\d+)\.(bias|activate\.bias)"), r"conv\1.activate.bias"),
)
_OTHERS = (
    (re.compile(r"encoder\."), "an encoder's file (e4e, pSp or ReStyle)"),
    (re.compile(r"(hypernet|w_encoder)\."), "a HyperStyle"),
    (re.compile(r"stylegan_decoder\."), "a GFPGAN"),
    (re.compile(r"(synthesis\.)?(input\.freqs|L\d+_\d+_\d+\.)"), "a state dictionary of StyleGAN3"),
    (re.compile(r"(mapping\.fc0|synthesis\.b4\.)"), "a state dictionary of NVIDIA's StyleGAN2, without its settings"),
    (re.compile(r"(generator\.)?progression\.\d"), "a StyleGAN of rosinality's style-based-gan-pytorch"),
    (re.compile(r"G_?synthesis\.|g_synthesis\."), "a StyleGAN of 2019"),
    (re.compile(r"GE?\.(S|G|initial_conv)|GE?\."), "a StyleGAN2 of lucidrains' stylegan2-pytorch"),
    (re.compile(r"(generator\.)?gen_z\."), "the pytorch_model.bin of a BigGAN-deep: give its folder, with config.json"),
    (re.compile(r"lin\d\."), "the heads of a perceptual distance"),
)


@dataclass(frozen=True)
class StateDictionary:
    """The generator's tensors by rosinality's names, and their place in the file."""

    place: str
    """Such as `g_ema` or `state_dict.generator`; empty if the file is nothing but the dictionary."""
    tensors: Mapping[str, object]
    stored_names: Mapping[str, str]
    """The name of each tensor in the file."""
    latent_avg: object
    others: tuple[str, ...]
    """Places of other generators, which are ignored."""


@dataclass(frozen=True)
class _Candidate:
    keys: tuple[str, ...]
    prefix: str
    held: Mapping[Any, object]
    parent: Mapping[Any, object]

    @property
    def place(self) -> str:
        return ".".join(part for part in (*self.keys, self.prefix.rstrip(".")) if part)

    @property
    def rank(self) -> tuple[int, int]:
        """Rank among others, best first: an average of weights before the weights of the last step."""
        if self.keys == (PUBLISHED,):
            return 0, 0
        last = self.place.lower().rpartition(".")[2]
        order = _ORDER.index(last) if last in _ORDER else len(_ORDER)
        return (1 if _AVERAGE.search(self.place) else 2), order


def find_state_dictionary(content: object) -> StateDictionary:
    """Return the generator's state dictionary of a torch.save file.

    It is `g_ema` if there is one; otherwise any dictionary that holds a StyleGAN2 by the names of rosinality's
    network or of BasicSR's; of several, an average of weights (`params_ema`).

    Raises:
        UnknownFormatError: there is none; the message says what the file is, if known.
        CheckpointError: g_ema represents something that is never loaded.
    """
    root = content if isinstance(content, dict) else {}
    if refusal_of(root.get(PUBLISHED)):
        expect(dict, root[PUBLISHED], PUBLISHED)
    found = sorted(_candidates(root), key=lambda candidate: candidate.rank)
    chosen = next((one for one in found if "decoder" not in one.prefix), None)
    if isinstance(root.get(PUBLISHED), dict) and (chosen is None or chosen.keys[:1] != (PUBLISHED,)):
        if _named(root[PUBLISHED]):
            raise UnknownFormatError(_what_it_is({PUBLISHED: root[PUBLISHED]}))
        chosen = _Candidate((PUBLISHED,), _wrapper(root[PUBLISHED]), root[PUBLISHED], root)
    if chosen is None:
        raise UnknownFormatError(_what_it_is(content))
    tensors, names = _renamed(chosen)
    average = chosen.held.get("latent_avg", chosen.parent.get("latent_avg", root.get("latent_avg")))
    others = tuple(one.place or "the file itself" for one in found if one.place != chosen.place)
    return StateDictionary(chosen.place, tensors, names, average, others)


def _candidates(root: Mapping[Any, object]) -> Iterator[_Candidate]:
    for keys, held, parent in _dictionaries(root):
        for name in held:
            if isinstance(name, str) and name.endswith(_BOTTOMS):
                prefix = name.removesuffix(_BOTTOMS[0]).removesuffix(_BOTTOMS[1])
                yield _Candidate(keys, prefix, held, parent)


def _dictionaries(
    root: Mapping[Any, object],
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, object], Mapping[Any, object]]]:
    """Yield every dictionary in a file down to two keys deep, and its parent; of very many, the first ones.

    A pickle can have one dictionary under any number of keys.
    """
    names_left = MAX_NAMES
    for found in itertools.islice(_all_dictionaries(root), MAX_DICTIONARIES):
        names_left -= len(found[1])
        if names_left < 0:
            return
        yield found


def _all_dictionaries(
    root: Mapping[Any, object],
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, object], Mapping[Any, object]]]:
    yield (), root, root
    for key, value in root.items():
        if isinstance(key, str) and isinstance(value, dict):
            yield (key,), value, root
            for inner, nested in value.items():
                if isinstance(inner, str) and isinstance(nested, dict):
                    yield (key, inner), nested, value


def _wrapper(held: Mapping[Any, object]) -> str:
    names = [name for name in held if isinstance(name, str)]
    return next((one for one in _WRAPPERS if any(name.startswith(one) for name in names)), "")


def _renamed(chosen: _Candidate) -> tuple[dict[str, object], dict[str, str]]:
    """Return tensors by rosinality's names, and their names in the file."""
    tensors: dict[str, object] = {}
    stored: dict[str, str] = {}
    for name, value in chosen.held.items():
        if not isinstance(name, str):
            tensors[name] = value  # which is refused by name later
        elif name.startswith(chosen.prefix) and not _is_beside(name, chosen):
            new = name.removeprefix(chosen.prefix)
            for pattern, replacement in _BASICSR:
                new = pattern.sub(replacement, new) if pattern.match(new) else new
            tensors[new], stored[new] = value, name
    return tensors, stored


def _is_beside(name: str, chosen: _Candidate) -> bool:
    return name in (*_COUNTERS, "latent_avg") or (chosen.keys == () and chosen.prefix == "" and "." not in name)


def _named(held: Mapping[Any, object]) -> str:
    """Return what a dictionary of other tensors is, if known."""
    names = [name for name in held if isinstance(name, str)]
    return next((what for pattern, what in _OTHERS if any(pattern.match(name) for name in names)), "")


def known_contents(content: Mapping[Any, object]) -> str:
    """Return what a file of other tensors than a StyleGAN2's is, such as "a GFPGAN"; empty where that is not known."""
    return next(filter(None, (_named(held) for _, held, _ in _dictionaries(content))), "")


def _what_it_is(content: object) -> str:
    if not isinstance(content, dict):
        return f"is a torch.save file without a state dictionary named g_ema: it holds {brief(content)}"
    if what := known_contents(content):
        return f"is {what}, not a torch.save file with a StyleGAN2 in a state dictionary named g_ema"
    few = ", ".join(map(brief, list(content)[:10])) or "nothing"
    return (
        f"is a torch.save file without a state dictionary named g_ema: it holds {few}; save the generator's state "
        "dictionary under that name"
    )
