"""CUDA without a card: memory is the machine's own, and time passes only with the work that is queued.

Stands in for `cuda.bindings.runtime`, with the functions that hwnas uses; each returns an error and what is asked for. Work waits
in its stream until somebody synchronises, so code that forgets to is found.
"""

# ruff: noqa: N802, N803, N815  (every name is as CUDA has it)
from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

Op = Callable[[], None]


class Error(IntEnum):
    """The errors that this stand-in gives."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class CopyKind(IntEnum):
    """Which way a copy goes."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class CaptureMode(IntEnum):
    """What else may happen while a stream is captured."""

    cudaStreamCaptureModeThreadLocal = 1


_WORDS = {
    Error.cudaErrorNoDevice: b"no CUDA-capable device is detected",
    Error.cudaErrorMemoryAllocation: b"out of memory",
    Error.cudaErrorStreamCaptureUnsupported: b"operation not permitted when stream is capturing",
    Error.cudaErrorStreamCaptureInvalidated: b"operation failed due to a previous error during capture",
}


@dataclass(eq=False)
class FakeStream:
    """Work that waits, and, while the stream is captured, the work that is written down instead."""

    handle: int
    queue: list[Op] = field(default_factory=list)
    capture: list[Op] | None = None

    def __int__(self) -> int:
        return self.handle


@dataclass(eq=False)
class FakeEvent:
    """The moment at which a stream got there."""

    stream: FakeStream | None = None
    at_ms: float | None = None


class FakeCuda:
    """Stands in for `cuda.bindings.runtime`.

    Args:
        uuids: of its cards, in CUDA's order: the 32 digits, with or without what is between them.
        captures: whether streams can be captured.
        memory_bytes: of a card.

    Attributes:
        now_ms: time on the card.
        launches: runs of captured graphs so far.
        blocks: memory that is given out, by its address.
        current: the card in use.
    """

    cudaError_t = Error
    cudaMemcpyKind = CopyKind
    cudaStreamCaptureMode = CaptureMode
    cudaStreamNonBlocking = 1

    def __init__(self, uuids: Sequence[str] = ("0a" * 16,), *, captures: bool = True, memory_bytes: int = 2**30) -> None:
        self._uuids = [bytes.fromhex(uuid.lower().removeprefix("gpu-").replace("-", "")) for uuid in uuids]
        self._captures = captures
        self._memory_bytes = memory_bytes
        self._streams: dict[int, FakeStream] = {}
        self.now_ms = 0.0
        self.launches = 0
        self.blocks: dict[int, Any] = {}
        self.current: int | None = None

    def queue(self, handle: int, op: Op) -> bool:
        """Puts work into a stream, as a library that runs kernels does; whether the stream takes it."""
        stream = self._streams[handle]
        if stream.capture is not None and not self._captures:
            return False
        (stream.queue if stream.capture is None else stream.capture).append(op)
        return True

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        """An error in words."""
        return Error.cudaSuccess, _WORDS.get(error, b"invalid argument")

    def cudaGetLastError(self) -> tuple[Error]:
        """Forgets an error."""
        return (Error.cudaSuccess,)

    def cudaGetDeviceCount(self) -> tuple[Error, int | None]:
        """How many cards there are."""
        return (Error.cudaSuccess, len(self._uuids)) if self._uuids else (Error.cudaErrorNoDevice, None)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Error, Any]:
        """What a card is; its UUID alone."""
        return Error.cudaSuccess, SimpleNamespace(uuid=SimpleNamespace(bytes=self._uuids[device]))

    def cudaSetDevice(self, device: int) -> tuple[Error]:
        """Chooses a card."""
        self.current = device
        return (Error.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[Error, int | None]:
        """Memory; what was in it before is anything but zeros."""
        if sum(block.nbytes for block in self.blocks.values()) + size > self._memory_bytes:
            return Error.cudaErrorMemoryAllocation, None
        block = np.full(size, 0xA5, np.uint8)
        self.blocks[block.ctypes.data] = block
        return Error.cudaSuccess, block.ctypes.data

    def cudaFree(self, devPtr: int) -> tuple[Error]:
        """Takes memory back, once whatever uses it is done."""
        for stream in self._streams.values():
            self._drain(stream)
        known = self.blocks.pop(devPtr, None) is not None
        return (Error.cudaSuccess if known else Error.cudaErrorInvalidValue,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: CopyKind, stream: FakeStream) -> tuple[Error]:
        """Queues a copy."""
        on_card = dst if kind == CopyKind.cudaMemcpyHostToDevice else src
        if on_card not in self.blocks or self.blocks[on_card].nbytes < count:
            return (Error.cudaErrorInvalidValue,)

        def copy() -> None:
            ctypes.memmove(dst, src, count)

        taken = self.queue(stream.handle, copy)
        return (Error.cudaSuccess if taken else Error.cudaErrorStreamCaptureUnsupported,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, FakeStream]:
        """A new stream."""
        stream = FakeStream(handle=len(self._streams) + 1)
        self._streams[stream.handle] = stream
        return Error.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: FakeStream) -> tuple[Error]:
        """Lets go of a stream; what is in it is still done."""
        self._drain(stream)
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: FakeStream) -> tuple[Error]:
        """Waits for all work of a stream."""
        if stream.capture is not None:
            return (Error.cudaErrorStreamCaptureUnsupported,)
        self._drain(stream)
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: FakeStream, mode: CaptureMode) -> tuple[Error]:
        """From now on work is written down, not done."""
        stream.capture = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: FakeStream) -> tuple[Error, list[Op] | None]:
        """What was written down."""
        graph, stream.capture = stream.capture, None
        return (Error.cudaSuccess, graph) if self._captures else (Error.cudaErrorStreamCaptureInvalidated, None)

    def cudaGraphInstantiate(self, graph: list[Op], flags: int) -> tuple[Error, list[Op]]:
        """What was written down, ready to run."""
        return Error.cudaSuccess, list(graph)

    def cudaGraphLaunch(self, graphExec: list[Op], stream: FakeStream) -> tuple[Error]:
        """Queues all of it."""
        self.launches += 1
        stream.queue.extend(graphExec)
        return (Error.cudaSuccess,)

    def cudaGraphDestroy(self, graph: list[Op]) -> tuple[Error]:
        """Lets go of what was written down; what was made ready of it stays."""
        graph.clear()
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, graphExec: list[Op]) -> tuple[Error]:
        """Lets go of it."""
        graphExec.clear()
        return (Error.cudaSuccess,)

    def cudaEventCreate(self) -> tuple[Error, FakeEvent]:
        """A new event."""
        return Error.cudaSuccess, FakeEvent()

    def cudaEventDestroy(self, event: FakeEvent) -> tuple[Error]:
        """Lets go of an event."""
        return (Error.cudaSuccess,)

    def cudaEventRecord(self, event: FakeEvent, stream: FakeStream) -> tuple[Error]:
        """Queues a look at the time."""
        event.stream, event.at_ms = stream, None

        def look() -> None:
            event.at_ms = self.now_ms

        stream.queue.append(look)
        return (Error.cudaSuccess,)

    def cudaEventSynchronize(self, event: FakeEvent) -> tuple[Error]:
        """Waits until a stream got there."""
        if event.stream is not None:
            self._drain(event.stream)
        return (Error.cudaSuccess,)

    def cudaEventElapsedTime(self, start: FakeEvent, end: FakeEvent) -> tuple[Error, float | None]:
        """Time between two events in ms; an error where a stream did not get there yet."""
        if start.at_ms is None or end.at_ms is None:
            return Error.cudaErrorInvalidValue, None
        return Error.cudaSuccess, end.at_ms - start.at_ms

    @staticmethod
    def _drain(stream: FakeStream) -> None:
        while stream.queue:
            stream.queue.pop(0)()
