"""Fails where prose breaks the rules of CONTRIBUTING.md: `python tests/prose.py`.

Checks Markdown, templates, comments of YAML and Makefile, and the comments, docstrings, other strings and test names of
Python files. Text in backticks is exempt, and so is a line that ends with a comment `prose: quoted`.
"""

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PENDING: tuple[str, ...] = ()  # files and folders that still need rewriting
EXEMPT = ("tests/prose.py", "tests/test_prose.py")  # they hold the words themselves
WIDTH = 120  # of Markdown
QUOTED = "prose: quoted"
NOT_PROSE = re.compile(r"^[rbfRBF]*[\"'#]+|[\"']+$|(?<!{){[^{}]*}")  # prefixes, quotes, fields of f-strings
CODE = "\0"  # stands for code, so that no phrase reaches across it


class Rule(NamedTuple):
    """A wording that the project does not use, and what to write instead."""

    pattern: re.Pattern[str]
    better: str


class Finding(NamedTuple):
    """A place that breaks a rule; lines count from 1."""

    line: int
    words: str
    better: str


def rule(pattern: str, better: str) -> Rule:
    """Return a rule; a space in its pattern matches line breaks too."""
    return Rule(re.compile(r"(?<![\w-])(?:" + pattern.replace(" ", r"\s+") + r")(?![\w-])", re.IGNORECASE), better)


PIECE = (
    "sample|unit|stage|image|picture|photograph|step|space|worker|actor|machine|window|shard|segment|hour|minute|"
    "second(?! [a-z])|night|run|pass|file|row|pixel|channel|epoch|batch|request|item|class|map|scene|layer|slot|bundle|"
    "key|line|task|entry"
)
AMOUNT = (
    r"once|twice|\d+(?:[.,]\d+)*(?: [kmg]i?b| ms| s| db)?|mi?b|gi?b|ms|seconds?|minutes?|hours?|bytes|rows?|steps?|"
    "images?|numbers?|actors?|workers?|files?|requests?|names?|lines?|members?|units?|samples?|receipts?|bundles?|dimensions?|"
    "tars?|maps?|attempts?|times?|one"
)

RULES = [
    rule(f"(?:{AMOUNT}) an? (?:{PIECE})", "per sample, per unit, …"),
    rule(r"(?<!there\s)(?:is|are|was|were|being) no(?! longer| more| less| better| worse)", "is not a …"),
    rule("(?:it is|it was|they are|they were) none", "expected A, got B"),
    rule("another one", "expected A, got B; a different …"),
    rule("anew", "again; from the start; regenerate"),
    rule("go(?:es|ing)? on|went on|gone on", "continue; resume"),
    rule("beside", "next to; as well as"),
    rule("behind", "after; downstream of"),
    rule("but for", "except"),
    rule("so many|that many", "N; the number of …"),
    rule("can(?:not)? be had|could not be had", "available; unavailable"),
    rule("torn", "truncated"),
    rule("(?:what )?concerns one", "per-image errors …"),
    rule("the way of an?|what is where|what goes where", "Pipeline stages; Layout"),
    rule("what (?:came|comes|became|becomes) of", "the result of; what happens to"),
    rule("(?:is|are|was|were) to be", "is; will be; should be"),
    rule("whoever|whosoever", "anyone who; the reader"),
    rule("for ever", "forever"),
    rule("(?:is|are|was|were) told (?:apart )?by", "is recognised by"),
    rule("put(?:s|ting)? down to", "attribute to"),
    rule("stands? for itself", "is literal"),
    rule("let go of|lets go of", "release"),
    rule("kin", "say which"),
    rule("reckon(?:ed|s|ing)?", "estimate; compute"),
    rule("lest|albeit|amongst|whilst|unto|hence|thereof|therein|whereof|hereby|nought", "plain words"),
    Rule(re.compile(r"^#+ further$", re.IGNORECASE | re.MULTILINE), "Further reading"),
]


def main() -> int:
    """Print every finding as `path:line: words -> better`; return 1 if there are any."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split("\n")
    failed = False
    for path in listed:
        if path and not path.startswith(PENDING + EXEMPT):
            for finding in [*findings(prose_of(path)), *(long_lines(path) if path.endswith(".md") else ())]:
                print(f'{path}:{finding.line}: "{finding.words}" -> {finding.better}')
                failed = True
    return int(failed)


def long_lines(path: str) -> Iterator[Finding]:
    """Yield the lines of a Markdown file that are too long; tables, code and images cannot be wrapped."""
    code = False
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        code ^= line.startswith("```")
        if len(line) > WIDTH and not code and not line.startswith(("|", "!")):
            yield Finding(number, f"{line[:20]}…", f"wrap at {WIDTH} columns")


def prose_of(path: str) -> str:
    """Return the prose of a file, line by line as in the file; empty for files without prose."""
    name = Path(path)
    if name.suffix in {".md", ".j2"}:
        return name.read_text()
    if name.suffix in {".yaml", ".yml"} or name.name == "Makefile":
        return "\n".join(line.partition("#")[2] or CODE for line in name.read_text().splitlines())
    if name.suffix == ".py":
        return python_prose(name.read_text())
    return ""


def python_prose(source: str) -> str:
    """Return comments, strings and test names of a module at their places, with one `CODE` for each other token."""
    lines = [[" "] * len(line) for line in source.splitlines()]
    original = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (first, start), (last, end) = token.start, token.end
        if token.type in {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)}:
            for row in range(first, last + 1):
                text = original[row - 1]
                piece = slice(start if row == first else 0, end if row == last else len(text))
                lines[row - 1][piece] = NOT_PROSE.sub(lambda part: " " * len(part[0]), text[piece])
        elif token.type == tokenize.NAME and token.string.startswith("test_"):
            lines[first - 1][start:end] = token.string.replace("_", " ")
        elif token.string.strip() and first <= len(lines):
            lines[first - 1][start] = CODE
    return "\n".join("".join(line) for line in lines)


def findings(prose: str) -> Iterator[Finding]:
    """Yield what breaks a rule, in the order of the rules."""
    text = re.sub(r"`[^`\n]+`", lambda quoted: "_" * len(quoted[0]), prose)
    lines = prose.splitlines()
    for pattern, better in RULES:
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start())
            if QUOTED not in lines[line]:
                yield Finding(line + 1, " ".join(match[0].split()), better)


if __name__ == "__main__":
    sys.exit(main())
