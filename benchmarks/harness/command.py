"""What the commands of the benchmarks share: their arguments, what figures were measured with and where they go."""

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
"""Those whose versions change figures, beside torch, which tells its build too."""


def parser_of(name: str, about: str | None, quick: str) -> argparse.ArgumentParser:
    """Return a parser of `--json`, `--quick` and `--device`.

    Args:
        name: of the benchmark.
        about: its module's docstring, whose first line is shown.
        quick: what `--quick` does.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=(about or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures are written")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser


def circumstances(device: torch.device) -> dict[str, Any]:
    """Return what figures were measured with, and when."""
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version(name) for name in PACKAGES},
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "when": time.strftime("%Y-%m-%d"),
    }


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write figures as JSON, and the folder that they go to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
