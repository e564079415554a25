"""Names that can run a program or touch a file if a pickle is trusted, and that no one stores with a generator.

No name is ever loaded, whether listed or not. The list decides only how a file is described: a file with
any of these is refused as hostile even if its generator is sound, because a program that trusts it may open it next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_MODULES = frozenset(
    (
        *("subprocess", "pty", "runpy", "ctypes", "code", "pdb", "bdb", "timeit", "webbrowser", "commands", "popen2"),
        *("marshal", "shutil", "importlib", "imp", "pkgutil", "pip", "socket", "urllib", "http", "requests", "ftplib"),
        *("_posixsubprocess", "ensurepip", "pydoc", "smtplib", "telnetlib"),
    )
)
"""Whole packages."""

_FUNCTIONS: Mapping[str, re.Pattern[str]] = {
    "os posix nt": re.compile(
        r"system|popen.*|exec.*|spawn.*|posix_spawn.*|fork.*|kill.*|remove.*|unlink|rmdir|rename.*|replace|(sym)?link"
        r"|l?chmod|l?chown|mkdir|makedirs|mkfifo|open|fdopen|write|truncate|putenv|startfile|_exit|abort"
    ),
    "builtins __builtin__": re.compile(r"eval|exec|execfile|compile|open|__import__|input|breakpoint|exit|quit"),
    "pickle _pickle cPickle dill dill._dill joblib cloudpickle numpy torch": re.compile(r"loads?"),
    "torch.serialization torch.jit torch.jit._serialization numpy.lib.npyio numpy.lib._npyio_impl": re.compile(r"load"),
    "joblib.numpy_pickle": re.compile(r"load"),
    "multiprocessing.util asyncio.subprocess distutils.spawn": re.compile(r"spawn.*|create_subprocess.*"),
    "numpy.testing numpy.testing._private.utils": re.compile(r"runstring|rundocs"),
    "shelve dbm": re.compile(r"open"),
    "torch.hub": re.compile(r"load.*|download.*"),
    "io _io codecs": re.compile(r"open|FileIO"),
    "sys": re.compile(r"exit|settrace|setprofile"),
    "platform": re.compile(r"popen"),
    "cProfile profile trace": re.compile(r"run.*"),
}
_BY_MODULE = {module: pattern for modules, pattern in _FUNCTIONS.items() for module in modules.split()}


def is_hostile(name: str) -> bool:
    """Return whether a name, `module name` as in pickles, is one that only an attack needs."""
    module, _, function = name.partition(" ")
    pattern = _BY_MODULE.get(module)
    return module.partition(".")[0] in _MODULES or (pattern is not None and pattern.fullmatch(function) is not None)
