"""The prose check finds what it names, where it is, and nothing else."""

import pytest

from tests.prose import findings, long_lines, prose_of, python_prose


def words(text: str) -> list[str]:
    return [finding.words for finding in findings(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one row a sample", "row a sample"),
        ("takes 2.3 ms an image", "2.3 ms an image"),
        ("is no valid pickle", "is no"),
        ("compute it anew", "anew"),
        ("the run goes\non", "goes on"),
        ("stands beside it", "beside"),
        ("What concerns one image fails that image", "What concerns one"),
        ("# Title\n\n## Further\n\ntext", "## Further"),
    ],
)
def test_a_forbidden_wording_is_found(text, expected):
    assert words(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "one row per sample",
        "there is no valid pickle here",
        "it is no longer used",
        "one at a time",
        "further reading",
        "the word `anew` in backticks",
        "'is no zip'  # prose: quoted",
        "a-torn-b",
    ],
)
def test_plain_or_quoted_wording_passes(text):
    assert words(text) == []


def test_a_finding_names_the_line_where_it_begins():
    assert [(found.line, found.words) for found in findings("plain\nit goes\non\nanew")] == [
        (4, "anew"),
        (2, "goes on"),
    ]


def test_python_prose_is_comments_strings_and_test_names():
    source = (
        "def anew() -> str:\n"
        "    return f'{anew} is torn'  # beside\n"
        "def test_a_file_that_is_torn() -> None: ...\n"
        "text = ('it goes '\n"
        "        'on')\n"
        "first, second = 'it goes', 'on'\n"
    )
    assert sorted((found.line, found.words) for found in findings(python_prose(source))) == [
        (2, "beside"),
        (2, "torn"),
        (3, "torn"),
        (4, "goes on"),
    ]


def test_in_yaml_only_comments_are_prose(tmp_path):
    (tmp_path / "a.yaml").write_text("anew: beside  # torn\n")
    assert words(prose_of(str(tmp_path / "a.yaml"))) == ["torn"]


def test_long_lines_of_markdown_are_found_outside_tables_code_and_images(tmp_path):
    (tmp_path / "a.md").write_text(
        "\n".join([f"| {'x' * 130} |", "```", "x" * 130, "```", f"![{'x' * 130}](a)", "x" * 121])
    )
    assert [found.line for found in long_lines(str(tmp_path / "a.md"))] == [6]
