"""Profiles on disk: `profile.toml` and Parquet tables.

While a profile is being measured, it is a journal (`hwnas.profiling.journal`); `save` makes the tables of it, and removes it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from hwnas.assets import disk_errors, write_atomically
from hwnas.errors import FormatError, NotFoundError, one_line
from hwnas.ir import Kernel, KernelCall
from hwnas.profiling import energies, steady
from hwnas.profiling.journal import Journal, call_of
from hwnas.profiling.lines import FORMAT, Lines
from hwnas.profiling.profile import CurvePoint, NetworkRecord, Profile, Raw, Setting, records_of
from hwnas.profiling.slowdowns import Floats, Rounds, Slowdowns
from hwnas.profiling.steady import Batch
from hwnas.profiling.waves import Pooled, by_round
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.registry import ON_REQUEST
from hwnas.spaces import GENERIC

READABLE = (1, FORMAT)  # format 1 had one profile per setting
TABLES = ("networks", "kernels", "canaries")
EXTRAS = ("batches", "energy")  # of some profiles; of no weight for a predictor of latency
_TOLD_OF_EXTRAS = ("extras", "energies", "energy_reason")
_KEPT = "what was measured stays in the journal; make room and run again with --resume"
_NETWORKS = pa.schema(
    [
        ("id", pa.int32()),
        ("genotype", pa.list_(pa.int16())),
        ("seconds", pa.list_(pa.float64())),
        ("rounds", pa.list_(pa.int32())),
        ("call_ns", pa.int64()),
    ]
)
_CANARIES = pa.schema([("round", pa.int32()), ("canary", pa.int16()), ("seconds", pa.list_(pa.float64()))])
_KERNELS = pa.schema(
    [
        ("network", pa.int32()),
        ("kernel", pa.dictionary(pa.int32(), pa.string())),
        ("nodes", pa.string()),
        ("output", pa.string()),
        ("profiled_s", pa.float64()),
    ]
)


def key_of(setting: Setting, space: str) -> str:
    """A name for the files of a profile or predictor: its setting and its space.

    >>> key_of(Setting(device="cpu", runtime="onnxruntime-cpu"), "mobilenet")
    'onnxruntime-cpu-t1-b1-fp32-mobilenet'
    """
    return f"{setting.key}-{slug(space)}"


def slug(space: str) -> str:
    """A space's name as part of a file name; one that was given as `path.py:Class` has the path's digest in it.

    >>> slug("mobilenet"), slug("my/space.py:Tiny")
    ('mobilenet', 'space.py-Tiny-a6ac12')
    """
    if "/" not in space:
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", space)
    return f"{slug(space.rsplit('/', 1)[-1])}-{hashlib.sha256(space.encode()).hexdigest()[:6]}"


def options_of(setting: Setting) -> str:
    """The command line's options that ask for a setting."""
    runtime = f"--runtime {setting.runtime} " if setting.runtime in ON_REQUEST else ""
    precision = "" if setting.precision == "fp32" else f" --precision {setting.precision}"
    return f"{runtime}--threads {setting.threads} --batch {setting.batch}{precision}"


def _is_of(entry: Mapping[str, Any], setting: Setting, space: str | None = None) -> bool:
    """Whether an entry of a `profile.toml` describes this setting and space."""
    return all(entry.get(key) == value for key, value in asdict(setting).items()) and space in (None, entry.get("space"))


class ProfileStore:
    """The profiles of one device in a folder `profiles/<device>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def journal(self, setting: Setting, space: str) -> Journal:
        """The journal of a profile that is being measured."""
        return Journal(self.folder / f"journal-{key_of(setting, space)}.jsonl")

    def energy_journal(self, setting: Setting, space: str) -> Lines:
        """The journal of the energy of a profile, while it is measured."""
        return Lines(self.folder / f"energy-{key_of(setting, space)}.jsonl")

    def save(self, profile: Profile) -> None:
        """Writes the tables and the TOML, each atomically, then removes the journal.

        Raises:
            HwnasError: the disk refuses (full, read-only); what was measured stays in the journal.
        """
        key = key_of(profile.setting, profile.space)
        tables = _tables(profile)
        path = self.folder / "profile.toml"
        text: dict[str, Any] = self._read_toml() if path.exists() else {"settings": {}}
        text["format"], text["device"] = FORMAT, dict(profile.device)
        replaced = [old for old, entry in text["settings"].items() if old != key and _is_of(entry, profile.setting, profile.space)]
        entry = {
            **asdict(profile.setting),
            "space": profile.space,
            "seed": profile.seed,
            "fingerprint": profile.fingerprint,
            **profile.fusions.as_entries(),
            "networks": len(profile.networks),
            "spent_s": profile.spent_s,
            "ended_by": profile.ended_by,
            "environment": dict(profile.environment),
            "curve": [asdict(point) for point in profile.curve],
        }
        with disk_errors(self.folder, _KEPT):
            self.folder.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            for name, table in tables.items():
                digest.update(self._write(name, key, table))
            entry["digest"] = digest.hexdigest()
            entry |= self._write_extras(profile, key)
            text["settings"][key] = entry
            for old in replaced:
                del text["settings"][old]
            write_atomically(path, lambda place: place.write_text(tomli_w.dumps(text)))
            for old in replaced:
                for name in (*TABLES, *EXTRAS):
                    (self.folder / f"{name}-{old}.parquet").unlink(missing_ok=True)
            self.journal(profile.setting, profile.space).remove()

    def save_energies(self, profile: Profile) -> None:
        """Writes what a stored profile has learned of energy since; nothing else of it is touched. Then removes the journal.

        Raises:
            HwnasError: the disk refuses; what was measured stays in the journal.
        """
        key, path = key_of(profile.setting, profile.space), self.folder / "profile.toml"
        text = self._read_toml()
        with disk_errors(self.folder, _KEPT):
            stays = {name: value for name, value in text["settings"][key].items() if name not in _TOLD_OF_EXTRAS}
            text["settings"][key] = stays | self._write_extras(profile, key)
            write_atomically(path, lambda place: place.write_text(tomli_w.dumps(text)))
            self.energy_journal(profile.setting, profile.space).remove()

    def _write_extras(self, profile: Profile, key: str) -> dict[str, Any]:
        """Writes the tables that only some profiles have; what `profile.toml` says of them. Those that this one lacks are removed."""
        tables = _extras(profile)
        for name in EXTRAS:
            if name not in tables:
                (self.folder / f"{name}-{key}.parquet").unlink(missing_ok=True)
        digests = {name: hashlib.sha256(self._write(name, key, table)).hexdigest() for name, table in tables.items()}
        told = zip(_TOLD_OF_EXTRAS, (digests, len(profile.energies), profile.energy_reason), strict=True)
        return {name: value for name, value in told if value}

    def _write(self, name: str, key: str, table: pa.Table) -> bytes:
        """Writes a table; what lies on the disk then."""
        file = self.folder / f"{name}-{key}.parquet"
        write_atomically(file, partial(pq.write_table, table, compression="zstd"))
        return file.read_bytes()

    def spaces(self, setting: Setting) -> list[str]:
        """The spaces of which a finished profile of the setting is there, `generic` first."""
        if not (self.folder / "profile.toml").is_file():
            return []
        found = [str(entry["space"]) for entry in self._read_toml()["settings"].values() if _is_of(entry, setting)]
        return sorted(found, key=lambda space: (space != GENERIC, space))

    def load(self, setting: Setting, space: str | None = None) -> Profile:
        """A finished profile.

        Args:
            setting: what was measured.
            space: whose networks; by default the first of `spaces`.

        Raises:
            NotFoundError: nothing was measured with this setting; says what was, and how to measure it.
            FormatError: the files are damaged or of another version.
        """
        if not (self.folder / "profile.toml").exists():
            raise NotFoundError(
                f"no profile of '{setting.device}' in '{self.folder}'; run 'hwnas profile --device {setting.device} {options_of(setting)}'"
            )
        text = self._read_toml()
        there = self.spaces(setting)
        if not there or space not in (None, *there):
            known = ", ".join(sorted(text["settings"])) or "nothing"
            asked = key_of(setting, space) if space else setting.key
            option = f" --space {space}" if space else ""
            raise NotFoundError(
                f"'{setting.device}' was not profiled with {asked}, only with {known}; run 'hwnas profile --device {setting.device} "
                f"{options_of(setting)}{option}'"
            )
        key, entry = next((key, entry) for key, entry in text["settings"].items() if _is_of(entry, setting, space or there[0]))
        try:
            tables, digest = self._tables(key)
            if digest != entry["digest"]:
                raise FormatError(f"the tables of {key} in '{self.folder}' are not those that profile.toml describes; profile again")
            canaries = _canaries(tables["canaries"])
            extras = self._read_extras(key, entry.get("extras", {}))
            return Profile(
                setting=setting,
                space=entry["space"],
                seed=entry["seed"],
                fingerprint=entry["fingerprint"],
                device=text["device"],
                environment=entry["environment"],
                fusions=Fusions.from_entries(entry),
                networks=_networks(tables["networks"], tables["kernels"], canaries),
                canaries=canaries,
                curve=tuple(CurvePoint(**point) for point in entry["curve"]),
                ended_by=entry["ended_by"],
                spent_s=entry["spent_s"],
                digest=digest,
                batches=tuple(Batch.of(row) for row in extras.get("batches", ())),
                energies={row["network"]: energies.from_row(row) for row in extras.get("energy", ())},
                energy_reason=entry.get("energy_reason", ""),
                energy_digest=entry.get("extras", {}).get("energy", ""),
            )
        except (OSError, pa.ArrowException, ValueError, LookupError, TypeError) as error:
            raise FormatError(
                f"the profile {key} in '{self.folder}' is damaged ({type(error).__name__}: {one_line(error)}); profile again"
            ) from error

    def _read_extras(self, key: str, digests: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
        """The rows of the tables that only some profiles have; `FormatError` where they are not what `profile.toml` describes."""
        found = {}
        for name, digest in digests.items():
            raw = (self.folder / f"{name}-{key}.parquet").read_bytes()
            if hashlib.sha256(raw).hexdigest() != digest:
                raise FormatError(f"the table {name} of {key} in '{self.folder}' is not that which profile.toml describes; profile again")
            found[name] = pq.read_table(pa.BufferReader(raw)).to_pylist()
        return found

    def _tables(self, key: str) -> tuple[dict[str, pa.Table], str]:
        """The tables of a profile, and the digest of their files."""
        digest = hashlib.sha256()
        tables = {}
        for name in TABLES:
            raw = (self.folder / f"{name}-{key}.parquet").read_bytes()
            digest.update(raw)
            tables[name] = pq.read_table(pa.BufferReader(raw))
        return tables, digest.hexdigest()

    def _read_toml(self) -> dict[str, Any]:
        path = self.folder / "profile.toml"
        try:
            text = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"'{path}' is damaged ({one_line(error)}); remove it and profile again") from error
        if text.get("format") not in READABLE:
            raise FormatError(
                f"'{path}' has format {text.get('format')}, this hwnas reads {FORMAT}; use the hwnas that wrote it, or profile again"
            )
        if not isinstance(text.get("settings"), dict) or "device" not in text:
            raise FormatError(f"'{path}' is damaged (it lacks its settings or its device); remove it and profile again")
        return text


def _tables(profile: Profile) -> dict[str, pa.Table]:
    networks = [
        {
            "id": network.id,
            "genotype": [int(gene) for gene in network.genotype],
            "seconds": network.samples.seconds.tolist(),
            "rounds": network.pooled.rounds.tolist(),
            "call_ns": network.call_ns,
        }
        for network in profile.networks
    ]
    kernels = [
        {
            "network": network.id,
            "kernel": kernel.call.kernel.to_json(),
            "nodes": json.dumps(kernel.call.nodes),
            "output": kernel.call.output,
            "profiled_s": kernel.profiled_s,
        }
        for network in profile.networks
        for kernel in network.kernels
    ]
    canaries = [
        {"round": number, "canary": i, "seconds": seconds.tolist()}
        for number, row in profile.canaries.items()
        for i, seconds in enumerate(row)
    ]
    return {
        "networks": pa.Table.from_pylist(networks, schema=_NETWORKS),
        "kernels": pa.Table.from_pylist(kernels, schema=_KERNELS),
        "canaries": pa.Table.from_pylist(canaries, schema=_CANARIES),
    }


def _extras(profile: Profile) -> dict[str, pa.Table]:
    """The tables that only some profiles have."""
    found = {}
    if profile.batches:
        found["batches"] = pa.Table.from_pylist([asdict(batch) for batch in profile.batches], schema=steady.SCHEMA)
    if profile.energies:
        rows = [energies.to_row(network, measured) for network, measured in sorted(profile.energies.items())]
        found["energy"] = pa.Table.from_pylist(rows, schema=energies.SCHEMA)
    return found


def _canaries(table: pa.Table) -> dict[int, list[Floats]]:
    found: dict[int, list[Floats]] = {}
    for row in table.to_pylist():
        found.setdefault(row["round"], []).append(np.array(row["seconds"]))
    return found


def _networks(networks: pa.Table, kernels: pa.Table, canaries: Rounds) -> tuple[NetworkRecord, ...]:
    known: dict[str, Kernel] = {}
    times: dict[int, list[tuple[KernelCall, float]]] = {}
    for row in kernels.to_pylist():
        call = call_of(row["kernel"], json.loads(row["nodes"]), row["output"], known)
        times.setdefault(row["network"], []).append((call, row["profiled_s"]))
    rows = [(row, np.array(row["seconds"]), np.array(row["rounds"])) for row in networks.to_pylist()]
    slow = Slowdowns.of(canaries, [by_round(seconds, rounds) for _, seconds, rounds in rows])
    raw = [
        Raw(row["id"], tuple(row["genotype"]), Pooled.from_samples(seconds, rounds, slow), times[row["id"]], row["call_ns"])
        for row, seconds, rounds in rows
    ]
    return tuple(records_of(raw))
