"""How far long work is: a bar where somebody watches, else a line for each finished stage."""

import io

import pytest

from interp_cnn.storage import progress
from interp_cnn.storage.progress import stage, stages


def test_each_finished_stage_has_a_line_where_nobody_watches(capsys):
    seen = []
    for item in stages(["a", "b"], "measuring", lambda it: it.upper()):
        seen.append((item, capsys.readouterr().err))
    assert seen == [("a", ""), ("b", "measuring: 1/2, A, 0 s\n")]
    assert capsys.readouterr() == ("", "measuring: 2/2, B, 0 s\n")
    with stage("writing"):
        assert capsys.readouterr().err == ""
    assert capsys.readouterr() == ("", "writing, 0 s\n")


def test_a_stage_that_fails_is_not_called_done(capsys):
    with pytest.raises(ValueError, match="no"), stage("writing"):
        raise ValueError("no")
    for _ in stages([1], "measuring"):
        break
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar_and_no_lines(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", screen)
    assert list(stages([1, 2], "measuring")) == [1, 2]
    with stage("writing"):
        pass
    assert (
        "measuring" in screen.getvalue()
        and "1/2" not in screen.getvalue()
        and "writing" not in screen.getvalue()
    )
