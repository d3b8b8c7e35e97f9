"""CUDA without a card: memory is the machine's own, and time passes only with the work that is queued.

Stands in for `cuda.bindings.runtime`, with the functions that hwnas uses and their return values: a tuple of an error and what is asked for.
Work waits in its stream until somebody synchronises, so code that forgets to is found.
"""

# ruff: noqa: N801, N802, N803  (every name is as CUDA has it)
from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

Op = Callable[[], None]


class cudaError_t(IntEnum):
    """The errors that this stand-in gives."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(IntEnum):
    """Which way a copy goes."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    """What else may happen while a stream is captured."""

    cudaStreamCaptureModeThreadLocal = 1


_WORDS = {
    cudaError_t.cudaErrorNoDevice: b"no CUDA-capable device is detected",
    cudaError_t.cudaErrorMemoryAllocation: b"out of memory",
    cudaError_t.cudaErrorStreamCaptureUnsupported: b"operation not permitted when stream is capturing",
    cudaError_t.cudaErrorStreamCaptureInvalidated: b"operation failed due to a previous error during capture",
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

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
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

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:
        """An error in words."""
        return cudaError_t.cudaSuccess, _WORDS.get(error, b"invalid argument")

    def cudaGetLastError(self) -> tuple[cudaError_t]:
        """Forgets an error."""
        return (cudaError_t.cudaSuccess,)

    def cudaGetDeviceCount(self) -> tuple[cudaError_t, int | None]:
        """How many cards there are."""
        return (cudaError_t.cudaSuccess, len(self._uuids)) if self._uuids else (cudaError_t.cudaErrorNoDevice, None)

    def cudaGetDeviceProperties(self, device: int) -> tuple[cudaError_t, Any]:
        """What a card is; its UUID alone."""
        return cudaError_t.cudaSuccess, SimpleNamespace(uuid=SimpleNamespace(bytes=self._uuids[device]))

    def cudaSetDevice(self, device: int) -> tuple[cudaError_t]:
        """Chooses a card."""
        self.current = device
        return (cudaError_t.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[cudaError_t, int | None]:
        """Memory; what was in it before is anything but zeros."""
        if sum(block.nbytes for block in self.blocks.values()) + size > self._memory_bytes:
            return cudaError_t.cudaErrorMemoryAllocation, None
        block = np.full(size, 0xA5, np.uint8)
        self.blocks[block.ctypes.data] = block
        return cudaError_t.cudaSuccess, block.ctypes.data

    def cudaFree(self, devPtr: int) -> tuple[cudaError_t]:
        """Takes memory back, once whatever uses it is done."""
        for stream in self._streams.values():
            self._drain(stream)
        known = self.blocks.pop(devPtr, None) is not None
        return (cudaError_t.cudaSuccess if known else cudaError_t.cudaErrorInvalidValue,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: FakeStream) -> tuple[cudaError_t]:
        """Queues a copy."""
        on_card = dst if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else src
        if on_card not in self.blocks or self.blocks[on_card].nbytes < count:
            return (cudaError_t.cudaErrorInvalidValue,)

        def copy() -> None:
            ctypes.memmove(dst, src, count)

        taken = self.queue(stream.handle, copy)
        return (cudaError_t.cudaSuccess if taken else cudaError_t.cudaErrorStreamCaptureUnsupported,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[cudaError_t, FakeStream]:
        """A new stream."""
        stream = FakeStream(handle=len(self._streams) + 1)
        self._streams[stream.handle] = stream
        return cudaError_t.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: FakeStream) -> tuple[cudaError_t]:
        """Lets go of a stream; what is in it is still done."""
        self._drain(stream)
        return (cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: FakeStream) -> tuple[cudaError_t]:
        """Waits for all work of a stream."""
        if stream.capture is not None:
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        self._drain(stream)
        return (cudaError_t.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: FakeStream, mode: cudaStreamCaptureMode) -> tuple[cudaError_t]:
        """From now on work is written down, not done."""
        stream.capture = []
        return (cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: FakeStream) -> tuple[cudaError_t, list[Op] | None]:
        """What was written down."""
        graph, stream.capture = stream.capture, None
        return (cudaError_t.cudaSuccess, graph) if self._captures else (cudaError_t.cudaErrorStreamCaptureInvalidated, None)

    def cudaGraphInstantiate(self, graph: list[Op], flags: int) -> tuple[cudaError_t, list[Op]]:
        """What was written down, ready to run."""
        return cudaError_t.cudaSuccess, list(graph)

    def cudaGraphLaunch(self, graphExec: list[Op], stream: FakeStream) -> tuple[cudaError_t]:
        """Queues all of it."""
        self.launches += 1
        stream.queue.extend(graphExec)
        return (cudaError_t.cudaSuccess,)

    def cudaGraphDestroy(self, graph: list[Op]) -> tuple[cudaError_t]:
        """Lets go of what was written down; what was made ready of it stays."""
        graph.clear()
        return (cudaError_t.cudaSuccess,)

    def cudaGraphExecDestroy(self, graphExec: list[Op]) -> tuple[cudaError_t]:
        """Lets go of it."""
        graphExec.clear()
        return (cudaError_t.cudaSuccess,)

    def cudaEventCreate(self) -> tuple[cudaError_t, FakeEvent]:
        """A new event."""
        return cudaError_t.cudaSuccess, FakeEvent()

    def cudaEventDestroy(self, event: FakeEvent) -> tuple[cudaError_t]:
        """Lets go of an event."""
        return (cudaError_t.cudaSuccess,)

    def cudaEventRecord(self, event: FakeEvent, stream: FakeStream) -> tuple[cudaError_t]:
        """Queues a look at the time."""
        event.stream, event.at_ms = stream, None

        def look() -> None:
            event.at_ms = self.now_ms

        stream.queue.append(look)
        return (cudaError_t.cudaSuccess,)

    def cudaEventSynchronize(self, event: FakeEvent) -> tuple[cudaError_t]:
        """Waits until a stream got there."""
        if event.stream is not None:
            self._drain(event.stream)
        return (cudaError_t.cudaSuccess,)

    def cudaEventElapsedTime(self, start: FakeEvent, end: FakeEvent) -> tuple[cudaError_t, float | None]:
        """Time between two events in ms; an error where a stream did not get there yet."""
        if start.at_ms is None or end.at_ms is None:
            return cudaError_t.cudaErrorInvalidValue, None
        return cudaError_t.cudaSuccess, end.at_ms - start.at_ms

    @staticmethod
    def _drain(stream: FakeStream) -> None:
        while stream.queue:
            stream.queue.pop(0)()
