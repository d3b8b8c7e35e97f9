"""Ahead-of-time compilation: real machine code for three architectures, with what it needs."""

from __future__ import annotations

import re

import pytest

from hwnas.errors import HwnasError, UsageError
from hwnas.kernels import all_kernels, find
from hwnas.kernels.compile import DEFAULT_ARCHS, assemble, compile_kernel, without_scratch

PTX = """.version 8.6
.target sm_80
.address_size 64
.visible .entry double_it(
\t.param .u64 .ptr .global .align 1 double_it_param_0,
\t.param .u64 .ptr .global .align 1 double_it_param_1,
\t.param .u64 .ptr .global .align 1 double_it_param_2
)
.reqntid 32
{
\t.reg .b64 %rd<3>;
\t.reg .b32 %r<3>;
\tld.param.b64 %rd1, [double_it_param_0];
\tld.global.b32 %r1, [%rd1];
\tadd.s32 %r2, %r1, %r1;
\tst.global.b32 [%rd1], %r2;
\tret;
}
"""


@pytest.mark.parametrize("arch", DEFAULT_ARCHS)
@pytest.mark.parametrize("name", [source.name for source in all_kernels()])
def test_machine_code(name: str, arch: str) -> None:
    """For the architecture that was asked for, in registers that its threads can have, with the parameters of the source and no more."""
    source = find(name)
    case = source.cases[-1] if name != "depthwise_conv" else source.cases[2]
    made = compile_kernel(source, case, arch=arch, precision="fp16", tuning=source.tunings[0])
    assert made.cubin.startswith(b"\x7fELF")
    assert re.search(rf"\.target sm_{arch[2:]}", made.ptx)
    assert ".version 8.6" in made.ptx
    tensors = len(case.shapes) + len(source.code.OUTPUTS)
    assert made.ptx.split(".entry")[1].split(")")[0].count(".param") == tensors + len(source.code.scalars(case.shapes, case.attrs))
    assert 16 <= made.usage.registers <= 65_536 // made.threads
    assert made.usage.shared_bytes <= 48 * 1024
    assert made.usage.spill_store_bytes == made.usage.spill_load_bytes == 0


def test_a_precision_changes_the_code() -> None:
    """bfloat16 is converted, float32 is not."""
    source = find("layer_norm_residual")
    texts = {
        precision: compile_kernel(source, source.cases[0], arch="sm90", precision=precision, tuning=source.tunings[0]).ptx
        for precision in ("fp32", "bf16")
    }
    assert "bf16" in texts["bf16"]
    assert "bf16" not in texts["fp32"]


def test_parameters_that_nothing_reads_are_cut_out() -> None:
    """The rest still assembles; one that is read is refused."""
    cut = without_scratch(PTX, 1)
    assert cut.count(".param") == PTX.count(".param") - 2
    assert "double_it_param_0\n)" in cut
    code, usage = assemble(cut, 80)
    assert code.startswith(b"\x7fELF")
    assert usage["registers"] > 0
    with pytest.raises(HwnasError, match="reads its parameter 'double_it_param_0'"):
        without_scratch(PTX, 0)
    with pytest.raises(HwnasError, match="no entry"):
        without_scratch("", 1)


def test_what_the_assembler_refuses() -> None:
    """Its reason is passed on in one line."""
    with pytest.raises(HwnasError, match=r"the assembler refuses a kernel: .*version") as caught:
        assemble(PTX.replace("8.6", "99.0"), 80)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown architectures and precisions, attributes that the kernel does not know, and Triton's interpreter."""
    source = find("depthwise_conv")
    case, tuning = source.cases[0], source.tunings[0]
    with pytest.raises(UsageError, match=r"unknown architecture 'sm81' \(did you mean 'sm8"):
        compile_kernel(source, case, arch="sm81", precision="fp16", tuning=tuning)
    with pytest.raises(UsageError, match="compiled in fp32, fp16, bf16; got 'int8'"):
        compile_kernel(source, case, arch="sm80", precision="int8", tuning=tuning)
    unknown = type(case)(name="", shapes=case.shapes, attrs={**case.attrs, "activation": "mish"})
    with pytest.raises(HwnasError, match=r"'depthwise_conv' cannot be compiled for sm80 in fp16: .*unknown activation") as caught:
        compile_kernel(source, unknown, arch="sm80", precision="fp16", tuning=tuning)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(UsageError, match="TRITON_INTERPRET is not set"):
        compile_kernel(source, case, arch="sm80", precision="fp16", tuning=tuning)
