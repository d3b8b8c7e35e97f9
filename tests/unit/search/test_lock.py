"""One writer a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas.errors import BusyError, DiskError
from hwnas.search.lock import Lock


def test_a_second_holder_is_refused_with_the_first_ones_process(tmp_path):
    """Whoever is refused learns which process to wait for."""
    path = tmp_path / "run.lock"
    held = Lock(path, "the run 'x'")
    with pytest.raises(BusyError, match=f"the run 'x' is being written by another process \\(id {os.getpid()}\\)"):
        Lock(path, "the run 'x'")
    held.release()
    Lock(path, "the run 'x'").release()


@pytest.mark.process
def test_a_killed_holder_holds_nothing(tmp_path):
    """The kernel lets go of the lock, the file that stays behind means nothing."""
    path = tmp_path / "run.lock"
    script = f"import time; from pathlib import Path; from hwnas.search.lock import Lock; lock = Lock(Path({str(path)!r}), 'x')"
    holder = subprocess.Popen([sys.executable, "-c", script + "; print('held', flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=str(holder.pid)):
            Lock(path, "x")
    finally:
        holder.kill()
        holder.communicate()
    Lock(path, "x").release()


def test_a_folder_that_cannot_be_written_is_a_disk_error():
    """/proc takes no files, whoever asks."""
    with pytest.raises(DiskError, match=r"the run 'x' cannot be written: .*; give another folder with --home"):
        Lock(Path("/proc/run.lock"), "the run 'x'")
