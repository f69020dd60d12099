"""What `gradpath run` says at the end is true of how the script has ended."""

from pathlib import Path

from gradpath.probes.zero_change import start_session
from tests.probes.loops import plain


def test_a_script_that_never_trains_is_told_of_watch(tmp_path: Path) -> None:
    session = start_session(tmp_path / "run")
    session.finish()
    assert "probe.watch" in str(session.summary())
    assert not (tmp_path / "run").exists()


def test_a_script_that_fails_before_it_trains_is_told_just_that(tmp_path: Path) -> None:
    session = start_session(tmp_path / "run")
    session.fail(ValueError("no data"))
    assert session.summary() == (
        "Nothing was recorded: the script ended before its first backward pass."
    )


def test_a_script_that_trains_is_told_what_is_recorded(tmp_path: Path) -> None:
    session = start_session(tmp_path / "run", instruments="light")
    plain(1)
    session.finish()
    assert "1 step with 2 loss terms (residual, boundary) is recorded" in str(session.summary())
