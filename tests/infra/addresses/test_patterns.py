import pytest
import webdataset

from infra.addresses.patterns import expand_braces, has_wildcard, literal_part, pattern_regex
from infra.errors import StoreError


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("a.tar", ("a.tar",)),
        ("{a,b}.tar", ("a.tar", "b.tar")),
        ("{0..3}", ("0", "1", "2", "3")),
        ("{008..011}.tar", ("008.tar", "009.tar", "010.tar", "011.tar")),
        ("{9..11}", ("9", "10", "11")),
        ("{3..1}", ("3", "2", "1")),
        ("{0..9..4}", ("0", "4", "8")),
        ("{a,b}-{0..1}", ("a-0", "a-1", "b-0", "b-1")),
        ("{x{0..1},y}", ("x0", "x1", "y")),
        ("{a}", ("{a}",)),
        ("{a{0..1}}", ("{a0}", "{a1}")),
        ("{a..e..2}", ("a", "c", "e")),
        ("{-1..1}", ("-1", "0", "1")),
        ("{00..10..5}", ("00", "05", "10")),
        ("{a[,]b,c}", ("a[,]b", "c")),
        ("[{]{a,[}]}", ("[{]a", "[{][}]")),
        ("a}", ("a}",)),
        ("a\\{b,c}", ("a\\b", "a\\c")),
        ("{x{a,b}{0..2},y}", ("xa0", "xa1", "xa2", "xb0", "xb1", "xb2", "y")),
        ("{a,}", ("a", "")),
    ],
)
def test_brace_lists_stand_for_names(pattern, wanted):
    assert expand_braces(pattern) == wanted


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..999999999}",
        "{0..9999}{0..9999}",
        "{a{0..9999}{0..9999},b}",
        "{0..1000000..1}",
        "{1,2}" * 40,
        "{a..z}" * 5,
    ],
)
def test_lists_of_too_many_names_are_refused_before_they_are_made(pattern):
    with pytest.raises(StoreError, match="expand to more than 1,000,000 names; use wildcards"):
        expand_braces(pattern)


@pytest.mark.parametrize("pattern", ["{a-{000..999},b-{000..999}}", "{0..999999}"])
def test_lists_of_many_names_are_expanded(pattern):
    assert len(expand_braces(pattern)) in (2_000, 1_000_000)


def test_brace_lists_are_those_of_webdataset():
    for pattern in ("a-{00..12}.tar", "{a,b{1..3}}/{x,}", "{9..7}", "{a..c}"):
        assert list(expand_braces(pattern)) == webdataset.shardlists.expand_urls(pattern)


@pytest.mark.parametrize("pattern", ["{a,b}}", "}{a,b}", "{{a,b}"])
def test_braces_that_do_not_match_are_refused(pattern):
    with pytest.raises(StoreError, match="unmatched brace"):
        expand_braces(pattern)


def test_an_open_brace_is_refused_with_how_to_write_it():
    with pytest.raises(StoreError, match=r"unmatched brace in 'a-\{0..7.tar'.*\{000..127\}"):
        expand_braces("a-{0..7.tar")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*.tar", "a.tar", True),
        ("*.tar", "a.tar.gz", False),
        ("*.tar", "b/a.tar", False),
        ("**/*.tar", "a.tar", True),
        ("**/*.tar", "b/c/a.tar", True),
        ("b/**", "b/c/a.tar", True),
        ("a?.tar", "ab.tar", True),
        ("a?.tar", "a/.tar", False),
        ("[ab]-[0-9].tar", "b-7.tar", True),
        ("[!ab].tar", "b.tar", False),
        ("[!ab].tar", "c.tar", True),
        ("a+b.tar", "a+b.tar", True),
        ("a+b.tar", "aab.tar", False),
        ("[", "[", True),
    ],
)
def test_wildcards_stay_inside_one_folder_unless_doubled(pattern, name, matches):
    assert bool(pattern_regex(pattern).fullmatch(name)) is matches


def test_what_matches_begins_with_the_literal_part():
    assert literal_part("a/b-*.tar") == "a/b-"
    assert literal_part("a/b.tar") == "a/b.tar"
    assert has_wildcard("a[0]")
    assert not has_wildcard("a.tar")
