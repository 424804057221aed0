"""The headline of the page: the sentence that `callers` begins with."""

from __future__ import annotations

import itertools
from html import escape

from laconic.analysis.timeline.collect import Page
from laconic.report.headline import Sentence, sentence
from laconic.report.html.names import short_function
from laconic.report.html.numbers import unbroken
from laconic.report.text import plain


def headline(page: Page) -> Sentence:
    """Return the headline, and what else matters, as text."""
    if page.headline is None:
        return Sentence("")
    text, more = sentence(page.headline)
    return Sentence(plain(text), plain(more))


def markup(page: Page) -> str:
    """Return the headline as the page's heading, and what else matters in smaller type."""
    subject = page.headline.subject if page.headline is not None else None
    name = subject.name if subject is not None and subject.stacks else ""
    return heading(headline(page), short_function(name))


def heading(sentence: Sentence, name: str = "") -> str:
    """Return two sentences as a heading and the text below it; a function of this name is set in
    the font of code."""
    text, more = sentence
    shown = escape(_whole_numbers(text))
    name = escape(plain(name))
    if name:
        shown = shown.replace(name, f'<span class="fn">{name}</span>', 1)
    lede = f'\n<p class="lede">{escape(_whole_numbers(more))}</p>' if more else ""
    return f"<h1>{shown}</h1>{lede}"


def _whole_numbers(text: str) -> str:
    # A number and its unit stay on one line.
    words = text.split(" ")
    shown = [words[0]]
    for before, word in itertools.pairwise(words):
        is_unit = word.rstrip(",.;:") in _UNITS and before[-1:].isdigit()
        shown.append(f"\u00a0{word}" if is_unit else f" {word}")
    return "".join(unbroken(word) if "–" in word else word for word in _joined(shown))


_UNITS = frozenset({"T", "G", "M", "k", "%", "KiB", "MiB", "GiB", "TiB"})


def _joined(words: list[str]) -> list[str]:
    # `unbroken` would bind the space before a word too.
    return [part for word in words for part in ((" ", word[1:]) if word[:1] == " " else (word,))]
