"""Precisions are chosen by what they do to the answers."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.errors import GraphError, UsageError
from hwnas.export.narrow import _Search, narrow
from hwnas.export.quantize import Feed
from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.fold import fold
from hwnas.runtimes.trt_precision import Precisions, quantisable


def test_each_precision_is_what_it_says(graph: Graph, feeds: list[Feed]) -> None:
    """fp32 is exact, fp16 nearly so, int8 has every product in 8 bits and the largest error."""
    products = frozenset(quantisable(fold(graph)))
    fp32, fp16, int8 = (narrow(graph, precision, feeds) for precision in ("fp32", "fp16", "int8"))  # type: ignore[arg-type]
    assert fp32.error == 0.0
    assert 0 < fp16.error < 0.01 < int8.error < 1
    assert (fp32.precisions, fp16.precisions) == (Precisions(), Precisions(base="fp16"))
    assert int8.precisions == Precisions(base="fp16", int8=products)


@pytest.mark.parametrize("most", [0.001, 0.05, 0.1, 10.0])
def test_mixed_keeps_the_error_and_gives_up_the_most_sensitive(graph: Graph, feeds: list[Feed], most: float) -> None:
    """The error is measured to be within the bound, no product in int8 is more sensitive than one above, and a loose bound gives int8."""
    found = narrow(graph, "mixed", feeds, most_error=most)
    whole = narrow(graph, "int8", feeds)
    assert found.error <= most
    kept, given_up = (
        [error for name, error in found.alone.items() if (name in found.precisions.int8) == narrow_] for narrow_ in (True, False)
    )
    assert max(kept, default=0.0) <= min(given_up, default=np.inf)
    assert set(found.alone) == whole.precisions.int8
    if most >= whole.error:
        assert found.precisions == whole.precisions
    else:
        assert len(kept) < len(found.alone)


def test_mixed_gives_up_no_more_than_it_has_to(graph: Graph, feeds: list[Feed]) -> None:
    """With the next product in int8 as well, the bound would be broken."""
    most = 0.6 * narrow(graph, "int8", feeds).error
    found = narrow(graph, "mixed", feeds, most_error=most)
    given_up = sorted((error, name) for name, error in found.alone.items() if name not in found.precisions.int8)
    assert given_up
    looser = narrow(graph, "mixed", feeds, most_error=10.0).precisions.int8 - {name for _, name in given_up[1:]}
    search = _Search(found.graph, tuple(feeds))
    assert search.error(Precisions(base="fp16", int8=looser)) > most


def test_what_fp16_itself_harms_stays_in_fp32(graph: Graph, feeds: list[Feed]) -> None:
    """Under a bound that fp16 breaks, mixed is fp32."""
    assert narrow(graph, "mixed", feeds, most_error=1e-9).precisions == Precisions()


def scaled(factor: float) -> Graph:
    """Two linear layers, the first of which writes values of about this size."""
    b = GraphBuilder("scaled")
    x = b.input("x", (1, 8))
    hidden = b.op("MatMul", [x, b.constant("up", np.full((8, 8), factor, np.float32))])
    return b.finish(b.op("MatMul", [hidden, b.constant("down", np.full((8, 4), 1 / factor, np.float32))]))


def test_what_goes_beyond_fp16_stays_in_fp32() -> None:
    """A layer that writes large values keeps fp32, and so does the one that reads them; the answers stay right."""
    feeds = [{"x": np.random.default_rng(i).random((1, 8), dtype=np.float32)} for i in range(4)]
    found = narrow(scaled(30_000.0), "fp16", feeds)
    assert len(found.precisions.fp32) == 2
    assert found.error < 0.01
    assert not narrow(scaled(1.0), "fp16", feeds).precisions.fp32


def test_what_is_not_finite_is_named(feeds: list[Feed]) -> None:
    """A network that overflows in fp32 is refused with the value."""
    big = [{"x": np.full((1, 8), 3e38, np.float32)}]
    with pytest.raises(GraphError, match=r"graph 'scaled' cannot be exported: value '.*' is not finite"):
        narrow(scaled(1e10), "fp16", big)


def test_wrong_requests_are_refused(graph: Graph, feeds: list[Feed]) -> None:
    """An unknown precision and missing calibration say what is expected."""
    with pytest.raises(UsageError, match="precision of an engine is fp32, fp16, int8, mixed; got 'bf16'"):
        narrow(graph, "bf16", feeds)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs calibration data"):
        narrow(graph, "int8", [])
