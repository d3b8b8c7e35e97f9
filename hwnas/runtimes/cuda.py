"""CUDA's runtime API, as far as a network needs it to run: one card, one stream, memory, events, graphs. Not yet run on hardware.

A card is chosen by its UUID. CUDA numbers cards by their speed unless CUDA_DEVICE_ORDER says PCI_BUS_ID, and leaves out those that
CUDA_VISIBLE_DEVICES does not name, where the driver's tools count all of them along the PCI bus: a number means nothing by itself.

Every function that is used is held against the introspected API of `cuda.bindings` (tests/contract).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hwnas.devices.nvml import Card
from hwnas.errors import DeviceUnavailable, MeasurementError, require
from hwnas.ir.node import Array

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"


def only(card: Card, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is to see one card alone, as its device 0."""
    return {**environment, ORDER: "PCI_BUS_ID", VISIBLE: card.uuid}


def uuid_of(raw: bytes) -> str:
    """A card's UUID as its driver writes it, in lower case.

    >>> uuid_of(bytes(range(16)))
    'gpu-00010203-0405-0607-0809-0a0b0c0d0e0f'
    """
    text = raw.hex()
    return f"gpu-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Cuda:
    """One card, the current one of this thread from now on.

    Args:
        card: that is meant.
        api: `cuda.bindings.runtime`, or what stands in for it.

    Raises:
        MissingExtraError: CUDA's client is not installed.
        DeviceUnavailable: CUDA does not start, or does not see the card.
    """

    def __init__(self, card: Card, api: Any = None) -> None:
        self._api = require("cuda.bindings.runtime", "tensorrt") if api is None else api
        self.card = card
        self.ordinal = self._find()
        self.ask("cudaSetDevice", self.ordinal)

    def ask(self, function: str, *arguments: Any) -> Any:
        """What a function of CUDA's client gives beside its error.

        Raises:
            MeasurementError: it fails; gives CUDA's words.
        """
        error, *values = getattr(self._api, function)(*arguments)
        if error != self._api.cudaError_t.cudaSuccess:
            raise MeasurementError(f"{function} fails on card {self.card.index} ({self.card.name}): {self._words(error)}")
        return values[0] if values else None

    def drop(self, function: str, *arguments: Any) -> None:
        """Gives something back to CUDA; what it says of that is of no use any more."""
        getattr(self._api, function)(*arguments)

    def constant(self, name: str) -> Any:
        """A constant or an enumeration of CUDA's client."""
        return getattr(self._api, name)

    def stream(self) -> Stream:
        """A new stream of work on the card."""
        return Stream(self)

    def buffer(self, nbytes: int) -> Buffer:
        """Memory on the card."""
        return Buffer(self, nbytes)

    def _words(self, error: Any) -> str:
        _, text = self._api.cudaGetErrorString(error)
        return text.decode() if isinstance(text, bytes) else str(text)

    def _find(self) -> int:
        error, count = self._api.cudaGetDeviceCount()
        if error != self._api.cudaError_t.cudaSuccess:
            raise DeviceUnavailable(
                f"CUDA does not start on this machine: {self._words(error)}; see what 'nvidia-smi' says of the driver's version"
            )
        seen = [uuid_of(bytes(self.ask("cudaGetDeviceProperties", ordinal).uuid.bytes)) for ordinal in range(count)]
        wanted = self.card.uuid.lower()
        if wanted not in seen:
            raise DeviceUnavailable(
                f"CUDA does not see card {self.card.index} ({self.card.name}, {self.card.uuid}); it sees: {', '.join(seen) or 'none'}; "
                f"name it in {VISIBLE}, or unset that"
            )
        return seen.index(wanted)


class Buffer:
    """Memory on the card, freed when nobody holds it any more.

    Attributes:
        address: as CUDA and TensorRT take it.
        nbytes: its size.
    """

    def __init__(self, cuda: Cuda, nbytes: int) -> None:
        self.nbytes = nbytes
        self.address = int(cuda.ask("cudaMalloc", max(1, nbytes)))
        weakref.finalize(self, cuda.drop, "cudaFree", self.address)


class Stream:
    """A queue of work on the card.

    Attributes:
        handle: of the stream, as TensorRT takes it.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._stream = cuda.ask("cudaStreamCreateWithFlags", cuda.constant("cudaStreamNonBlocking"))
        weakref.finalize(self, cuda.drop, "cudaStreamDestroy", self._stream)
        self._events = [cuda.ask("cudaEventCreate") for _ in range(2)]
        for event in self._events:
            weakref.finalize(self, cuda.drop, "cudaEventDestroy", event)

    @property
    def handle(self) -> int:
        """As TensorRT takes it."""
        return int(self._stream)

    def synchronise(self) -> None:
        """Waits until everything that was queued is done."""
        self._cuda.ask("cudaStreamSynchronize", self._stream)

    def upload(self, buffer: Buffer, values: Array) -> None:
        """Copies an array to the card; done when it returns."""
        values = np.ascontiguousarray(values)
        self._fits(buffer, values)
        kind = self._cuda.constant("cudaMemcpyKind").cudaMemcpyHostToDevice
        self._cuda.ask("cudaMemcpyAsync", buffer.address, values.ctypes.data, values.nbytes, kind, self._stream)
        self.synchronise()

    def download(self, buffer: Buffer, shape: tuple[int, ...], dtype: str) -> Array:
        """The array that a buffer holds."""
        values = np.empty(shape, dtype)
        self._fits(buffer, values)
        kind = self._cuda.constant("cudaMemcpyKind").cudaMemcpyDeviceToHost
        self._cuda.ask("cudaMemcpyAsync", values.ctypes.data, buffer.address, values.nbytes, kind, self._stream)
        self.synchronise()
        return values

    def timed_s(self, work: Callable[[], object]) -> float:
        """How long the card takes for what `work` queues, by events before and after it; resolution 0.5 us."""
        start, end = self._events
        self._cuda.ask("cudaEventRecord", start, self._stream)
        work()
        self._cuda.ask("cudaEventRecord", end, self._stream)
        self._cuda.ask("cudaEventSynchronize", end)
        return float(self._cuda.ask("cudaEventElapsedTime", start, end)) * 1e-3

    def captured(self, work: Callable[[], object]) -> Callable[[], None] | None:
        """Queues what `work` queues in one launch, as a CUDA graph; None where it cannot be captured.

        Whatever is allocated or loaded the first time must have happened: run `work` before.
        """
        mode = self._cuda.constant("cudaStreamCaptureMode").cudaStreamCaptureModeThreadLocal
        self._cuda.ask("cudaStreamBeginCapture", self._stream, mode)
        failed = False
        try:
            work()
        except MeasurementError:
            failed = True
        try:
            graph = self._cuda.ask("cudaStreamEndCapture", self._stream)  # also ends a capture that failed
            if failed:
                self._cuda.drop("cudaGraphDestroy", graph)
                return None
            ready = self._cuda.ask("cudaGraphInstantiate", graph, 0)
            self._cuda.drop("cudaGraphDestroy", graph)
        except MeasurementError:
            self._cuda.drop("cudaGetLastError")  # a capture that was invalidated is told once more by the next call otherwise
            return None
        return _Launch(self._cuda, ready, self._stream)

    @staticmethod
    def _fits(buffer: Buffer, values: Array) -> None:
        if values.nbytes > buffer.nbytes:
            raise MeasurementError(f"an array of {values.nbytes} bytes does not fit into {buffer.nbytes} bytes on the card")


class _Launch:
    """Launches a CUDA graph on the stream that it was captured from."""

    def __init__(self, cuda: Cuda, ready: Any, stream: Any) -> None:
        self._cuda, self._ready, self._stream = cuda, ready, stream
        weakref.finalize(self, cuda.drop, "cudaGraphExecDestroy", ready)

    def __call__(self) -> None:
        self._cuda.ask("cudaGraphLaunch", self._ready, self._stream)
