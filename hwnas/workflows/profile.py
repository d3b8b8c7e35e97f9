"""`hwnas profile` and `hwnas fit`: measure a device, learn it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from hwnas import spaces
from hwnas.assets import Workspace, disk_errors
from hwnas.errors import UsageError
from hwnas.ir import Graph
from hwnas.predict import Predictor, store
from hwnas.predict.fitting import LEAST_NETWORKS, fit, judge
from hwnas.predict.model import LatencyModel
from hwnas.profiling import Look, NetworkRecord, Plan, Profile, Profiler, ProfileStore, Progress, Setting
from hwnas.search.lock import Lock
from hwnas.workflows.context import clocks, device_and_runtime, roofline_of, versions

Start = Literal["new", "resume", "restart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """What came of profiling: the measurements and what was learned from them."""

    profile: Profile
    predictor: Predictor

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **asdict(self.profile.setting),
            "space": self.profile.space,
            "networks": len(self.profile.networks),
            "spent_s": self.profile.spent_s,
            "ended_by": self.profile.ended_by,
            "curve": [asdict(point) for point in self.profile.curve],
            "held_out": asdict(self.predictor.model.held_out),
        }


def profile(
    workspace: Workspace,
    *,
    device: str,
    space: str = "mobilenet",
    threads: int = 1,
    batch: int = 1,
    precision: str = "fp32",
    seed: int = 0,
    plan: Plan,
    start: Start = "new",
    report: Callable[[Progress], None] = lambda _: None,
) -> Profiled:
    """Measures networks of a space on a device until the plan ends, then learns them.

    Raises:
        DeviceUnavailable: the device is not here.
        UsageError: an unfinished profile is there and `start` is `new`, or it does not fit this call.
        BusyError: another process measures this device.
        MeasurementError: too little was measured to learn from.
    """
    found, runtime, setting = device_and_runtime(device, threads=threads, batch=batch, precision=precision)
    chosen = spaces.load(space)
    folder = ProfileStore(workspace.profiles / setting.device)
    empty = Profile(
        setting=setting,
        space=space,
        seed=seed,
        fingerprint=found.spec.fingerprint,
        device=found.spec.as_dict(),
        environment=versions() | clocks(found),
        fusions=runtime.fusions,
        networks=(),
    )

    def look(train: Sequence[NetworkRecord], test: Sequence[NetworkRecord]) -> Look:
        figures, quick = judge(train, test, roofline_of(empty))

        def worth(graphs: Sequence[Graph]) -> Sequence[float]:
            return [estimate.high / estimate.low for estimate in _predictor(empty, quick).estimate(graphs)]

        return Look(mape=figures.mape, within_10=figures.within_10, worth=worth)

    profiler = Profiler(runtime, chosen, folder, look)
    with alone(folder):
        if start == "restart":
            folder.journal(setting, space).remove()
        measured = profiler.run(
            empty, replace(plan, least_networks=LEAST_NETWORKS), call_s=runtime.call_s(), resume=start == "resume", report=report
        )
    return Profiled(profile=measured, predictor=learn(workspace, folder.load(setting, space)))


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
    return [Profiled(profile=one, predictor=learn(workspace, one)) for one in stored]


def store_with(workspace: Workspace, setting: Setting, space: str | None = None) -> ProfileStore:
    """The store that holds a setting's profile of a space, or of any: the workspace's, else what ships; the former where none does."""
    stores = [ProfileStore(tree / setting.device) for tree in workspace.look_up("profiles")]
    return next((store for store in stores if (space in store.spaces(setting) if space else store.spaces(setting))), stores[0])


def learn(workspace: Workspace, measured: Profile) -> Predictor:
    """Fits a predictor to a profile and stores it in the workspace."""
    predictor = _predictor(measured, fit(measured.networks, roofline_of(measured), families(measured)))
    store.save(predictor, workspace.predictors)
    return store.load(workspace, measured.setting, measured.space)


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
