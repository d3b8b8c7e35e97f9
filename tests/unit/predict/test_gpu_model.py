"""Learning a GPU on paper from its operators, predicting another, and keeping it on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.assets import Workspace
from hwnas.devices import catalogue
from hwnas.errors import FormatError, MeasurementError, UncoveredKernelError
from hwnas.ir import Graph, GraphBuilder, Kernel, TensorSpec
from hwnas.predict import Predictor, gpu_model, gpu_store, store
from hwnas.predict.features import tabulate
from hwnas.predict.gpu import look
from hwnas.predict.gpu_model import GpuModel, Measured, fit
from hwnas.predict.model import HeldOut
from hwnas.predict.predictor import Origin
from hwnas.profiling import Setting
from hwnas.runtimes.fusions import UNFUSED
from hwnas.runtimes.registry import EAGER
from hwnas.spaces import GENERIC

A100, V100, T4 = (catalogue.entry(name).part().spec for name in ("a100", "v100", "t4"))
LAUNCH_S, SLOWER = 40e-6, 1.25
NOTHING = HeldOut(networks=0, mape=0.0, within_5=0.0, within_10=0.0, coverage=0.0)
ANYWHERE = np.zeros((1, 0))  # a network that is told for no reuse distance


def kernels(seed: int, count: int = 200) -> list[Kernel]:
    """Linear layers and activations of all sizes, small ones among them."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        m, n, k = (int(size) for size in 2 ** rng.uniform(0, 12, 3))
        x = TensorSpec((m, n))
        attrs = (("transA", 0), ("transB", 1))
        found.append(Kernel(op="Gemm", inputs=(TensorSpec((m, k)),), weights=(TensorSpec((n, k)),), outputs=(x,), attrs=attrs))
        found.append(Kernel(op="Relu", inputs=(x,), outputs=(x,)))
    return found


def on_paper(spec, seed: int) -> Measured:
    """A device on which every kernel takes a fixed factor of its bound, and a call its launch besides."""
    table = tabulate([[kernel] for kernel in kernels(seed)])
    bound = look(table, spec).bound_s
    seconds = LAUNCH_S + SLOWER * (bound + gpu_model.GAP_S)
    return Measured(spec=spec, table=table, seconds=seconds, session=np.array([f"{spec.name} session"] * len(seconds)))


@pytest.fixture(scope="module")
def model() -> GpuModel:
    """Learned on two devices, for a third."""
    kinds = fit([on_paper(A100, 0), on_paper(V100, 1)])
    return GpuModel(kinds=kinds, spec=T4, half_width=0.2, usual_doubt=0.0, held_out=NOTHING)


def network(batch: int = 4, op: str = "Relu") -> Graph:
    b = GraphBuilder("net")
    x = b.op(op, [b.linear(b.input("x", (batch, 512)), 512)])
    return b.finish(b.linear(x, 10))


def test_an_unseen_device_is_predicted_from_its_figures(model: GpuModel) -> None:
    """What holds on two devices in proportion to their bounds holds on a third, whose sizes nobody measured."""
    truth = on_paper(T4, 2)
    np.testing.assert_allclose(model.operators(truth.table), truth.seconds, rtol=0.1)


def test_launches_are_told_apart(model: GpuModel) -> None:
    """The host's part is learned from the smallest operators; kernels are without it, to a microsecond or so."""
    for kind in model.kinds.values():
        assert kind.launch_s == pytest.approx(LAUNCH_S, rel=0.1)
    table = on_paper(T4, 3).table
    truth = SLOWER * (look(table, T4).bound_s + gpu_model.GAP_S)
    np.testing.assert_allclose(model.kernels(table).seconds, truth, rtol=0.1, atol=1.5e-6)  # the smallest kernels hide in the launch


def test_a_network_takes_the_longer_of_launching_and_computing(model: GpuModel) -> None:
    """Many small kernels wait for the host; large ones for the GPU."""
    context = np.array([[1.0, 1.0, 100.0]])
    nothing = np.zeros(1)
    small = model.networks(context, np.array([1e-6]), nothing, nothing, ANYWHERE)
    large = model.networks(context, np.array([1.0]), nothing, nothing, ANYWHERE)
    assert small.value[0] == pytest.approx(100 * model.launch_s)
    assert large.value[0] == 1.0
    assert large.low[0] == pytest.approx(np.exp(-0.2))
    assert large.high[0] == pytest.approx(np.exp(0.2))


def test_what_is_not_covered_widens_the_interval(model: GpuModel) -> None:
    """Kinds that nobody measured and sizes beyond reach are said, and may take three times more or less."""
    table = tabulate([[Kernel(op="Sigmoid", inputs=(TensorSpec((64, 64)),), outputs=(TensorSpec((64, 64)),))], [kernels(0)[0]]])
    assert model.kernels(table).covered.tolist() == [False, True]
    half = model.networks(np.array([[1.0, 1.0, 1.0]]), np.array([1.0]), np.array([0.5]), np.zeros(1), ANYWHERE)
    assert half.coverage[0] == 0.5
    assert half.high[0] == pytest.approx(0.5 * np.exp(0.2) + 0.5 * 3)


def test_doubtful_kernels_widen_the_interval(model: GpuModel) -> None:
    """A network of kernels twice as doubtful as usual has an interval half as wide again."""
    doubting = replace(model, usual_doubt=0.1)
    bounds = doubting.networks(np.array([[1.0, 1.0, 1.0]]), np.array([1.0]), np.zeros(1), np.array([0.2]), ANYWHERE)
    assert bounds.high[0] == pytest.approx(np.exp(1.5 * 0.2))


def test_shifting_moves_every_prediction(model: GpuModel) -> None:
    """Measured networks move the scale and the half width."""
    table = tabulate([kernels(4, 5)])
    moved = model.shifted(0.3, 0.4)
    assert moved.bounds(table).value[0] == pytest.approx(np.exp(0.3) * model.bounds(table).value[0])
    assert moved.half_width == 0.4


def test_an_interval_of_operators_holds_on_the_device_left_out() -> None:
    """On a device that obeys the same law the half width is small; where one device is twice as slow it says so."""
    alike = fit([on_paper(A100, 0), on_paper(V100, 1)])
    odd = on_paper(V100, 1)
    unlike = fit([on_paper(A100, 0), replace(odd, seconds=LAUNCH_S + 2 * (odd.seconds - LAUNCH_S))])
    assert alike["Gemm"].half_width < 0.1
    assert unlike["Gemm"].half_width > 0.4


def test_a_kind_that_nothing_was_learned_of(model: GpuModel) -> None:
    """A network that needs it is refused in one line."""
    product = Kernel(op="MatMul", inputs=(TensorSpec((8, 64, 64)),) * 2, outputs=(TensorSpec((8, 64, 64)),))
    with pytest.raises(MeasurementError, match="nothing was learned of 'MatMul'"):
        model.kernels(tabulate([[product]]))


# ---- as a predictor, on disk


def predictor(model: GpuModel) -> Predictor:
    return Predictor(
        setting=Setting(device="t4", runtime=EAGER, batch=store.ANY_BATCH),
        fusions=UNFUSED,
        model=model,
        space=GENERIC,
        fingerprint=T4.fingerprint,
        profile_digest="0" * 64,
        environment={"torch": "2.1"},
        origin=Origin(name="Somebody's measurements", licence="MIT", reference="a paper", conditions="on paper", gaps="much"),
    )


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace; nothing ships either."""
    monkeypatch.setattr("hwnas.assets.root", lambda tree: tmp_path / "shipped" / tree)
    return Workspace.at(tmp_path / "home")


def test_one_predictor_answers_for_any_batch(workspace: Workspace, model: GpuModel) -> None:
    """It is stored once, found for every batch, and its estimates say whose measurements they stand on."""
    folder = store.save(predictor(model), workspace.predictors)
    assert folder == workspace.predictors / "t4" / "latency" / "torch-eager-t1-bany-fp32" / GENERIC
    for batch in (1, 64):
        found = store.load(workspace, Setting(device="t4", runtime=EAGER, batch=batch))
        assert found.setting.batch == batch
        (estimate,) = found.estimate([network(batch)])
        (original,) = replace(predictor(model), setting=found.setting).estimate([network(batch)])
        assert estimate == original
        assert estimate.source == "predicted from Somebody's measurements (MIT): on paper"


def test_the_parts_add_up(workspace: Workspace, model: GpuModel) -> None:
    """Explained kernels sum to the estimate, and what the host limits is said to be overhead."""
    store.save(predictor(model), workspace.predictors)
    found = store.load(workspace, Setting(device="t4", runtime=EAGER, batch=4))
    (estimate,) = found.estimate([network()])
    parts = found.explain(network())
    assert sum(part.seconds for part in parts) == pytest.approx(estimate.value)
    assert {part.bound for part in parts} == {"overhead"}


def test_strict_refuses_stand_ins(workspace: Workspace, model: GpuModel) -> None:
    """A kind that was not measured is named."""
    with pytest.raises(UncoveredKernelError, match="Sigmoid"):
        replace(predictor(model), setting=Setting(device="t4", runtime=EAGER, batch=4)).estimate([network(op="Sigmoid")], strict=True)


def test_other_columns_are_refused(workspace: Workspace, model: GpuModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A predictor that was learned with other columns is not misread."""
    store.save(predictor(model), workspace.predictors)
    monkeypatch.setattr(gpu_store, "SCHEMA", "0" * 12)
    with pytest.raises(FormatError, match="learned with GPU columns"):
        store.load(workspace, Setting(device="t4", runtime=EAGER))


def test_the_features_of_other_predictors_may_change(workspace: Workspace, model: GpuModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A predictor of GPUs has columns of its own: another schema of local features is no reason to refuse it."""
    store.save(predictor(model), workspace.predictors)
    monkeypatch.setattr(store, "SCHEMA", "0" * 12)
    assert store.load(workspace, Setting(device="t4", runtime=EAGER)).model.half_width == 0.2
