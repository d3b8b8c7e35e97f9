"""The memory of a run: every trial, and every costly result, in a database that survives a kill at any moment.

SQLite in a file by default (write-ahead log, one transaction a write), any database that SQLAlchemy reaches when given its URL.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args
from urllib.parse import quote

import numpy as np
import sqlalchemy as sa

from hwnas.errors import BusyError, DiskError, FormatError, HwnasError, MissingExtraError, NotFoundError, UsageError, did_you_mean
from hwnas.search.evaluator import Bounded, Evaluation
from hwnas.search.front import front
from hwnas.search.lock import Lock
from hwnas.search.problem import Problem
from hwnas.spaces.base import Genotype

FORMAT = 1
Kind = Literal["proxies", "training", "measurement", "energy", "prediction", "export", "engine"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_TABLES = sa.MetaData()
_META = sa.Table("meta", _TABLES, sa.Column("key", sa.String(64), primary_key=True), sa.Column("value", sa.Text, nullable=False))
_TRIALS = sa.Table(
    "trials",
    _TABLES,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("genotype", sa.String(1024), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("failure", sa.Text, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.UniqueConstraint("genotype", "epoch"),
)
_RESULTS = sa.Table(
    "results",
    _TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("genotype", sa.String(1024), nullable=False),
    sa.Column("variant", sa.String(256), nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.UniqueConstraint("kind", "genotype", "variant"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One evaluation on record.

    Attributes:
        id: 1, 2, ... in the order of commit.
        generation: in which it was made, from 1 on.
        epoch: how often estimates had changed by then (`Evaluator.refine`); a network has at most one trial per epoch.
        evaluation: what was found.
        created: UTC, ISO 8601.
    """

    id: int
    generation: int
    epoch: int
    evaluation: Evaluation
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One costly result on record: `payload` is what took `seconds` to find out about `genotype`."""

    kind: str
    genotype: Genotype
    variant: str
    payload: Any
    seconds: float
    created: str


class Archive:
    """A run's database; made by `Archive.open`, closed by `close` or by leaving its `with` block.

    Genotypes are canonical throughout. Everything that is written is committed before the call returns.
    """

    def __init__(self, engine: sa.Engine, name: str, lock: Lock | None, *, readonly: bool) -> None:
        self._engine, self._name, self._lock, self._readonly = engine, name, lock, readonly
        self._trials: dict[tuple[Genotype, int], Trial] | None = None
        self._horizon: int | None = None
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, target: str | os.PathLike[str], *, readonly: bool = False) -> Archive:
        """Opens an archive, or makes it.

        Args:
            target: path of an SQLite file, or a database URL. A file is locked against other writing processes; a database server
                has to be trusted with that.
            readonly: for reports: takes no lock, writes nothing, and may run while a search writes.

        Raises:
            NotFoundError: when it is to be read only and does not exist.
            FormatError: when it is damaged, no archive, or of a format that this hwnas does not read.
            DiskError: when it cannot be written.
            BusyError: when another process writes it.
            UsageError: for a malformed URL.
            MissingExtraError: when the driver of the database is not installed.
        """
        text = os.fspath(target)
        if "://" in text:
            try:
                url = sa.make_url(text)
                if url.get_backend_name() != "sqlite":
                    return cls(sa.create_engine(url), url.render_as_string(), None, readonly=readonly)
            except sa.exc.ArgumentError as error:
                raise UsageError(f"'{text}' is no path and no database URL such as postgresql+psycopg://user@host/name") from error
            except ModuleNotFoundError as error:
                raise MissingExtraError(f"'{text}' needs the driver '{error.name}'; run: pip install {error.name}") from error
            text = url.database or ":memory:"
        if text == ":memory:":
            return cls(sa.create_engine("sqlite://"), "in memory", None, readonly=readonly)
        path = Path(text)
        if readonly and not path.is_file():
            raise NotFoundError(f"there is no run at '{path}'")
        lock = None if readonly else Lock(path.with_name(path.name + ".lock"), f"the run '{path}'")
        options = _read_options(path) if readonly else "mode=rwc"

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?{options}", uri=True, check_same_thread=False)
            # A commit survives the death of the process; after a power cut the last ones may be missing, and are found out again.
            connection.execute("PRAGMA synchronous=NORMAL")
            return connection

        return cls(sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.QueuePool), str(path), lock, readonly=readonly)

    def close(self) -> None:
        """Closes the database and lets other processes write."""
        self._engine.dispose()
        if self._lock:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def bind(self, identity: Mapping[str, str]) -> None:
        """States what run this is: remembered the first time, compared afterwards.

        Raises:
            UsageError: when the archive is of a run that differs; names every difference.
        """
        recorded: dict[str, str] = self.notes().get("run", {})
        different = [f"{key} '{recorded[key]}' (now '{value}')" for key, value in identity.items() if recorded.get(key, value) != value]
        if different:
            raise UsageError(
                f"the run '{self._name}' was made with {', '.join(different)}; resume it with what it was made with, or start a new run"
            )
        if not identity.items() <= recorded.items():
            self.note("run", {**recorded, **identity})

    def notes(self) -> dict[str, Any]:
        """Everything said about the run as a whole, by key."""
        with self._transaction() as connection:
            return {row.key: json.loads(row.value) for row in connection.execute(sa.select(_META))}

    def note(self, key: str, value: Any) -> None:
        """Says something about the run as a whole (versions, hashes, the replay command), in place of what was said before."""
        with self._transaction() as connection:
            connection.execute(sa.delete(_META).where(_META.c.key == key))
            connection.execute(sa.insert(_META).values(key=key, value=_dump(value)))

    def add(self, evaluations: Sequence[Evaluation], *, generation: int, epoch: int) -> None:
        """Records trials, all of them or, when the process dies meanwhile, none.

        Raises:
            DiskError: when the database cannot be written; nothing was recorded then.
            BusyError: when a network already has a trial in this epoch, since somebody else must have recorded it.
        """
        known = self._load()
        start = max((trial.id for trial in known.values()), default=0) + 1
        now = _now()
        trials = [
            Trial(id=i, generation=generation, epoch=epoch, evaluation=evaluation, created=now)
            for i, evaluation in enumerate(evaluations, start)
        ]
        try:
            with self._transaction() as connection:
                if trials:
                    connection.execute(sa.insert(_TRIALS), [_row(trial) for trial in trials])
        except BaseException:
            self._trials = None  # an interrupt may come on either side of the commit: look again
            raise
        known.update({(trial.evaluation.genotype, epoch): trial for trial in trials})

    def find(self, genotype: Genotype, epoch: int) -> Trial | None:
        """The trial of a network in an epoch, wherever `as_of` stands."""
        return self._load().get((genotype, epoch))

    def trials(self) -> tuple[Trial, ...]:
        """All trials in the order of commit; within `as_of`, those up to there."""
        return tuple(trial for trial in self._load().values() if self._horizon is None or trial.id <= self._horizon)

    def latest(self) -> dict[Genotype, Evaluation]:
        """What is known of every network by now, in the order of first evaluation."""
        found: dict[Genotype, Evaluation] = {}
        for trial in self.trials():  # a later epoch is recorded later
            found[trial.evaluation.genotype] = trial.evaluation
        return found

    def front(self, problem: Problem) -> tuple[Evaluation, ...]:
        """The feasible networks that no other one on record dominates, best in the first objective first."""
        return front(self.latest().values(), problem)

    @contextmanager
    def as_of(self, trial: int) -> Iterator[None]:
        """Shows the archive as it was when this trial had just been recorded: what a resumed run plays through again."""
        before, self._horizon = self._horizon, trial
        try:
            yield
        finally:
            self._horizon = before

    def forget(self, generation: int) -> None:
        """Drops the trials from this generation on; costly results stay."""
        try:
            with self._transaction() as connection:
                connection.execute(sa.delete(_TRIALS).where(_TRIALS.c.generation >= generation))
        finally:
            self._trials = None

    def result(self, kind: Kind, genotype: Genotype, variant: str = "") -> Any | None:
        """The payload of a costly result, or `None` when it has not been found out yet.

        Args:
            kind: one of `KINDS`.
            genotype: of the network it is about.
            variant: whatever else determines it, such as a recipe's digest and a seed.
        """
        wanted = _where(kind, genotype, variant)
        with self._transaction() as connection:
            text = connection.execute(sa.select(_RESULTS.c.payload).where(*wanted)).scalar_one_or_none()
        return None if text is None else json.loads(text)

    def record(self, kind: Kind, genotype: Genotype, variant: str, payload: Any, seconds: float) -> None:
        """Records a costly result: payload (anything JSON can say; NumPy scalars and arrays become plain) and what it cost.

        Recording it again replaces the payload and adds to the cost.

        Raises:
            DiskError: when the database cannot be written.
        """
        wanted = _where(kind, genotype, variant)
        text = _dump(payload)
        with self._transaction() as connection:
            change = sa.update(_RESULTS).where(*wanted).values(payload=text, seconds=_RESULTS.c.seconds + seconds, created=_now())
            if connection.execute(change).rowcount == 0:
                row = {"kind": kind, "genotype": _key(genotype), "variant": variant, "payload": text, "seconds": seconds, "created": _now()}
                connection.execute(sa.insert(_RESULTS).values(row))

    def remember(self, kind: Kind, genotype: Genotype, variant: str, compute: Callable[[], Any]) -> Any:
        """The result on record, or else what `compute` gives, recorded with the time that it took.

        Returns:
            The payload as JSON gives it back, the same in the first run and in a resumed one: lists for tuples and arrays.
        """
        known = self.result(kind, genotype, variant)
        if known is not None:
            return known
        start = time.perf_counter()
        payload = compute()
        if payload is None:
            raise ValueError(f"the result '{kind}' {variant} of {genotype} is None, which cannot be told from an absent one")
        self.record(kind, genotype, variant, payload, time.perf_counter() - start)
        return json.loads(_dump(payload))

    def results(self, kind: Kind) -> tuple[Stored, ...]:
        """All costly results of a kind, oldest first: for reports, not for decisions of a search (see `Evaluator`)."""
        if kind not in KINDS:
            raise UsageError(f"unknown kind of result '{kind}'{did_you_mean(kind, KINDS)}; known: {', '.join(KINDS)}")
        with self._transaction() as connection:
            rows = connection.execute(sa.select(_RESULTS).where(_RESULTS.c.kind == kind).order_by(_RESULTS.c.id)).all()
        return tuple(
            Stored(
                kind=row.kind,
                genotype=tuple(json.loads(row.genotype)),
                variant=row.variant,
                payload=json.loads(row.payload),
                seconds=row.seconds,
                created=row.created,
            )
            for row in rows
        )

    def cost(self) -> dict[str, float]:
        """The time that results took, by kind; s."""
        with self._transaction() as connection:
            query = sa.select(_RESULTS.c.kind, sa.func.sum(_RESULTS.c.seconds).label("total")).group_by(_RESULTS.c.kind)
            return {row.kind: float(row.total) for row in connection.execute(query.order_by(_RESULTS.c.kind))}

    def _prepare(self) -> None:
        with self._transaction() as connection:
            if self._engine.dialect.name == "sqlite" and not self._readonly:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with self._transaction() as connection:
            tables = set(sa.inspect(connection).get_table_names())
            if tables and "meta" not in tables:
                raise FormatError(f"'{self._name}' is a database but no archive of hwnas; give another path")
            found = connection.execute(sa.select(_META.c.value).where(_META.c.key == "format")).scalar_one_or_none() if tables else None
            if found is None and self._readonly:
                raise FormatError(f"'{self._name}' is an archive whose making was cut off; run the search again")
            if found is None:  # new, or cut off while it was made
                _TABLES.create_all(connection)
                connection.execute(sa.insert(_META).values(key="format", value=str(FORMAT)))
            elif found != str(FORMAT):
                raise FormatError(f"'{self._name}' has format {found}, and this hwnas reads format {FORMAT}; use the version that wrote it")

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            raise _explained(error, self._name) from error

    def _load(self) -> dict[tuple[Genotype, int], Trial]:
        if self._trials is None or self._readonly:
            with self._transaction() as connection:
                rows = connection.execute(sa.select(_TRIALS).order_by(_TRIALS.c.id)).all()
            self._trials = {(trial.evaluation.genotype, trial.epoch): trial for trial in map(_trial, rows)}
        return self._trials


def _read_options(path: Path) -> str:
    """Reading needs a shared-memory file beside the database, unless nobody can be writing."""
    quiet = not path.with_name(path.name + "-wal").exists()
    return "mode=ro&immutable=1" if quiet and not os.access(path.parent, os.W_OK) else "mode=ro"


def _explained(error: sa.exc.DBAPIError, name: str) -> HwnasError:
    reason = str(error.orig).splitlines()[0]
    if isinstance(error, sa.exc.IntegrityError):
        return BusyError(f"the archive '{name}' already holds what was to be recorded ({reason}); does another process write it?")
    if "not a database" in reason or "malformed" in reason:
        return FormatError(f"the archive '{name}' is damaged ({reason}); restore it from a copy, or start a new run")
    return DiskError(f"the archive '{name}' cannot be used ({reason}); check space and permissions, then resume")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"an archive stores what JSON can say, and {type(value).__name__} is not among it")


def _dump(value: Any) -> str:
    return json.dumps(value, default=_plain, separators=(",", ":"))


def _key(genotype: Genotype) -> str:
    return _dump(genotype)


def _where(kind: Kind, genotype: Genotype, variant: str) -> tuple[sa.ColumnElement[bool], ...]:
    if kind not in KINDS:
        raise UsageError(f"unknown kind of result '{kind}'{did_you_mean(kind, KINDS)}; known: {', '.join(KINDS)}")
    return _RESULTS.c.kind == kind, _RESULTS.c.genotype == _key(genotype), _RESULTS.c.variant == variant


def _row(trial: Trial) -> dict[str, Any]:
    evaluation = trial.evaluation
    return {
        "id": trial.id,
        "generation": trial.generation,
        "epoch": trial.epoch,
        "genotype": _key(evaluation.genotype),
        "status": "failed" if evaluation.failure else "done",
        "metrics": _dump({name: (bound.value, bound.low, bound.high) for name, bound in evaluation.metrics.items()}),
        "source": _dump(dict(evaluation.source)),
        "failure": evaluation.failure,
        "created": trial.created,
    }


def _trial(row: Any) -> Trial:
    evaluation = Evaluation(
        genotype=tuple(json.loads(row.genotype)),
        metrics={name: Bounded(*ends) for name, ends in json.loads(row.metrics).items()},
        source=json.loads(row.source),
        failure=row.failure,
    )
    return Trial(id=row.id, generation=row.generation, epoch=row.epoch, evaluation=evaluation, created=row.created)
