# SPDX-License-Identifier: Apache-2.0
"""Plots and pages: whole, closed to the network, readable without the eye."""

import base64
import html.parser
import math
import re
import sys

import numpy as np
import pytest

from tests.audit import reports

VOID = {"meta", "img"}
EXPOSURES = {
    "secret": ["a", "b", "c"],
    "repetitions": [1, 10, 10],
    "exposure": [1.5, 18.0, 20.0],
    "lower": [1.0, 17.0, 20.0],
    "upper": [2.0, math.inf, 20.0],
}
EVIL = "<script>alert('1')</script> & \"quoted\" $x_{"


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that tags close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *each) for each in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def make_full_report(**changes):
    return reports.make_report(exposures=EXPOSURES, **changes)


def test_page_is_well_formed_and_needs_nothing_from_outside(tmp_path):
    path = tmp_path / "report.html"
    text = make_full_report().to_html(path)
    assert path.read_text(encoding="utf-8") == text
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert "http" not in text.replace(re.findall('base64,(.*?)"', text)[0], "")
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    for _, name, value in page.attributes:
        assert not name.startswith("on") and name not in ("href", "srcset")
        assert name != "src" or value.startswith("data:image/png;base64,")
    assert "@import" not in text and "url(" not in text


def test_page_serves_those_who_do_not_see_it():
    page = Page(make_full_report().to_html())
    assert ("html", "lang", "en") in page.attributes
    assert page.tags.count("h1") == 1 and page.tags.count("title") == 1
    assert page.tags.count("caption") == page.tags.count("table") == 4
    scopes = [v for t, n, v in page.attributes if (t, n) == ("th", "scope")]
    assert len(scopes) == page.tags.count("th")
    alts = [v for t, n, v in page.attributes if (t, n) == ("img", "alt")]
    assert len(alts) == page.tags.count("img") == 1 and alts[0]
    shown = " ".join(page.texts)
    assert "the attack finds 0.0625 of the members" in shown
    # The verdict is a word, not a color.
    assert "CLAIM NOT REJECTED" in shown
    assert "color-scheme: light dark" in shown and "@media print" in shown


def test_page_escapes_every_text():
    report = reports.make_report(
        title=EVIL,
        assumptions=(EVIL,),
        warnings=(EVIL,),
        figures=((EVIL, EVIL),),
        slices=((EVIL, 0.5, 0.4, 0.6, 9),),
        exposures={EVIL: [EVIL], "repetitions": [3], "exposure": [2.0]},
    )
    text = report.to_html()
    assert "<script" not in text and "alert('1')" not in text
    page = Page(text)
    # title, heading, warning, assumption, figure twice, slice, secret twice.
    assert sum(EVIL in data for data in page.texts) == 9


@pytest.mark.parametrize("verdict", reports.VERDICTS)
def test_page_without_a_plot_needs_no_matplotlib(verdict, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    lower, claimed, is_bound, is_rejected, want = verdict
    report = reports.make_bare_report(
        epsilon_lower=lower,
        claimed_epsilon=claimed,
        is_bound=is_bound,
        is_rejected=is_rejected,
    )
    page = Page(report.to_html())
    assert "img" not in page.tags
    assert ("div", "class", f"verdict {want.value}") in page.attributes


def test_plot_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (make_full_report().plot, make_full_report().to_html):
        with pytest.raises(ImportError, match="^plot needs matplotlib"):
            draw()


def test_plot_shows_the_attack_over_the_claim(tmp_path):
    path = tmp_path / "plot.png"
    report = make_full_report(title=EVIL)
    figure = report.plot(path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    roc, exposures = figure.axes
    assert roc.get_xscale() == roc.get_yscale() == "log"
    labels = roc.get_legend_handles_labels()[1]
    claim = "allowed by the claim\n(epsilon 3 at delta 1e-05)"
    assert {"attack", "guessing", claim} <= set(labels)
    (attack,) = [line for line in roc.lines if line.get_label() == "attack"]
    # (0, 0) lies on the edge, half of what one of 520 members makes.
    np.testing.assert_allclose(attack.get_xdata(), [0.5 / 520, 0.1, 1.0])
    np.testing.assert_allclose(attack.get_ydata(), [0.5 / 520, 0.25, 1.0])
    (mean,) = [line for line in exposures.lines if line.get_label() == "mean"]
    assert mean.get_xdata().tolist() == [1.0, 10.0]
    assert mean.get_ydata().tolist() == [1.5, 19.0]


def test_area_of_the_claim_is_its_trade_off_curve():
    figure = make_full_report(claim_curve=None, roc=reports.ROC).plot()
    (bound,) = [
        line for line in figure.axes[0].lines if line.get_color() == "tab:green"
    ]
    x, y = bound.get_data()
    steep = 1e-5 + math.exp(3.0) * x
    flat = 1.0 - math.exp(-3.0) * (1.0 - 1e-5 - x)
    allowed = np.minimum(np.minimum(steep, flat), 1.0)
    np.testing.assert_allclose(y, allowed, rtol=1e-9)


def test_plot_shows_only_what_there_is():
    without_claim = make_full_report(
        claimed_epsilon=None, claim_curve=None, tpr_at_fpr=()
    ).plot()
    labels = without_claim.axes[0].get_legend_handles_labels()[1]
    assert labels == ["guessing", "attack"]
    assert len(reports.make_report().plot().axes) == 1
    never = {"repetitions": [0, 1, None], "exposure": [0.5, 2.0, 3.0]}
    (axes,) = reports.make_bare_report(exposures=never).plot().axes
    assert axes.get_xscale() == "symlog"


def test_plot_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(ValueError, match="^plot needs a ROC"):
        reports.make_bare_report().plot()
    with pytest.raises(ValueError, match="^plot must end in one of"):
        make_full_report().plot(tmp_path / "plot.doc")


def test_image_in_the_page_is_a_png():
    text = make_full_report().to_html()
    (data,) = re.findall('base64,(.*?)"', text)
    assert base64.b64decode(data, validate=True)[:4] == b"\x89PNG"
