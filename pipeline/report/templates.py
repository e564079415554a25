"""The templates of the report's pages, and what they may call."""

from __future__ import annotations

import base64
import hashlib

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report.charts import space_colour
from pipeline.report.figures import count, decimal, devices, duration, percent, ratio, signed


def page_environment() -> Environment:
    """Return the environment of all pages: what is inserted is escaped, and an unknown name is an error."""
    environment = Environment(
        loader=PackageLoader("pipeline.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        function.__name__: function
        for function in (decimal, signed, percent, count, duration, devices, ratio, script_digest, space_colour)
    }
    return environment


def verbatim(environment: Environment, name: str) -> str:
    """Return a file of the template unchanged, as a part of the page."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def script_digest(script: str) -> str:
    """Return the hash by which a content security policy allows an inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
