"""`hwnas transfer`: what is known of one device, adapted to another from a few networks that are measured there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.errors import HwnasError, MeasurementError, NotFoundError, UsageError
from hwnas.ir.cost import memory_bytes
from hwnas.predict import Predictor, store
from hwnas.predict.adapted import LEAST_NETWORKS, adapt, kind_features
from hwnas.predict.features import tabulate
from hwnas.predict.model import NetworkModel
from hwnas.predict.predictor import Transferred
from hwnas.profiling import NetworkRecord, Plan, Profile, Profiler, ProfileStore, Progress, Setting
from hwnas.profiling.profiler import WAVE_BYTES, Look
from hwnas.runtimes.base import Runtime
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.registry import fuser
from hwnas.spaces import Genotype, SearchSpace
from hwnas.workflows.context import device_and_runtime, roofline_of
from hwnas.workflows.profile import alone, unmeasured

AUTO = "auto"
CANDIDATES = 100  # networks among which those to measure are chosen
VISITS = 24  # of every network: few are measured, so each counts
FOLDER = "transfer"  # in a device's profiles: the measurements behind a transfer, apart from its profiles proper


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A known device that was considered.

    Attributes:
        name: of its predictor, for people.
        evidence: log probability of the measurements, given that the new device is like this one.
    """

    name: str
    evidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a transfer.

    Attributes:
        predictor: of the new device, as stored.
        profile: what was measured for it.
        sources: the known devices by evidence, that which was taken first.
    """

    predictor: Predictor
    profile: Profile
    sources: tuple[Source, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **asdict(self.profile.setting),
            "space": self.profile.space,
            "source": self.predictor.source,
            "from": self.sources[0].name,
            "considered": [asdict(source) for source in self.sources],
            "networks": len(self.profile.networks),
            "spent_s": self.profile.spent_s,
            "half_width": self.predictor.model.half_width,
            "left_out": asdict(self.predictor.model.held_out),
        }


class _Chosen(Profiler):
    """Measures given networks instead of random ones."""

    def __init__(self, runtime: Runtime, space: SearchSpace, store: ProfileStore, networks: Sequence[Genotype]) -> None:
        super().__init__(runtime, space, store, _no_look)
        self._networks = networks

    def genotype(self, index: int, seed: int, draw: int = 0) -> Genotype:
        """The network of this number."""
        return self._networks[index]


def _no_look(train: Sequence[NetworkRecord], test: Sequence[NetworkRecord]) -> Look:
    raise AssertionError("the wave of a transfer is never followed by a look at its error")


def transfer(
    workspace: Workspace,
    *,
    source: str = AUTO,
    device: str,
    threads: int = 1,
    batch: int = 1,
    precision: str = "fp32",
    runtime: str | None = None,
    networks: int = 10,
    space: str | None = None,
    max_time_s: float = 300.0,
    seed: int = 0,
    restart: bool = False,
    force: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Chooses a few networks, measures them on a device, and adapts a known device's predictor to it.

    What was measured before an interruption is kept, and the same call goes on with it.

    Args:
        workspace: where predictors are looked up and stored.
        source: name of the known device, the folder of its predictor, or `auto` for the most similar of all that are there.
        device: to learn.
        threads: that compute on it.
        batch: images per call.
        precision: of the arithmetic, and of the known device's too.
        runtime: that runs the networks; the device's usual one by default.
        networks: to measure, at most.
        space: whose networks; by default those that the nearest known device was learned from.
        max_time_s: for measuring.
        seed: of the networks to choose from.
        restart: drop what an interrupted transfer measured.
        force: replace a predictor that was learned from a profile.
        report: called while measuring.

    Raises:
        DeviceUnavailable: the device is not here.
        NotFoundError: there is no predictor to start from.
        UsageError: too few networks are asked for, the device has no such runtime, or a predictor from a profile would be replaced.
        BusyError: another process measures this device.
        MeasurementError: too little was measured to learn from.
    """
    if networks < LEAST_NETWORKS:
        raise UsageError(f"--networks must be at least {LEAST_NETWORKS}, got {networks}")
    found, driver, setting = device_and_runtime(workspace, device, runtime=runtime, threads=threads, batch=batch, precision=precision)
    known = _sources(workspace, source, setting, found.spec.fingerprint)
    name = space or known[0].space
    _check_replaced(workspace, setting, name, force)
    chosen_space = spaces.load(name)
    folder = ProfileStore(workspace.profiles / setting.device / FOLDER)
    empty = unmeasured(setting, name, seed, found, driver)
    plan = Plan(
        max_time_s=max_time_s,
        target_error=1e-9,
        max_networks=networks,
        least_networks=LEAST_NETWORKS,
        wave=networks + 1,  # so that no look at the error follows
        visits=VISITS,
    )
    with alone(ProfileStore(workspace.profiles / setting.device)):
        journal = folder.journal(setting, name)
        if restart:
            journal.remove()
        genotypes = choose(known[0].model, chosen_space, setting, driver.fusions, networks, seed)
        profiler = _Chosen(driver, chosen_space, folder, genotypes)
        profiler.run(empty, plan, call_s=driver.call_s(), resume=journal.exists(), report=report)
    measured = folder.load(setting, name)
    ranked = rank(known, measured.networks)
    best = ranked[0][1]
    predictor = Predictor(
        setting=setting,
        fusions=measured.fusions,
        model=adapt(best.model, measured.networks, roofline_of(measured)),
        space=name,
        fingerprint=measured.fingerprint,
        profile_digest=measured.digest,
        environment=measured.environment,
        transferred=Transferred(source=name_of(best), digest=best.digest, networks=len(measured.networks)),
    )
    store.save(predictor, workspace.predictors)
    return Outcome(
        predictor=store.load(workspace, setting, name),
        profile=measured,
        sources=tuple(Source(name=name_of(one), evidence=evidence) for evidence, one in ranked),
    )


def name_of(predictor: Predictor) -> str:
    """A predictor in a line: its setting and its space, and where its measurements are others'."""
    name = f"{predictor.setting.device}/{predictor.setting.key} ({predictor.space})"
    return f"{name}, {predictor.origin.name}, {predictor.origin.licence}" if predictor.origin else name


def choose(model: NetworkModel, space: SearchSpace, setting: Setting, fusions: Fusions, count: int, seed: int) -> list[Genotype]:
    """The networks of a space from which most can be learned of a new device, by what a known one would take for their kernels.

    Args:
        model: of the known device.
        space: whose networks.
        setting: of the new device.
        fusions: what its runtime fuses.
        count: how many to choose.
        seed: of the networks to choose from; the choice depends on nothing else.

    Raises:
        UsageError: the space has fewer different networks.
    """
    drawn = dict.fromkeys(space.canonical(space.sample(np.random.default_rng([seed, i]))) for i in range(max(CANDIDATES, 4 * count)))
    genotypes, kernels = [], []
    for genotype in drawn:
        graph = space.graph(genotype, batch=setting.batch)
        if memory_bytes(graph) <= WAVE_BYTES / count:
            genotypes.append(genotype)
            kernels.append([call.kernel for call in fuser(setting.runtime, setting.precision)(graph, fusions)])
    if len(genotypes) < count:
        raise UsageError(f"'{space.name}' has {len(genotypes)} networks to choose from, and --networks asks for {count}; ask for fewer")
    features, prior = kind_features(model, tabulate(kernels))
    return [genotypes[i] for i in prior.choose(features, count, "ratios")]


def rank(known: Sequence[Predictor], networks: Sequence[NetworkRecord]) -> list[tuple[float, Predictor]]:
    """Known devices with the evidence that the measured one is like each of them, the most similar first.

    Raises:
        MeasurementError: none of them can say anything about these networks.
    """
    table = tabulate([[record.call.kernel for record in network.kernels] for network in networks])
    latency = np.array([network.latency_s for network in networks])
    found = []
    for predictor in known:
        try:
            features, prior = kind_features(predictor.model, table)
        except MeasurementError:  # nothing was learned there that could stand for some kernel
            continue
        found.append((prior.learn(features, latency).evidence, predictor))
    if not found:
        raise MeasurementError(f"no known device says anything about the kernels measured; tried: {', '.join(map(name_of, known))}")
    return sorted(found, key=lambda pair: -pair[0])


def _sources(workspace: Workspace, source: str, target: Setting, fingerprint: str) -> list[Predictor]:
    """The predictors to start from, the nearest setting first; predictors that were themselves transferred are none."""
    place = Path(source).expanduser()
    if place.is_dir():
        predictor = store.read(place.resolve())
        reason = _unfit(predictor, target, fingerprint)
        if reason:
            raise UsageError(f"the predictor in '{source}' cannot be transferred: {reason}")
        return [predictor]
    found, refused = [], ""
    for folder in store.folders(workspace):
        try:
            predictor = store.read(folder)
        except HwnasError as error:  # one that cannot be read is no reason not to use another
            refused = refused or str(error)
            continue
        if source in (AUTO, predictor.setting.device) and not _unfit(predictor, target, fingerprint):
            found.append(predictor)
    if not found:
        of = "" if source == AUTO else f" of '{source}'"
        because = f" (one could not be read: {refused})" if refused else ""
        raise NotFoundError(
            f"no predictor{of} to transfer to '{target.device}' with {target.key}{because}; give --from the folder of one, "
            f"or run 'hwnas profile' on a device that is here"
        )
    return sorted(found, key=lambda one: _distance(one, target, fingerprint))


def _unfit(predictor: Predictor, target: Setting, fingerprint: str) -> str:
    """Why a predictor is none to start from; empty where it is."""
    if predictor.transferred:
        return f"it was itself {predictor.source}; start from that"
    if predictor.setting.precision != target.precision:
        return f"it is for {predictor.setting.precision}, and {target.precision} is asked for, which runs other kernels"
    if predictor.setting == target and predictor.fingerprint == fingerprint:
        return "it already is for this device and setting"
    return ""


def _distance(predictor: Predictor, target: Setting, fingerprint: str) -> tuple[bool, bool, bool, float]:
    """How far a known device is from the target before anything was measured."""
    setting = predictor.setting
    load = abs(log(max(setting.batch, 1) / target.batch)) + abs(log(setting.threads / target.threads))
    return setting.runtime != target.runtime, setting.device != target.device, predictor.fingerprint != fingerprint, load


def _check_replaced(workspace: Workspace, setting: Setting, space: str, force: bool) -> None:
    folder = store.folder_of(workspace.predictors, setting, space)
    if force or not (folder / "card.toml").is_file():
        return
    if not store.read(folder).transferred:
        raise UsageError(f"'{folder}' holds a predictor that was learned from a whole profile; give --force to replace it")
