"""The process in which TensorRT is loaded: builds one engine, or looks at one, and ends.

Run as `python -m hwnas.runtimes.trt_worker FOLDER` by `hwnas.runtimes.trt_build`, which left `request.json` there and reads `answer.json`.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from hwnas.errors import HwnasError, require
from hwnas.runtimes import trt_native
from hwnas.runtimes.trt_build import MODULES, Options
from hwnas.runtimes.trt_layers import to_json


def work(folder: Path) -> dict[str, Any]:
    """Does what the request in a folder asks for; gives the answer, in which a failure is an answer as well."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    try:
        trt = require(MODULES[request["flavor"]], request["flavor"])
        if request["job"] == "probe":
            loads, reason, layers = trt_native.look(trt, Path(request["plan"]).read_bytes())
            return {"loads": loads, "reason": reason, "layers": layers}
        options = Options.from_plain(request["options"])
        before = time.perf_counter()
        kept = _cache_file(request, str(trt.__version__)) if options.flavor == "tensorrt" else None
        built = trt_native.compile_engine(trt, (folder / "model.onnx").read_bytes(), options, cache=_read(kept))
        (folder / "model.plan").write_bytes(built.plan)
        (folder / "layers.json").write_text(to_json(built.layers, view="parser"), encoding="utf-8")
        if built.cache:
            (folder / "timing.cache").write_bytes(built.cache)
            _keep(kept, built.cache)
        return {"version": str(trt.__version__), "warnings": built.warnings, "seconds": time.perf_counter() - before}
    except HwnasError as error:
        return {"error": type(error).__name__, "message": str(error)}


def _cache_file(request: dict[str, Any], version: str) -> Path | None:
    """Timings hold for one version of the library on one kind of card."""
    if not request["caches"]:
        return None
    device = "".join(letter if letter.isalnum() else "-" for letter in request["device"].lower())
    return Path(request["caches"], f"{request['flavor']}-{version}", f"{device}.cache")


def _read(file: Path | None) -> bytes:
    return file.read_bytes() if file is not None and file.is_file() else b""


def _keep(file: Path | None, cache: bytes) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".new")
        new.write_bytes(cache)
        new.replace(file)


def main() -> None:
    """Answers the request in the folder that the command line names."""
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore")  # of the library, about itself; what it says of the network comes through its logger
    (folder / "answer.json").write_text(json.dumps(work(folder)), encoding="utf-8")


if __name__ == "__main__":
    main()
