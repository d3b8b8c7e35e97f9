"""`hwnas profile` and `hwnas fit`: measure a device, learn it: its latency, and its energy where it has a meter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isnan
from typing import Any, Literal

from hwnas import spaces
from hwnas.assets import Workspace, disk_errors
from hwnas.devices import Device, Unavailable
from hwnas.devices.clock import Clock, SystemClock
from hwnas.errors import UsageError
from hwnas.ir import Graph
from hwnas.predict import Predictor, energy_store, store
from hwnas.predict.energy import EnergyRecord
from hwnas.predict.energy import fit as fit_energy
from hwnas.predict.energy_store import EnergyPredictor
from hwnas.predict.fitting import LEAST_NETWORKS, fit, foretold_s, judge
from hwnas.predict.model import LatencyModel
from hwnas.profiling import (
    EnergyPlan,
    EnergyProfiler,
    Guard,
    Look,
    NetworkRecord,
    Plan,
    Profile,
    Profiler,
    ProfileStore,
    Progress,
    Setting,
)
from hwnas.runtimes.base import Runtime
from hwnas.search.lock import Lock
from hwnas.workflows.context import clocks, device_and_runtime, roofline_of, runtime_there, setting_of, versions
from hwnas.workflows.foretold import as_foretold

Start = Literal["new", "resume", "restart"]


NOISY = 0.02  # scatter of a network's visits: 0.1 to 1.4 % in eight profiles of a quiet hour, up to 5.1 % in those of another
NOT_ASKED = Unavailable("no energy was measured; ask for it with --energy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """What came of profiling: the measurements and what was learned from them; `energy` says why, where nothing was learned of it."""

    profile: Profile
    predictor: Predictor
    energy: EnergyPredictor | Unavailable = NOT_ASKED

    @property
    def dropped(self) -> Mapping[str, int]:
        """Batches of samples that were dropped, since the device was slowed down, by the reason."""
        return Counter(batch.reason for batch in self.profile.batches if batch.grade == "C")

    @property
    def flagged(self) -> Mapping[str, int]:
        """Batches that count and have a flag, by what it says."""
        return Counter(batch.reason for batch in self.profile.batches if batch.grade == "B")

    @property
    def noisy(self) -> bool:
        """Whether the machine was so disturbed that the predictor may be less exact than it could be."""
        return self.profile.scatter > NOISY

    def as_json(self) -> dict[str, Any]:
        """Plain values; an energy that was not learned is null, and `energy` says why."""
        energy = self.energy
        return {
            **asdict(self.profile.setting),
            "space": self.profile.space,
            "networks": len(self.profile.networks),
            "spent_s": self.profile.spent_s,
            "ended_by": self.profile.ended_by,
            "dropped": dict(self.dropped),
            "flagged": dict(self.flagged),
            "scatter": None if isnan(self.profile.scatter) else self.profile.scatter,
            "curve": [asdict(point) for point in self.profile.curve],
            "held_out": asdict(self.predictor.model.held_out),
            "energy_networks": len(self.profile.energies),
            "energy": energy.source if isinstance(energy, EnergyPredictor) else f"unavailable: {energy.reason}",
            "energy_held_out": asdict(energy.model.held_out) if isinstance(energy, EnergyPredictor) else None,
        }


def profile(
    workspace: Workspace,
    *,
    device: str,
    space: str = spaces.GENERIC,
    runtime: str | None = None,
    threads: int = 1,
    batch: int = 1,
    precision: str = "fp32",
    seed: int = 0,
    plan: Plan,
    energy: EnergyPlan | None = None,
    start: Start = "new",
    report: Callable[[Progress], None] = lambda _: None,
) -> Profiled:
    """Measures networks of a space on a device in one precision; the rest as `profile_each`."""
    (outcome,) = profile_each(
        workspace,
        device=device,
        space=space,
        runtime=runtime,
        threads=threads,
        batch=batch,
        precisions=(precision,),
        seed=seed,
        plan=plan,
        energy=energy,
        start=start,
        report=lambda _, state: report(state),
    )
    return outcome


def profile_each(
    workspace: Workspace,
    *,
    device: str,
    space: str = spaces.GENERIC,
    runtime: str | None = None,
    threads: int = 1,
    batch: int = 1,
    precisions: Sequence[str] = ("fp32",),
    seed: int = 0,
    plan: Plan,
    energy: EnergyPlan | None = None,
    start: Start = "new",
    report: Callable[[str, Progress], None] = lambda *_: None,
    clock: Clock | None = None,
) -> list[Profiled]:
    """Measures networks of a space on a device until the plan ends, then learns them; one profile for each precision, in their order.

    Energy comes after latency, so that a profile is finished whatever becomes of its energy. Resumed, what is finished stays, and what is
    not goes on; where nothing is left to do and no energy is asked for, it begins anew.

    Args:
        workspace: where profiles and predictors go.
        device: as asked for.
        space: whose networks.
        runtime: that builds and times; the device's usual one by default.
        threads: that compute.
        batch: images per call.
        precisions: of the arithmetic.
        seed: of the networks sampled.
        plan: how much to measure, of each precision.
        energy: how much energy to measure, as far as the device has a meter; None for none.
        start: what to do about what is unfinished.
        report: called with what is being done, such as `fp16` or `energy of fp16`, and where it stands.
        clock: time, and waiting.

    Raises:
        DeviceUnavailable: the device is not here.
        UsageError: something unfinished is there and `start` is `new`, or it does not fit this call.
        BusyError: another process measures this device.
        MeasurementError: too little was measured to learn from, or the device stays slow.
    """
    if not precisions:
        raise UsageError("a profile needs a precision, such as --precision fp16")
    here, driver, setting = device_and_runtime(workspace, device, runtime=runtime, threads=threads, batch=batch, precision=precisions[0])
    folder = ProfileStore(workspace.profiles / setting.device)
    settings = [replace(setting, precision=precision) for precision in precisions]
    jobs = [Job(here, driver, one, space, seed, folder, clock or SystemClock()) for one in settings]
    with alone(folder):
        if start == "restart":
            for job in jobs:
                job.drop()
        goes_on = start == "resume" and any(job.unfinished or (energy and job.finished) for job in jobs)
        fresh = [job for job in jobs if not (goes_on and job.finished)]
        for job in fresh:
            job.begin(resume=start == "resume")
        outcomes = []
        for job in jobs:
            if job in fresh:
                job.measure(plan, report)
            predictor = learn(workspace, job.load())
            if energy and (job in fresh or job.lacks_energy):
                job.measure_energy(energy, report)
            measured = job.load()
            outcomes.append(Profiled(profile=measured, predictor=predictor, energy=learn_energy(workspace, measured)))
    return outcomes


def unmeasured(setting: Setting, space: str, seed: int, device: Device, runtime: Runtime) -> Profile:
    """A profile of which nothing is measured yet: what it will be of, and what it is measured with."""
    return Profile(
        setting=setting,
        space=space,
        seed=seed,
        fingerprint=device.spec.fingerprint,
        device=device.spec.as_dict(),
        environment=versions() | clocks(device),
        fusions=runtime.fusions,
        networks=(),
    )


class Job:
    """One setting that is to be measured."""

    def __init__(
        self, device: Device, runtime: Runtime, setting: Setting, space: str, seed: int, folder: ProfileStore, clock: Clock
    ) -> None:
        self.device, self.runtime, self.setting, self.space, self.store = device, runtime, setting, space, folder
        self._clock = clock
        self._networks = spaces.load(space)
        self._journal, self._energy_journal = folder.journal(setting, space), folder.energy_journal(setting, space)
        self._empty = unmeasured(setting, space, seed, device, runtime)
        guard = Guard(device.state, clock) if device.spec.kind == "gpu" else None  # processors tell no reasons
        self._profiler = Profiler(runtime, self._networks, folder, self._look, clock.now, guard)

    @property
    def unfinished(self) -> bool:
        """Whether something was begun and not finished."""
        return self._journal.exists() or self._energy_journal.exists()

    @property
    def finished(self) -> bool:
        """Whether its latencies are measured."""
        return not self._journal.exists() and self.space in self.store.spaces(self.setting)

    @property
    def lacks_energy(self) -> bool:
        """Whether energy was begun and not finished, or too few networks have one to learn from."""
        return self._energy_journal.exists() or len(self.load().energies) < LEAST_NETWORKS

    def load(self) -> Profile:
        """The finished profile."""
        return self.store.load(self.setting, self.space)

    def drop(self) -> None:
        """Forgets what was begun and not finished."""
        self._journal.remove()
        self._energy_journal.remove()

    def begin(self, *, resume: bool) -> None:
        """Makes sure that nothing unfinished is in the way, and remembers that this is to be measured; `UsageError` where it is."""
        if self._energy_journal.exists():
            raise UsageError(
                f"an unfinished measurement of energy of '{self.setting.device}' is in '{self._energy_journal.path}'; go on with "
                f"--resume --energy, or drop it with --restart"
            )
        self._profiler.begin(self._empty, resume=resume)

    def measure(self, plan: Plan, report: Callable[[str, Progress], None]) -> None:
        """Measures and stores latencies."""
        self._profiler.run(
            self._empty,
            replace(plan, least_networks=LEAST_NETWORKS),
            call_s=self.runtime.call_s(),
            resume=True,
            report=partial(report, self.setting.precision),
        )

    def measure_energy(self, plan: EnergyPlan, report: Callable[[str, Progress], None]) -> None:
        """Measures and stores energy, or why there is none."""

        def tell(networks: int, seconds: float) -> None:
            report(f"energy of {self.setting.precision}", Progress(networks=networks, seconds=seconds, error=None))

        measured = self.load()
        found = EnergyProfiler(self.device, self.runtime, self._networks, self._clock).run(
            measured, self._energy_journal, plan, report=tell
        )
        if isinstance(found, Unavailable):
            self.store.save_energies(replace(measured, energy_reason=found.reason))
        else:
            self.store.save_energies(replace(measured, energies=found.measured, energy_reason=found.reason))

    def _look(self, train: Sequence[NetworkRecord], test: Sequence[NetworkRecord]) -> Look:
        asked, unseen = (as_foretold(networks, self.setting, self.space, self._empty.fusions) for networks in (train, test))
        figures, quick = judge(asked, unseen, roofline_of(self._empty))

        def worth(graphs: Sequence[Graph]) -> Sequence[float]:
            return [estimate.high / estimate.low for estimate in _predictor(self._empty, quick).estimate(graphs)]

        return Look(mape=figures.mape, within_10=figures.within_10, worth=worth)


@contextmanager
def alone(store: ProfileStore) -> Iterator[None]:
    """Keeps other processes from measuring the same device: they would disturb each other, and write to one journal."""
    with disk_errors(store.folder, "make room or give another place with --home"):
        store.folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(store.folder / "profile.lock", f"the profile in '{store.folder}'")
    try:
        yield
    finally:
        lock.release()


def fit_profile(workspace: Workspace, setting: Setting, space: str | None = None) -> list[Profiled]:
    """Learns a setting again from its stored profiles: that of a space, or all of them.

    Raises:
        NotFoundError: it was not profiled.
    """
    found = store_with(workspace, setting, space)
    names = [space] if space else found.spaces(setting)
    stored = [found.load(setting, name) for name in names] or [found.load(setting)]  # which says that there is none
    return [Profiled(profile=one, predictor=learn(workspace, one), energy=learn_energy(workspace, one)) for one in stored]


def profiled_setting(
    workspace: Workspace, device: str, space: str | None = None, *, runtime: str | None, threads: int, batch: int, precision: str
) -> Setting:
    """The setting whose profile, of a space or of any, is meant: with the runtime that is named, else as `runtime_there` finds it.

    Raises:
        UsageError: as `setting_of`; or no runtime is named, and several were profiled, none of them the usual one.
    """
    setting = setting_of(device, runtime=runtime, threads=threads, batch=batch, precision=precision)

    def there(one: Setting) -> bool:
        names = store_with(workspace, one, space).spaces(one)
        return space in names if space else bool(names)

    return setting if runtime else replace(setting, runtime=runtime_there(setting, there))


def store_with(workspace: Workspace, setting: Setting, space: str | None = None) -> ProfileStore:
    """The store that holds a setting's profile of a space, or of any: the workspace's, else what ships; the former where none does."""
    stores = [ProfileStore(tree / setting.device) for tree in workspace.look_up("profiles")]
    return next((store for store in stores if (space in store.spaces(setting) if space else store.spaces(setting))), stores[0])


def learn(workspace: Workspace, measured: Profile) -> Predictor:
    """Fits a predictor to a profile and stores it in the workspace."""
    networks = as_foretold(measured.networks, measured.setting, measured.space, measured.fusions)
    predictor = _predictor(measured, fit(networks, roofline_of(measured), families(measured)))
    store.save(predictor, workspace.predictors)
    return store.load(workspace, measured.setting, measured.space)


def learn_energy(workspace: Workspace, measured: Profile) -> EnergyPredictor | Unavailable:
    """Fits a predictor of energy to a profile and stores it in the workspace; or why there is none.

    Raises:
        UsageError: the profile's energies come from several sources.
    """
    if len(measured.energies) < LEAST_NETWORKS:
        if not measured.energies:
            return Unavailable(measured.energy_reason) if measured.energy_reason else NOT_ASKED
        why = f" ({measured.energy_reason})" if measured.energy_reason else ""
        return Unavailable(
            f"the energy of {len(measured.energies)} networks was measured{why}, and a predictor needs {LEAST_NETWORKS}; "
            f"go on with --resume --energy and more --energy-time"
        )
    foretold = as_foretold(measured.networks, measured.setting, measured.space, measured.fusions)
    times = foretold_s(foretold, roofline_of(measured)).tolist()
    records = [
        EnergyRecord.of(network, found.gross.joules, found.source, seconds)
        for network, seconds in zip(foretold, times, strict=True)
        if (found := measured.energies.get(network.id))
    ]
    predictor = EnergyPredictor(
        setting=measured.setting,
        space=measured.space,
        model=fit_energy(records),
        fingerprint=measured.fingerprint,
        profile_digest=measured.energy_digest,
        environment=measured.environment,
    )
    energy_store.save(predictor, workspace.predictors)
    return predictor


def _predictor(measured: Profile, model: LatencyModel) -> Predictor:
    """A model together with what it was learned from."""
    return Predictor(
        setting=measured.setting,
        fusions=measured.fusions,
        model=model,
        space=measured.space,
        fingerprint=measured.fingerprint,
        profile_digest=measured.digest,
        environment=measured.environment,
    )


def families(measured: Profile) -> list[str]:
    """The family of each network of a profile; of one family where the space is no longer there to tell."""
    try:
        space = spaces.load(measured.space)
    except UsageError:
        return [measured.space] * len(measured.networks)
    return [space.family(network.genotype) for network in measured.networks]
