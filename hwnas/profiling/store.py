"""Profiles on disk: `profile.toml` and Parquet tables, and the journal that makes profiling survive a kill.

While a profile is being measured every network is appended to a journal (one JSON line, synced to the disk) before it
counts. `save` turns the journal into tables and removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
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
from hwnas.profiling.profile import CurvePoint, KernelRecord, NetworkRecord, Profile, Setting
from hwnas.runtimes.samples import Samples

FORMAT = 1
_NETWORKS = pa.schema(
    [
        ("id", pa.int32()),
        ("genotype", pa.list_(pa.int16())),
        ("seconds", pa.list_(pa.float64())),
        ("ended_by", pa.string()),
        ("call_ns", pa.int64()),
        ("measured_in_s", pa.float64()),
    ]
)
_KERNELS = pa.schema(
    [
        ("network", pa.int32()),
        ("kernel", pa.dictionary(pa.int32(), pa.string())),
        ("nodes", pa.string()),
        ("output", pa.string()),
        ("nanoseconds", pa.int64()),
    ]
)


class ProfileStore:
    """The profiles of one device in a folder `profiles/<device>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def journal(self, setting: Setting) -> Journal:
        """The journal of a profile that is being measured."""
        return Journal(self.folder / f"journal-{setting.key}.jsonl")

    def save(self, profile: Profile) -> None:
        """Writes the tables and the TOML, each atomically, then removes the journal.

        Raises:
            HwnasError: the disk refuses (full, read-only); what was measured stays in the journal.
        """
        key = profile.setting.key
        networks, kernels = _tables(profile.networks)
        path = self.folder / "profile.toml"
        text: dict[str, Any] = self._read_toml() if path.exists() else {"format": FORMAT, "settings": {}}
        text["device"] = dict(profile.device)
        entry = {
            **asdict(profile.setting),
            "space": profile.space,
            "seed": profile.seed,
            "fingerprint": profile.fingerprint,
            "block": profile.block,
            "networks": len(profile.networks),
            "spent_s": profile.spent_s,
            "ended_by": profile.ended_by,
            "environment": dict(profile.environment),
            "curve": [asdict(point) for point in profile.curve],
        }
        with disk_errors(self.folder, "what was measured stays in the journal; make room and run again with --resume"):
            self.folder.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            for name, table in (("networks", networks), ("kernels", kernels)):
                file = self.folder / f"{name}-{key}.parquet"
                write_atomically(file, partial(pq.write_table, table, compression="zstd"))
                digest.update(file.read_bytes())
            entry["digest"] = digest.hexdigest()
            text["settings"][key] = entry
            write_atomically(path, lambda place: place.write_text(tomli_w.dumps(text)))
            self.journal(profile.setting).remove()

    def has(self, setting: Setting) -> bool:
        """Whether a finished profile of the setting is there."""
        return (self.folder / "profile.toml").is_file() and setting.key in self._read_toml()["settings"]

    def load(self, setting: Setting) -> Profile:
        """A finished profile.

        Raises:
            NotFoundError: nothing was measured with this setting; says what was, and how to measure it.
            FormatError: the files are damaged or of another version.
        """
        if not (self.folder / "profile.toml").exists():
            raise NotFoundError(f"no profile of '{setting.device}' in '{self.folder}'; run 'hwnas profile --device {setting.device}'")
        text = self._read_toml()
        entry = text["settings"].get(setting.key)
        if entry is None:
            known = ", ".join(sorted(text["settings"])) or "nothing"
            raise NotFoundError(
                f"'{setting.device}' was not profiled with {setting.key}, only with {known}; run 'hwnas profile --device {setting.device} "
                f"--threads {setting.threads} --batch {setting.batch}'"
            )
        try:
            tables = {name: pq.read_table(self.folder / f"{name}-{setting.key}.parquet") for name in ("networks", "kernels")}
        except (OSError, pa.ArrowException) as error:
            raise FormatError(
                f"the tables of profile {setting.key} in '{self.folder}' cannot be read ({one_line(error)}); profile again"
            ) from error
        return Profile(
            setting=setting,
            space=entry["space"],
            seed=entry["seed"],
            fingerprint=entry["fingerprint"],
            device=text["device"],
            environment=entry["environment"],
            block=entry["block"],
            networks=_networks(tables["networks"], tables["kernels"]),
            curve=tuple(CurvePoint(**point) for point in entry["curve"]),
            ended_by=entry["ended_by"],
            spent_s=entry["spent_s"],
            digest=entry["digest"],
        )

    def _read_toml(self) -> dict[str, Any]:
        path = self.folder / "profile.toml"
        try:
            text = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"'{path}' is damaged ({one_line(error)}); remove it and profile again") from error
        if text.get("format") != FORMAT:
            raise FormatError(
                f"'{path}' has format {text.get('format')}, this hwnas reads {FORMAT}; use the hwnas that wrote it, or profile again"
            )
        return text


class Journal:
    """Networks as they were measured, one JSON line each, synced before they count."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether an unfinished profile is there."""
        return self.path.exists()

    def start(self, header: Mapping[str, Any]) -> None:
        """Begins anew with what must not change while the profile is measured."""
        with disk_errors(self.path.parent, "make room or give another place with --home"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, lambda place: place.write_text(json.dumps({"format": FORMAT, **header}) + "\n"))

    def append(self, network: NetworkRecord) -> None:
        """Adds a network; it is on the disk when this returns."""
        kernels = [[k.call.kernel.to_json(), list(k.call.nodes), k.call.output, k.nanoseconds] for k in network.kernels]
        row = {**_row(network), "kernels": kernels}
        with (
            disk_errors(self.path.parent, "what was measured before is kept; make room and run again with --resume"),
            self.path.open("a") as file,
        ):
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> tuple[dict[str, Any], list[NetworkRecord]]:
        """The header and every complete network; a line that a kill cut short is cut off the file.

        Raises:
            FormatError: the header is damaged or of another version.
        """
        lines = self.path.read_bytes().split(b"\n")
        try:
            header = json.loads(lines[0])
        except ValueError as error:
            raise FormatError(f"'{self.path}' is damaged ({one_line(error)}); remove it and profile again") from error
        if header.get("format") != FORMAT:
            raise FormatError(f"'{self.path}' has format {header.get('format')}, this hwnas reads {FORMAT}; remove it and profile again")
        kernels: dict[str, Kernel] = {}
        networks: list[NetworkRecord] = []
        kept = len(lines[0]) + 1
        for line in lines[1:-1]:
            try:
                row = json.loads(line)
            except ValueError:
                break
            networks.append(_network(row, kernels))
            kept += len(line) + 1
        if kept < self.path.stat().st_size:
            os.truncate(self.path, kept)
        return header, networks

    def remove(self) -> None:
        """Deletes the journal."""
        self.path.unlink(missing_ok=True)


def _row(network: NetworkRecord) -> dict[str, Any]:
    return {
        "id": network.id,
        "genotype": [int(gene) for gene in network.genotype],
        "seconds": network.samples.seconds.tolist(),
        "ended_by": network.samples.ended_by,
        "call_ns": network.call_ns,
        "measured_in_s": network.measured_in_s,
    }


def _network(row: Mapping[str, Any], kernels: dict[str, Kernel]) -> NetworkRecord:
    records = []
    for text, nodes, output, nanoseconds in row["kernels"]:
        kernel = kernels.get(text) or kernels.setdefault(text, Kernel.from_json(text))
        records.append(KernelRecord(call=KernelCall(kernel=kernel, nodes=tuple(nodes), output=output), nanoseconds=nanoseconds))
    return NetworkRecord(
        id=row["id"],
        genotype=tuple(row["genotype"]),
        samples=Samples(np.array(row["seconds"]), row["ended_by"]),
        kernels=tuple(records),
        call_ns=row["call_ns"],
        measured_in_s=row["measured_in_s"],
    )


def _tables(networks: Iterable[NetworkRecord]) -> tuple[pa.Table, pa.Table]:
    rows, parts = [], []
    for network in networks:
        rows.append(_row(network))
        for kernel in network.kernels:
            parts.append(
                {
                    "network": network.id,
                    "kernel": kernel.call.kernel.to_json(),
                    "nodes": json.dumps(kernel.call.nodes),
                    "output": kernel.call.output,
                    "nanoseconds": kernel.nanoseconds,
                }
            )
    return pa.Table.from_pylist(rows, schema=_NETWORKS), pa.Table.from_pylist(parts, schema=_KERNELS)


def _networks(networks: pa.Table, kernels: pa.Table) -> tuple[NetworkRecord, ...]:
    by_network: dict[int, list[list[Any]]] = {}
    for row in kernels.to_pylist():
        by_network.setdefault(row["network"], []).append([row["kernel"], json.loads(row["nodes"]), row["output"], row["nanoseconds"]])
    known: dict[str, Kernel] = {}
    return tuple(_network({**row, "kernels": by_network.get(row["id"], [])}, known) for row in networks.to_pylist())
