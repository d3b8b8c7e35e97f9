"""Compiling a kernel ahead of time, with no card: PTX, machine code, and what a program of it needs.

Triton appends two pointers to every kernel's parameters, to scratch memory that its own launcher allocates. Another launcher, such as
TensorRT's, passes what the source says and nothing more. So the two are cut out of the PTX, once it is sure that nothing reads them, and
the machine code is assembled from the result by the assembler that comes with Triton; it tells registers and spills.

By itself Triton stamps PTX with the version of its newest assembler, and a driver refuses PTX that is newer than itself. Nothing here needs
more than the oldest version that knows all architectures.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.errors import HwnasError, UsageError, did_you_mean, one_line, require
from hwnas.kernels.source import Case, KernelSource, Tuning

ARCHS: Mapping[str, int] = {"sm80": 80, "sm86": 86, "sm89": 89, "sm90": 90, "sm100": 100, "sm120": 120}
DEFAULT_ARCHS = ("sm80", "sm90", "sm100")
PTX_VERSION = 86  # CUDA 12.7: the first that knows sm_100
WARP = 32
_ALIGNED = 16  # bytes of every tensor, and what a size must be divisible by for wide loads
_POINTERS: Mapping[str, str] = {"fp32": "*fp32", "fp16": "*fp16", "bf16": "*bf16"}
_ENTRY = re.compile(r"(\.visible \.entry (\w+)\()(.*?)(\n\))", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a program of a kernel needs.

    Attributes:
        registers: of a thread.
        shared_bytes: of a program.
        spill_store_bytes: that a thread writes to local memory for want of registers.
        spill_load_bytes: that it reads back.
    """

    registers: int
    shared_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A kernel compiled for an architecture.

    Attributes:
        symbol: name of the function in the code.
        ptx: for the driver to assemble; its parameters are inputs, integers and outputs, in the order of the source.
        cubin: assembled.
        threads: of a program.
        constants: with which it was compiled.
        usage: of a program.
    """

    symbol: str
    ptx: str
    cubin: bytes
    threads: int
    constants: Mapping[str, Any]
    usage: Usage


def architecture(name: str) -> int:
    """The compute capability of an architecture, such as 90.

    Raises:
        UsageError: hwnas does not compile for it.
    """
    if name not in ARCHS:
        raise UsageError(f"unknown architecture '{name}'{did_you_mean(name, ARCHS)}; known: {', '.join(ARCHS)}")
    return ARCHS[name]


def compile_kernel(source: KernelSource, case: Case, *, arch: str, precision: str, tuning: Tuning, static: bool = True) -> Compiled:
    """Compiles a kernel for a case.

    Args:
        source: the kernel.
        case: whose sizes decide the blocks; the code is right for any other sizes of the activations.
        arch: a key of `ARCHS`.
        precision: of all tensors.
        tuning: how it will be launched.
        static: the sizes are those of the case and no others, so that what is divisible may be said to be.

    Raises:
        UsageError: an unknown architecture or precision, or Triton was told to interpret.
        MissingExtraError: triton is not installed.
        HwnasError: the kernel cannot be compiled so.
    """
    if precision not in _POINTERS:
        raise UsageError(f"kernels are compiled in {', '.join(_POINTERS)}; got '{precision}'")
    capability = architecture(arch)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise UsageError("kernels are compiled where TRITON_INTERPRET is not set; unset it")
    triton = require("triton", "triton")
    compiler, target = (
        require("triton.compiler", "triton"),
        require("triton.backends.compiler", "triton").GPUTarget("cuda", capability, WARP),
    )
    code = source.code
    constants = code.constants(case.shapes, case.attrs, tuning.sizes)
    scalars = code.scalars(case.shapes, case.attrs)
    pointers = [name for name in (*code.INPUTS, *code.OUTPUTS) if name in case.shapes or name in code.OUTPUTS]
    absent = {name: None for name in code.INPUTS if name not in case.shapes}
    types = {
        **dict.fromkeys(pointers, _POINTERS[precision]),
        **dict.fromkeys(scalars, "i32"),
        **dict.fromkeys((*absent, *constants), "constexpr"),
    }
    order = code.ENTRY.arg_names
    divisible = {*pointers, *(name for name, value in scalars.items() if static and value % _ALIGNED == 0)}
    made = compiler.ASTSource(
        code.ENTRY,
        signature={name: types[name] for name in order},
        constexprs={(order.index(name),): value for name, value in {**absent, **constants}.items()},
        attrs={(i,): [["tt.divisibility", _ALIGNED]] for i, name in enumerate(order) if name in divisible},
    )
    options = {"num_warps": tuning.warps, "enable_fp_fusion": True, "ptx_version": PTX_VERSION}
    try:
        built = triton.compile(made, target=target, options=options)
    except triton.errors.TritonError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise HwnasError(f"'{source.name}' cannot be compiled for {arch} in {precision}: {one_line(cause)[-300:]}") from error
    _refuse_scratch(source, built.metadata)
    ptx = without_scratch(built.asm["ptx"], len(pointers) + len(scalars))
    cubin, usage = assemble(ptx, capability)
    return Compiled(
        symbol=built.metadata.name,
        ptx=ptx,
        cubin=cubin,
        threads=tuning.warps * WARP,
        constants=constants,
        usage=Usage(shared_bytes=built.metadata.shared, **usage),
    )


def _refuse_scratch(source: KernelSource, metadata: Any) -> None:
    sizes = {name: getattr(metadata, name, 0) for name in ("global_scratch_size", "profile_scratch_size")}
    if any(sizes.values()):
        raise HwnasError(f"'{source.name}' needs scratch memory ({sizes}), which no launcher but Triton's gives it; change the kernel")


def without_scratch(ptx: str, count: int) -> str:
    """The PTX with its first `count` parameters, the others cut out.

    Raises:
        HwnasError: one of the others is read.
    """
    found = _ENTRY.search(ptx)
    if found is None:
        raise HwnasError("Triton's PTX has no entry that hwnas can read; install the Triton that 'hwnas[triton]' asks for")
    parameters = [line.strip().rstrip(",") for line in found[3].strip().splitlines()]
    for dropped in parameters[count:]:
        if f"[{dropped.split()[-1]}" in ptx:
            raise HwnasError(
                f"Triton's PTX reads its parameter '{dropped.split()[-1]}', which no launcher but Triton's passes; change the kernel"
            )
    kept = "".join(f"\n\t{parameter}{',' if i < count - 1 else ''}" for i, parameter in enumerate(parameters[:count]))
    return f"{ptx[: found.start()]}{found[1]}{kept}{found[4]}{ptx[found.end() :]}"


def assemble(ptx: str, capability: int) -> tuple[bytes, dict[str, int]]:
    """The machine code of PTX, and its `registers`, `spill_store_bytes` and `spill_load_bytes`.

    Raises:
        HwnasError: the assembler refuses it, or is not there.
    """
    tool = Path(str(require("triton", "triton").__file__)).parent / "backends" / "nvidia" / "bin" / "ptxas"
    target = re.search(r"\.target (\w+)", ptx)
    with tempfile.TemporaryDirectory() as folder:
        text, code = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        text.write_text(ptx)
        command = [str(tool), "-v", f"-arch={target[1] if target else f'sm_{capability}'}", str(text), "-o", str(code)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise HwnasError(f"Triton's assembler cannot be run ({error.strerror}: '{tool}'); install triton again") from error
        if done.returncode:
            raise HwnasError(f"the assembler refuses a kernel: {' '.join(done.stderr.split())[:300]}")
        return code.read_bytes(), read_usage(done.stderr)


def read_usage(text: str) -> dict[str, int]:
    r"""What the assembler says of a kernel.

    >>> read_usage("4 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\nptxas info : Used 14 registers")
    {'registers': 14, 'spill_store_bytes': 8, 'spill_load_bytes': 12}
    """
    patterns = {
        "registers": r"Used (\d+) registers",
        "spill_store_bytes": r"(\d+) bytes spill stores",
        "spill_load_bytes": r"(\d+) bytes spill loads",
    }
    found = {key: re.search(pattern, text) for key, pattern in patterns.items()}
    if not all(found.values()):
        raise HwnasError(f"the assembler does not say what a kernel uses: {' '.join(text.split())[:200]}")
    return {key: int(match[1]) for key, match in found.items() if match}
