# SPDX-License-Identifier: Apache-2.0
"""Tests of the text bar."""

from tf_privacy.audit import progress


def test_bar_goes_to_stderr_and_ends_its_line(capsys):
    show = progress.make_progress_bar("walk")
    show(0, 2000)
    show(2000, 2000)
    captured = capsys.readouterr()
    assert captured.out == ""
    first, last = captured.err.split("\r")[1:]
    assert first == "walk [" + "." * 30 + "] 0 of 2,000"
    assert last == "walk [" + "#" * 30 + "] 2,000 of 2,000\n"


def test_bar_is_not_drawn_more_often_than_it_can_be_read(capsys):
    show = progress.make_progress_bar("walk")
    for done in range(1000):
        show(done, 1_000_000)
    assert capsys.readouterr().err.count("\r") < 20


def test_nothing_to_do_is_done(capsys):
    progress.make_progress_bar("walk")(0, 0)
    assert capsys.readouterr().err.endswith("0 of 0\n")
