"""Fails if a Python file is longer than a reader should have to hold: `python tests/file_sizes.py`."""

import subprocess
import sys
from pathlib import Path

LONGEST = 400


def main() -> int:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = {path: len(Path(path).read_text().splitlines()) for path in listed.stdout.split() if Path(path).exists()}
    long = {path: count for path, count in lines.items() if count > LONGEST}
    for path, count in sorted(long.items()):
        print(f"{path} has {count} lines, at most {LONGEST} are allowed: give the second idea in it a file of its own")
    return 1 if long else 0


if __name__ == "__main__":
    sys.exit(main())
