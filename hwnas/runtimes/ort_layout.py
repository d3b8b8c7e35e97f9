"""The last stage: activations into convolutions and matrix products, and the blocked layout (NCHWc) of convolutions and pools.

Convolutions and pools work on channels in blocks, where they fit; element-wise steps stay in that layout while all that they read is
in it; a value that is needed in the other layout is re-ordered once. A convolution of blocked data adds a residual in place and then
takes an activation.
"""

from __future__ import annotations

from collections.abc import Set

from hwnas.ir.node import TensorSpec
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_draft import Draft, Step, attributes

REORDER_UNIT = 4  # channels that a layout reorder moves at a time
POOLS = frozenset({"AveragePool", "MaxPool"})
WHOLE_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool"})
SIXTH = 1 / 6  # the slope of the HardSigmoid inside a HardSwish
_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def activate(draft: Draft, fusions: Fusions) -> bool:
    """Convolutions and matrix products absorb the activation that alone reads what they write."""
    changed = False
    for op, activations in (("Gemm", fusions.gemm_activations), ("Conv", fusions.conv_activations)):
        for step in draft.of(op):
            after = draft.only_reader(step.outputs[0])
            if after is not None and after.op in activations and not step.fused and after.inputs[0] == step.outputs[0]:
                _absorb(draft, step, after)
                changed = True
    return changed


def _absorb(draft: Draft, step: Step, after: Step) -> None:
    step.fused = (*step.fused, "Add" if after.op == "Sum" else after.op)
    draft.absorb(step, after)


def add_residuals(draft: Draft, fusions: Fusions) -> None:
    """Convolutions in the plain layout that have a bias add a residual of the same shape, then an activation."""
    if "ConvResidual" not in fusions.patterns:
        return
    for step in [step for step in draft.of("Conv") if step.layout == "nchw"]:
        total = draft.only_reader(step.outputs[0], "Add")
        if total is None or total.layout != "nchw" or step.index not in draft.steps:
            continue
        candidates = [writer for value in total.inputs if (writer := draft.writer.get(value)) is not None]
        conv = next((c for c in sorted(candidates, key=lambda c: c.index) if _takes_residual(draft, c, total)), None)
        if conv is None or len({draft.shape(value) for value in total.inputs}) != 1 or len(draft.shape(total.outputs[0])) != 4:
            continue
        draft.set_inputs(conv, [*conv.inputs, draft.other(total, conv.outputs[0])])
        _absorb(draft, conv, total)
        after = draft.only_reader(conv.outputs[0])
        if after is not None and after.op in fusions.conv_activations:
            _absorb(draft, conv, after)


def _takes_residual(draft: Draft, step: Step, total: Step) -> bool:
    plain = step.op == "Conv" and step.layout == "nchw" and not step.fused and len(step.inputs) == 3
    return plain and draft.only_reader(step.outputs[0]) is total


def block(draft: Draft, fusions: Fusions) -> None:
    """Brings a draft into the blocked layout and adds the re-orders that it needs."""
    if fusions.block > 1:
        _Blocking(draft, fusions).run()


class _Blocking:
    """Walks the steps in order.

    Attributes:
        uses: of every blocked value how often it was read when it was made; the network returning it counts.
        left: how many of these reads are still in the plain layout.
    """

    def __init__(self, draft: Draft, fusions: Fusions) -> None:
        self.draft = draft
        self.fusions = fusions
        self.layout = f"nchwc{fusions.block}"
        self.uses: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.reordered: dict[str, str] = {}
        self.from_nhwc: Step | None = None

    def run(self) -> None:
        for step in self.draft.ordered():
            if step.index in self.draft.steps:
                self.visit(step)
        for value, left in self.left.items():
            if left > 0:
                self._reorder_output(value)

    def blocked(self, value: str) -> bool:
        return value in self.left

    def visit(self, step: Step) -> None:
        if step.op == "Transpose":
            self._note_transpose(step)
        if step.op == "Conv":
            self._conv(step)
        elif step.op in POOLS:
            self._pool(step)
        elif all(self.blocked(value) or value not in self.draft.writer for value in step.inputs):
            self._follow(step)

    def _follow(self, step: Step) -> None:
        """A step that reads nothing plain which another step writes."""
        op, known = step.op, self.fusions.patterns
        if op in ("Add", "Sum"):
            self._binary(step)
        elif op == "Mul":
            if not ("BlockedScale" in known and self._scale(step)):
                self._binary(step)
        elif op == "Concat":
            self._concat(step)
        elif op in self.fusions.blocked_unary:
            self._unary(step)
        elif op == "BatchNormalization" and self.blocked(step.inputs[0]):
            self._take(step, step.inputs[0])
            step.layout = self.layout
            self._made(step)
        elif op == "Transpose" and "BlockedTranspose" in known and self.blocked(step.inputs[0]) and step.attr("perm") == _TO_NHWC:
            self._take(step, step.inputs[0])
            step.op, step.attrs, step.layout = "ReorderOutput", attributes(channels_last=1), self.layout
            step.cause = self.draft.writer[step.inputs[0]]  # whose edge it stands at: re-orders have no nodes of their own
            step.cause.nodes += step.nodes
            step.nodes = []
        elif op == "Resize" and "BlockedResize" in known and self.blocked(step.inputs[0]) and self._upsamples(step):
            self._take(step, step.inputs[0])
            step.op, step.layout = "Upsample", self.layout
            self._made(step)
        elif op in WHOLE_POOLS:
            self._pool(step)

    # ---- bookkeeping

    def _made(self, step: Step) -> None:
        value = step.outputs[0]
        self.uses[value] = self.left[value] = self.draft.edges(value) + (value in self.draft.outputs)

    def _take(self, step: Step, *values: str) -> None:
        for value in values:
            if self.blocked(value):
                self.left[value] -= 1

    def _read(self, step: Step) -> None:
        """Lets a step read its first input in blocks."""
        value = step.inputs[0]
        if self.blocked(value):
            self.left[value] -= 1
        else:
            self._reorder_input(step, value)

    def _reorder_input(self, step: Step, value: str) -> None:
        draft = self.draft
        if value not in self.reordered:
            turned = draft.fresh(value, draft.specs[value])
            move = draft.add("ReorderInput", [value], [turned])
            move.layout, move.cause = self.layout, step
            self.reordered[value] = turned
            if self.from_nhwc is not None and self.from_nhwc.outputs[0] == value:
                before, self.from_nhwc = self.from_nhwc, None
                draft.set_input(move, 0, before.inputs[0])
                move.attrs = attributes(channels_last=1)
                draft.set_input(step, 0, turned)
                draft.remove(before, step)
                return
        draft.set_input(step, 0, self.reordered[value])

    def _reorder_output(self, value: str) -> None:
        draft = self.draft
        writer = draft.writer[value]
        inner = draft.fresh(value, draft.specs[value])
        plain = [r for r in draft.readers.get(value, ()) if not self._reads_blocks(r, value)]
        draft.set_output(writer, writer.outputs.index(value), inner)
        for reader in [r for r in draft.readers.get(value, ()) if r not in plain]:
            for position, read in enumerate(reader.inputs):
                if read == value:
                    draft.set_input(reader, position, inner)
        move = draft.add("ReorderOutput", [inner], [value])
        move.layout = self.layout
        move.cause = min(plain, key=lambda reader: reader.index) if plain else writer

    def _reads_blocks(self, reader: Step, value: str) -> bool:
        return reader.layout == self.layout and not (reader.op == "Conv" and reader.inputs[0] == value and self._direct(reader))

    # ---- steps

    def _direct(self, step: Step) -> bool:
        """Whether a convolution reads its few channels in the plain layout."""
        return step.attr("group") == 1 and self.draft.shape(step.inputs[1])[1] < self.fusions.block

    def _fits(self, step: Step) -> bool:
        draft, size = self.draft, self.fusions.block
        if any(value not in draft.constants for value in step.inputs[1:]) or draft.specs[step.inputs[0]].dtype != "float32":
            return False
        shape = draft.shape(step.inputs[1])
        if len(shape) != 4:
            return False
        out, inside = shape[:2]
        group = step.attr("group")
        if group == 1:
            return inside < size or inside % REORDER_UNIT == 0
        if out % REORDER_UNIT:
            return False
        return (inside == 1 and out == group) or (inside % size == 0 and (out // group) % size == 0)

    def _conv(self, step: Step) -> None:
        if not self._fits(step):
            return
        if not self._direct(step):
            self._read(step)
        step.layout = self.layout
        self._made(step)

    def _pool(self, step: Step) -> None:
        shape = self.draft.shape(step.inputs[0])
        if len(step.outputs) > 1 or len(shape) != 4 or shape[1] % self.fusions.block or self.draft.specs[step.inputs[0]].dtype != "float32":
            return
        if step.op == "AveragePool" and step.attr("ceil_mode"):
            return  # an average over pads that counts them, but not those that ceil_mode adds
        self._read(step)
        step.layout = self.layout
        self._made(step)

    def _free_conv(self, value: str, uses: int = 1) -> Step | None:
        """The blocked convolution that writes a value, if nobody else wants it and it has no activation yet."""
        writer = self.draft.writer.get(value)
        if writer is None or writer.layout != self.layout or writer.op not in ("Conv", "BatchNormalization", "Mul"):
            return None
        if writer.op == "Mul" and self.draft.constant_of(writer) is None:
            return None  # not a factor for each channel
        if self.uses[value] != uses or any(op != "Add" for op in writer.fused):
            return None
        return writer

    def _binary(self, step: Step) -> None:
        draft = self.draft
        if not all(self.blocked(value) for value in step.inputs):
            return
        shapes = {draft.shape(value) for value in step.inputs}
        if len(shapes) > 1:
            if step.op != "Mul" and len({shape[1] for shape in shapes}) == 1:
                self._split_channels(step)
            return
        self._take(step, *step.inputs)
        if step.op != "Mul" and len(step.inputs) == 2:
            for value in step.inputs:
                conv = self._free_conv(value)
                if conv is not None and "Add" not in conv.fused:
                    draft.set_inputs(conv, [*conv.inputs, draft.other(step, value)])
                    self._absorb(conv, step)
                    return
        step.layout = self.layout
        self._made(step)

    def _absorb(self, conv: Step, step: Step) -> None:
        old = conv.outputs[0]
        _absorb(self.draft, conv, step)
        del self.uses[old], self.left[old]
        self._made(conv)

    def _split_channels(self, step: Step) -> None:
        """Blocked values of different sizes are added with the blocks as an axis of their own."""
        draft, size = self.draft, self.fusions.block
        for position, value in enumerate(list(step.inputs)):
            spec = draft.specs[value]
            shape = (spec.shape[0], -(-spec.shape[1] // size), *spec.shape[2:], size)
            apart = draft.fresh(value, TensorSpec(shape, spec.dtype))
            draft.add("Reshape", [value], [apart]).cause = step
            draft.writer[apart].layout = self.layout
            draft.set_input(step, position, apart)
            self._take(step, value)
        value = step.outputs[0]
        apart = draft.fresh(value, draft.specs[value])
        draft.set_output(step, 0, apart)
        together = draft.add("Reshape", [apart], [value])
        together.cause, together.layout, step.layout = step, self.layout, self.layout
        self._made(together)

    def _scale(self, step: Step) -> bool:
        """A factor for each channel is a depthwise convolution."""
        constant = self.draft.constant_of(step)
        if constant is None:
            return False
        value = self.draft.other(step, constant)
        if not self.blocked(value):
            return False
        channels = self.draft.shape(value)[1]
        if self.draft.shape(constant) not in ((1, channels, 1, 1), (channels, 1, 1)):
            return False
        self._take(step, value)
        step.layout = self.layout
        self._made(step)
        return True

    def _concat(self, step: Step) -> None:
        values = step.inputs
        if step.attr("axis") != 1 or not all(self.blocked(v) and self.draft.shape(v)[1] % self.fusions.block == 0 for v in values):
            return
        self._take(step, *values)
        step.layout = self.layout
        self._made(step)

    def _unary(self, step: Step) -> None:
        value = step.inputs[0]
        if not self.blocked(value) or len(step.inputs) > 1:
            return
        self._take(step, value)
        conv = self._free_conv(value)
        if conv is not None and self._absorbable(step):
            self._absorb(conv, step)
            return
        step.layout = self.layout
        self._made(step)
        if step.op == "HardSigmoid" and "HardSwish" in self.fusions.blocked_activations:
            self._hard_swish(step, value)

    def _absorbable(self, step: Step) -> bool:
        late: Set[str] = self.fusions.blocked_activations
        return step.op in late

    def _hard_swish(self, step: Step, value: str) -> None:
        """Where x HardSigmoid(x) has a slope of 1/6 it is a HardSwish, which a convolution absorbs."""
        draft = self.draft
        mul = draft.only_reader(step.outputs[0], "Mul")
        conv = self._free_conv(value, uses=2)
        if mul is None or conv is None or draft.other(mul, step.outputs[0]) != value or mul.outputs[0] in draft.outputs:
            return
        if abs(step.attr("alpha") - SIXTH) > 1e-5 or step.attr("beta") != 0.5:
            return
        del self.uses[step.outputs[0]], self.left[step.outputs[0]]
        nodes = list(mul.nodes)
        draft.remove(step, conv)
        draft.set_inputs(mul, [value])
        mul.op, mul.nodes = "HardSwish", nodes
        self._absorb(conv, mul)

    # ---- layouts of images

    def _note_transpose(self, step: Step) -> None:
        value = step.outputs[0]
        if step.attr("perm") == _TO_NCHW and value not in self.draft.outputs and self.draft.edges(value) == 1:
            self.from_nhwc = step if "BlockedTranspose" in self.fusions.patterns else None

    def _upsamples(self, step: Step) -> bool:
        """Whether a Resize enlarges images by whole numbers, in a way that the blocked kernel knows."""
        before, after = (self.draft.shape(value) for value in (step.inputs[0], step.outputs[0]))
        mode, coordinates = step.attr("mode"), step.attr("coordinate_transformation_mode")
        if mode == "nearest":
            known = coordinates == "asymmetric" and step.attr("nearest_mode") == "floor"
        else:
            known = mode == "linear" and coordinates in ("asymmetric", "align_corners", "half_pixel")
        scales = step.attr("scales") or tuple(a / b for a, b in zip(after, before, strict=True))
        return known and scales[:2] == (1.0, 1.0) and all(scale >= 1 and scale == int(scale) for scale in scales)
