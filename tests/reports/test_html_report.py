"""The HTML report of any answer: well-formed, nothing fetched, nothing run, nothing unescaped, readable."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from math import isfinite
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autobatch.records.recommendation import Recommendation
from autobatch.reports import snippets
from autobatch.reports.html import document, notebook, style, tables
from autobatch.reports.html.markup import Markup, element
from autobatch.storage import codec
from tests.golden.test_text_report import ENVIRONMENT
from tests.security.test_security import HOSTILE, steers
from tests.storage.test_codec import SMALL
from tests.strategies import ANY_FLOATS, recommendations

ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title><style>@import 'http://example.org/x.css'</style>",
    "</style></svg><iframe src=http://example.org>",
    "</code></pre><a href=javascript:alert(1)>x</a>",
    "&lt;b&gt; &#x3c;script&#x3e; &amp",
    "<!--",
    "]]>",
    "url(http://example.org)",
    "שלום \u202e مرحبا",
)
TEXTS = st.sampled_from(ATTACKS) | HOSTILE
VOID = ("meta", "wbr")
ELEMENTS = set(
    """html head meta title style body header main footer section div span b bdi wbr time h1 h2 h3 p dl dt dd
    ul li figure figcaption svg g line polyline path circle text table caption thead tbody tr th td i pre code
    details summary""".split()  # noqa: SIM905
)
ATTRIBUTES = set(
    """lang charset http-equiv content name class id datetime style role aria-label aria-labelledby
    aria-hidden tabindex scope colspan viewbox font-size fill stroke points d x y x1 x2 y1 y2 cx cy r
    text-anchor width height fill-opacity""".split()  # noqa: SIM905
)
FIGURES = ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r")


class Page(HTMLParser):
    """What a browser would make of a page, and what it would not."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: set[str] = set()
        self.attributes: dict[str, list[str]] = {}
        self.texts: dict[str, list[str]] = {}
        self.result = ""
        self._in_result = False
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        assert len(dict(attrs)) == len(attrs)
        for name, value in attrs:
            assert value is not None, f"{name} has no value"
            self.attributes.setdefault(name, []).append(value)
        self._in_result = ("id", "result") in attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._in_result = False

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)
        if self._in_result:
            self.result += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")


def pictures(source: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(one) for one in re.findall(r"<svg.*?</svg>", source, re.DOTALL)]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recommendations(texts=TEXTS, floats=ANY_FLOATS))
def test_any_answer_makes_a_page_of_known_parts_that_fetches_and_runs_nothing(found: Recommendation) -> None:
    source = document.render(found)
    source.encode()
    page = Page(source)
    assert page.elements <= ELEMENTS
    assert set(page.attributes) <= ATTRIBUTES
    assert not steers(source)
    # The one style sheet is ours to the letter, and no attribute of style holds more than a length.
    assert page.texts["style"] == [style.page()]
    for value in page.attributes.get("style", []):
        assert re.fullmatch(r"--share: \d+\.\d%|font-size: \d\.\d\drem", value)
    check_pictures(source)
    for one in snippets.made_for(found):
        assert str(found.batch_size) in one.code
        if one.language == "python":
            ast.parse(one.code)


def check_pictures(source: str) -> None:
    """Each is XML with finite figures, and says in words what it shows."""
    for picture in pictures(source):
        assert picture.get("aria-hidden") == "true" or picture.get("aria-label", "").endswith(".")
        for part in picture.iter():
            for name in FIGURES:
                assert isfinite(float(part.get(name, "0")))
            drawn = part.get("points", "") + part.get("d", "")
            assert re.fullmatch(r"[-\d., Mlmh]*", drawn), drawn


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recommendations(texts=st.sampled_from(ATTACKS) | st.text(max_size=60)))
def test_the_result_on_the_page_reads_back(found: Recommendation) -> None:
    assert codec.parse(Page(document.render(found)).result) == found


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recommendations(texts=TEXTS, floats=ANY_FLOATS))
def test_a_notebook_gets_a_fragment_of_known_parts(found: Recommendation) -> None:
    shown = found._repr_html_()
    assert shown == notebook.render(found)
    page = Page(shown or "")
    assert page.elements <= ELEMENTS - {"html", "head", "body", "meta", "title", "main", "header", "footer"}
    assert "id" not in page.attributes
    assert not steers(shown or "")


def test_the_styles_of_a_fragment_reach_nothing_else_in_the_notebook() -> None:
    selectors = re.findall(r"([^{}]+)\{[^{}]*\}", style.notebook())
    assert len(selectors) >= 5
    for one in ",".join(selectors).split(","):
        assert one.strip().startswith(".autobatch-answer")


def test_an_answer_shows_itself_in_a_notebook_wherever_it_comes_from() -> None:
    """In a fresh process that has imported the records alone."""
    program = (
        "import sys, pickle; from autobatch.records.recommendation import Recommendation; "
        "found = pickle.loads(bytes.fromhex(sys.argv[1])); "
        "assert not any(name.startswith('autobatch.reports') for name in sys.modules); "
        "print(found._repr_html_().startswith('<div class=\"autobatch-answer\">'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, pickle.dumps(SMALL).hex()], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"


def test_a_style_sheet_fetches_nothing() -> None:
    for sheet in (style.page(), style.notebook()):
        assert not re.search(r"url\(|@import|@font-face|image-set|expression|http", sheet)
        assert "<" not in sheet


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


WORDS = (
    *product(("ink", "soft"), ("page", "card", "code")),
    *product(("accent", "warn", "bad"), ("card",)),
    ("accent", "tint"),
    ("warn", "warn-tint"),
    ("ink", "warn-tint"),
)
LINES = tuple(product(("line", "accent", "bad", "soft", "s0", "s1", "s2", "s3", "s4", "s5"), ("card",)))


@pytest.mark.parametrize("colours", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_colours_have_the_contrast_that_wcag_asks_for(colours: dict[str, str]) -> None:
    assert round(contrast("#000000", "#ffffff"), 3) == 21
    low = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in WORDS}
    assert min(low.values()) >= 4.5, low
    low = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in LINES}
    assert min(low.values()) >= 3, low


def test_both_schemes_name_the_same_colours() -> None:
    assert list(style.LIGHT) == list(style.DARK)
    used = set(re.findall(r"var\(--([\w-]+)\)", style.page()))
    assert used - {"sans", "mono", "share"} == set(style.LIGHT)


def test_text_becomes_markup_once() -> None:
    assert (
        element("p", "<b>", Markup("<i></i>"), None, class_='"&')
        == '<p class="&#34;&amp;">&lt;b&gt;<i></i></p>'
    )
    assert element("p", element("b", "&")) == "<p><b>&amp;</b></p>"
    assert element("pre", "a\n\x1b\u202e") == "<pre>a\n\\x1b\\u202e</pre>"


def test_a_page_names_what_it_is_and_where_each_part_begins() -> None:
    page = Page(document.render(SMALL))
    assert page.attributes["lang"] == ["en"]
    assert page.texts["title"][:1] == ["batch size 8 · Net · autobatch"]
    assert page.elements >= {"header", "main", "footer", "h1", "h2", "caption"}
    assert page.attributes["scope"].count("col") == 6
    # Each section is named by its own heading.
    named = set(page.attributes["aria-labelledby"])
    assert len(named) == len(page.attributes["aria-labelledby"])
    assert named <= set(page.attributes["id"])
    assert len(set(page.attributes["id"])) == len(page.attributes["id"])


@pytest.mark.parametrize(
    "started_at", ["2026-03-01T12:00:00+02:00", "yesterday", "", "9999-99-99", "0001-01-01T00:00:00+23:59"]
)
def test_any_date_is_shown(started_at: str) -> None:
    shown = document.render(replace(SMALL, environment=replace(ENVIRONMENT, started_at=started_at)))
    assert (">1 March 2026, 10:00 UTC<" in shown) is (started_at == "2026-03-01T12:00:00+02:00")
    assert started_at in shown


@pytest.mark.parametrize(
    ("share", "width"),
    [(0.25, "25.0%"), (-0.0, "0.0%"), (-1e-298, "0.0%"), (7.0, "100.0%"), (float("nan"), "0.0%")],
)
def test_a_bar_has_a_share_of_its_cell(share: float, width: str) -> None:
    assert f"--share: {width}" in str(tables.bar_cell(share))
