"""`hwnas` as a test calls it: in this process where that is enough, as a process of its own where it is to be killed."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.cli.main import run

TINY = f"{Path(__file__).with_name('tiny_space.py')}:TinySpace"
QUICK = ("--target-error", "99%", "--max-time", "1h")  # a profile that ends after the first looks at its error, however slow the machine
SAFETY_S = 300.0  # a process that hangs fails its test instead of hanging it
FREEZING = """
import itertools, os, signal
from hwnas.cli import main
from hwnas.profiling.journal import Journal
visit, count = Journal.visit, itertools.count(1)
def counted(*arguments):
    visit(*arguments)
    if next(count) == {visits}:
        os.kill(os.getpid(), signal.SIGSTOP)
Journal.visit = counted
main()
"""
_started: list[subprocess.Popen[str]] = []


@dataclass(frozen=True)
class Done:
    """A command that has ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it wrote on standard error, without empty lines (a terminal shows `^C` in one)."""
        assert "Traceback" not in self.err, self.err
        return [line for line in self.err.splitlines() if line.strip()]

    @property
    def complaint(self) -> str:
        """The one line of a command that failed, beside those that told what it was doing."""
        assert self.code != 0, self.out
        assert self.out == ""
        *told, line = self.lines
        assert all(text.startswith(("run ", "hwnas: note: ")) for text in told), told
        assert line.startswith("hwnas: ")
        return line.removeprefix("hwnas: ")

    @property
    def json(self) -> Any:
        """What a command that worked printed as JSON."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def invoke(*words: str | Path) -> Done:
    """Runs a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(word) for word in words])
    return Done(code, out.getvalue(), err.getvalue())


def start(*words: str | Path, largest_file: int | None = None, freeze_after: int | None = None) -> subprocess.Popen[str]:
    """Starts a command in a process of its own.

    Args:
        words: of the command line.
        largest_file: no file may grow beyond so many bytes, as if the disk were full.
        freeze_after: it stops when it has written down so many visits, and waits to be killed or told to go on (`wait_frozen`): a test that
            watches from outside may come too late.
    """
    program = ["-m", "hwnas.cli"]
    if largest_file is not None:
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file}, {largest_file}))"
        program = ["-c", f"{limit}; from hwnas.cli import main; main()"]
    if freeze_after is not None:
        program = ["-c", FREEZING.format(visits=freeze_after)]
    environment = {key: value for key, value in os.environ.items() if key != "HWNAS_HOME"}
    process = subprocess.Popen(
        [sys.executable, *program, *map(str, words)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    )
    _started.append(process)
    return process


def _heed_interrupts() -> None:
    """A shell lets what it runs in the background ignore Control-C, and so would all that is started from there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def reap() -> None:
    """Ends what was started and has not ended, such as a process that a failed test left frozen."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def finish(process: subprocess.Popen[str]) -> Done:
    """Waits for a command to end."""
    out, err = process.communicate(timeout=SAFETY_S)
    return Done(process.returncode, out, err)


def wait_until(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Waits until a command that is at work has come to some point."""
    end = time.monotonic() + SAFETY_S
    while not reached():
        assert process.poll() is None, f"it ended too early: {finish(process)}"
        assert time.monotonic() < end, "it does not get there"
        time.sleep(0.05)


def wait_frozen(process: subprocess.Popen[str]) -> None:
    """Waits until a command has stopped, and has not ended: it holds what it holds, and gets no further."""
    wait_until(process, lambda: os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None)


def end(process: subprocess.Popen[str], blow: signal.Signals) -> Done:
    """Ends a command that is frozen as `kill -9` or Control-C does."""
    process.send_signal(blow)
    process.send_signal(signal.SIGCONT)
    return finish(process)


@contextmanager
def once(folder: Path) -> Iterator[bool]:
    """Whether this is the first of the test processes to come by; the others wait until it is through."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = folder / "made"
        first = not mark.exists()
        yield first
        if first:
            mark.touch()
