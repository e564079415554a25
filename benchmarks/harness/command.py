"""The common parts of benchmark commands: arguments, and the record of versions, device and figures."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torchvision", "numpy", "pillow", "lpips", "safetensors")
"""Packages whose versions change figures, as well as torch, which reports its build too."""


def parser_of(name: str, about: str | None, quick: str) -> argparse.ArgumentParser:
    """Return a parser of `--json`, `--quick` and `--device`.

    Args:
        name: of the benchmark.
        about: its module's docstring, whose first line is shown.
        quick: what `--quick` does.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=(about or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="file to write the figures to")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser


def circumstances(device: torch.device) -> dict[str, Any]:
    """Return versions, device and date of a measurement."""
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version(name) for name in PACKAGES},
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "isa": _instructions(),
        "threads": torch.get_num_threads(),
        "when": time.strftime("%Y-%m-%d"),
    }


def _instructions() -> str:
    """Return the vector instructions of the CPU that torch uses, and those for half precision."""
    has = torch.cpu.get_capabilities()
    half = [name for name in ("avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16") if has.get(name)]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *half])


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write figures as JSON, and create their folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
