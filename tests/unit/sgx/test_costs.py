"""Cost profiles: the shipped ones are whole and honest; what a file of one's own may get wrong is
said in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from laconic.errors import LaconicError
from laconic.sgx import costs
from laconic.sgx.costs import COSTED, CostProfile
from laconic.sgx.meter import THINGS, Counts


def written(path: Path, change: Callable[[str], str] = lambda text: text) -> str:
    """A profile file of one's own, in which every thing costs 1 to 2 cycles; `change` spoils its
    text."""
    text = 'name = "own"\nmachine = "mine"\n'
    for name in COSTED:
        text += f'[{name}]\nlow = 1\nhigh = 2\nsource = "measured"\nmachine = "mine"\n'
    place = path / "own.toml"
    place.write_text(change(text), encoding="utf-8")
    return str(place)


@pytest.mark.parametrize("name", costs.shipped())
def test_a_shipped_profile_is_whole(name: str) -> None:
    """Every thing has a range, and where it has no source it says what was assumed."""
    profile = costs.load(name)
    assert profile.name == name and profile.machine
    assert set(profile.figures) == set(COSTED)
    for figure in profile.figures.values():
        assert 0 < figure.low <= figure.high
        assert figure.sourced or figure.note.startswith("assumption")
        assert figure.machine or not figure.sourced, (
            "what has a source has a machine, if only to say it is not named"
        )
    assert "etrack_ipis" in profile.unsourced, "nobody has published a figure for it"


def test_there_are_three_profiles_that_differ() -> None:
    """The default is one, and no two say the same of a host call."""
    assert costs.DEFAULT in costs.shipped() and len(costs.shipped()) >= 3
    calls = {
        (costs.load(name).figures["host_calls"].low, costs.load(name).figures["eaug"].low)
        for name in costs.shipped()
    }
    assert len(calls) == len(costs.shipped())


def test_all_that_is_counted_is_costed_or_free() -> None:
    """A new thing in the counts cannot be forgotten here."""
    assert set(THINGS) - set(COSTED) == {"untouched_pages", "open_windows"}


def test_cycles_are_a_range(tmp_path: Path) -> None:
    """The sum over the things; what is free adds nothing."""
    profile = costs.load(written(tmp_path))
    assert profile.cycles(Counts()) == (0, 0)
    assert profile.cycles(Counts(host_calls=3, eaug=4, untouched_pages=100)) == (7, 14)
    assert profile.vector(True)["eaccept"] == 2


def test_lines_show_what_has_no_source(tmp_path: Path) -> None:
    """In words, in its own line."""
    text = written(tmp_path, lambda text: text.replace('"measured"', '""', 1))
    lines = costs.load(text).lines()
    assert lines[0] == "host_calls: 1 to 2 cycles; no source; mine"
    assert lines[1] == "ioctls: 1 to 2 cycles; measured; mine"
    assert not costs.load(text).sourced and costs.load(text).unsourced == ("host_calls",)


BAD: list[tuple[Callable[[str], str], str]] = [
    (lambda text: text.replace("[eaug]", "[eaugh]"), "eaugh = "),
    (
        lambda text: text[: text.index("[pages_copied]")],
        "pages_copied is missing: add [pages_copied]",
    ),
    (
        lambda text: text.replace("low = 1\n", "", 1),
        "host_calls.low is missing: add low under [host_calls]",
    ),
    (
        lambda text: text.replace('source = "measured"\n', "", 1),
        'write source = "" for an assumption',
    ),
    (lambda text: text.replace("low = 1", "low = -1", 1), "host_calls.low = -1: is negative"),
    (
        lambda text: text.replace("low = 1", "low = 3", 1),
        "host_calls.low = 3 is more than host_calls.high = 2",
    ),
    (
        lambda text: text.replace("low = 1", "low = true", 1),
        "host_calls.low = true: is not a number",
    ),
    (lambda text: text.replace("low = 1", 'low = "1"', 1), "host_calls.low = '1': is not a number"),
    (
        lambda text: text.replace("low = 1", "low = nan", 1),
        "host_calls.low = nan: is not a finite number",
    ),
    (
        lambda text: text.replace("high = 2", "high = inf", 1),
        "host_calls.high = inf: is not a finite number",
    ),
    (lambda text: text.replace("low = 1", "low = 1" + "0" * 400, 1), "is not a finite number"),
    (
        lambda text: text.replace("low = 1", "low = 1" + "0" * 5000, 1),
        "is not TOML that can be read",
    ),
    (lambda text: text.replace("low = 1", "least = 1", 1), "host_calls.least = 1: is not known"),
    (lambda text: text.replace('"measured"', "7", 1), "host_calls.source = 7: is not text"),
    (lambda text: text.replace('"own"', "7", 1), "name = 7: is not text"),
    (lambda text: "host_calls = 7\n" + text.replace("[host_calls]", "[ioctl]"), "ioctl = "),
    (lambda text: "colour = 7\n" + text, "colour = 7: is not a thing that is costed"),
    (lambda text: text.replace("low = 1", "low = ", 1), "line 4"),
    (lambda text: "x = " + "[" * 5000, "is not TOML"),
]


@pytest.mark.parametrize(("change", "says"), BAD, ids=range(len(BAD)))
def test_a_bad_file_is_one_line_that_says_what_to_do(
    tmp_path: Path, change: Callable[[str], str], says: str
) -> None:
    """File, key, value and cure."""
    place = written(tmp_path, change)
    with pytest.raises(LaconicError) as caught:
        costs.load(place)
    message = str(caught.value)
    assert message.startswith(f"{place}: ") and says in message
    assert "\n" not in message and len(message) < 600


def test_a_thing_that_is_no_table(tmp_path: Path) -> None:
    """A bare number has no source."""
    start = written(
        tmp_path,
        lambda text: "eaug = 7\n" + text[: text.index("[eaug]")] + text[text.index("[eaccept]") :],
    )
    with pytest.raises(LaconicError, match=r"eaug = 7: must be a table: write \[eaug\]"):
        costs.load(start)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a directory, not text, no path at all."""
    with pytest.raises(
        LaconicError, match=r"there is no such cost profile: give a file, or one of .*published"
    ):
        costs.load(tmp_path / "none.toml")
    with pytest.raises(LaconicError, match="cannot be read: Is a directory"):
        costs.load(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"name = \xff")
    with pytest.raises(LaconicError, match="byte 7 is not UTF-8"):
        costs.load(binary)
    with pytest.raises(LaconicError, match="cannot be read"):
        costs.load("a\0b")


def test_a_profile_is_immutable() -> None:
    """It is shared by all that use it."""
    profile = costs.load()
    assert isinstance(profile, CostProfile)
    with pytest.raises(AttributeError):
        profile.name = "other"  # type: ignore[misc]
