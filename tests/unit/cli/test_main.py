"""What becomes of errors: one line on standard error, and an exit code."""

from __future__ import annotations

import errno

import click
import pytest

from hwnas.cli import cli
from hwnas.cli.main import main, run
from hwnas.errors import GraphError, InfeasibleError, UsageError


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """A command `fail` that raises what the list holds."""
    errors: list[BaseException | None] = [None]

    @click.command()
    def fail() -> None:
        if errors[0] is not None:
            raise errors[0]

    monkeypatch.setitem(cli.commands, "fail", fail)
    return errors


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no such thing; take another"), 2, "hwnas: no such thing; take another"),
        (GraphError("a\nb:\t c"), 1, "hwnas: a b: c"),
        (InfeasibleError("nobody keeps '[red]' [bold]"), 1, "hwnas: nobody keeps '[red]' [bold]"),
        (click.UsageError("not so"), 2, "hwnas: not so (see 'hwnas fail --help')"),
        (MemoryError(), 1, "hwnas: out of memory; try a smaller batch, space or number of evaluations"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, "hwnas: No space left on device: '/x/y'"),
        (OSError("odd"), 1, "hwnas: odd"),
    ],
)
def test_errors(error: Exception, code: int, line: str, failing: list[BaseException | None], capsys: pytest.CaptureFixture[str]) -> None:
    """Each is told in one line, whatever it holds; the exit code says whether the call or the work failed."""
    failing[0] = error
    assert run(["fail"]) == code
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"{line}\n")


def test_interrupts(failing: list[BaseException | None], capsys: pytest.CaptureFixture[str]) -> None:
    """Control-C gives the shells' exit code and the way to go on."""
    failing[0] = KeyboardInterrupt()
    assert run(["fail"]) == 130
    assert "--resume" in capsys.readouterr().err


def test_a_mistake_of_ours_is_not_hidden(failing: list[BaseException | None]) -> None:
    """What nobody foresaw keeps its traceback."""
    failing[0] = KeyError("x")
    with pytest.raises(KeyError):
        run(["fail"])


def test_success(failing: list[BaseException | None], capsys: pytest.CaptureFixture[str]) -> None:
    """A command that ends is 0, and the process exits with it."""
    assert run(["fail"]) == 0
    with pytest.raises(SystemExit) as ended:
        main(["fail"])
    assert ended.value.code == 0
    assert capsys.readouterr() == ("", "")
