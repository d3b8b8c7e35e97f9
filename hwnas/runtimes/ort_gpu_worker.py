"""The process in which ONNX Runtime's profiler watches a card: runs one network so many times, and ends.

Run as `python -m hwnas.runtimes.ort_gpu_worker FOLDER` by `hwnas.runtimes.ort_gpu`, which left the network, its inputs and `request.json`
there, and reads what the profiler wrote (`profile.json`), the graph as it ran (`optimized.onnx`) and who computed what (`parts.json`).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from hwnas.errors import HwnasError, require
from hwnas.runtimes.ort_gpu import Bound, Target, assignment, open_session


def work(folder: Path) -> None:
    """Does what the request in a folder asks for."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    plain = request["target"]
    target = Target(**{**plain, "others": tuple(plain["others"]), "precisions": tuple(plain["precisions"])})
    ort = require("onnxruntime", "gpu")
    session = open_session(
        ort,
        (folder / "model.onnx").read_bytes(),
        target,
        request["precision"],
        profile=folder / "watched",
        optimized=folder / "optimized.onnx" if request["optimized"] else None,
    )
    with np.load(folder / "feed.npz") as feed:
        bound = Bound(ort, session, target, {name: feed[name] for name in feed.files})
    for _ in range(request["runs"]):
        bound.run()
    (folder / "parts.json").write_text(json.dumps(assignment(session)), encoding="utf-8")
    shutil.move(session.end_profiling(), folder / "profile.json")


def main() -> None:
    """Answers the request in the folder that the command line names; says what is wrong in one line."""
    try:
        work(Path(sys.argv[1]))
    except HwnasError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
