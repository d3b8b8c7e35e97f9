"""Slices that ONNX Runtime computes together: those that cut a value into parts, and those that take every other row and column."""

from __future__ import annotations

from hwnas.ir.node import TensorSpec
from hwnas.runtimes.ort_draft import Draft, Step, attributes


def slices_to_split(draft: Draft, step: Step) -> bool:
    """Slices and single picks that cut all of a value along one axis are one Split; picks then lose the axis."""
    if len(step.outputs) != 1 or draft.edges(step.outputs[0]) < 2:
        return False
    return split_readers(draft, step.outputs[0])


def split_readers(draft: Draft, value: str) -> bool:
    """The same for the readers of any value."""
    readers = [r for r in draft.readers.get(value, ()) if r.op in ("Gather", "Slice") and r.inputs[0] == value]
    cuts = [_cut(draft, reader) for reader in readers]
    if len(cuts) < 2 or any(cut is None for cut in cuts):
        return False
    whole = sorted((cut, i) for i, cut in enumerate(cuts) if cut is not None)
    axis, shape = whole[0][0][0], draft.shape(value)
    ends = [cut[2] for cut, _ in whole]
    if any(cut[0] != axis for cut, _ in whole) or [cut[1] for cut, _ in whole] != [0, *ends[:-1]] or ends[-1] != shape[axis]:
        return False
    parts, written, nodes = tuple(cut[2] - cut[1] for cut, _ in whole), [], []
    views: list[tuple[str, str]] = []
    for size, (_, i) in zip(parts, whole, strict=True):
        reader = readers[i]
        out, part = reader.outputs[0], (*shape[:axis], size, *shape[axis + 1 :])
        nodes.extend(reader.nodes)
        draft.remove(reader)
        if draft.shape(out) != part:
            views.append((draft.fresh(out, TensorSpec(part, draft.specs[out].dtype)), out))
            out = views[-1][0]
        written.append(out)
    split = draft.add("Split", [value], written, attributes(axis=axis, split=parts), nodes)
    for part_value, out in views:
        draft.add("Squeeze", [part_value], [out]).cause = split
    return True


def _cut(draft: Draft, step: Step) -> tuple[int, int, int] | None:
    """Axis, begin and end of what a Slice of one axis or a Gather of one index takes."""
    shape = draft.shape(step.inputs[0])
    if step.op == "Slice":
        axes, starts, ends = step.attr("axes"), step.attr("starts"), step.attr("ends")
        if len(axes) != 1 or step.attr("steps") != (1,):
            return None
        begin, end, _ = slice(starts[0], ends[0]).indices(shape[axes[0]])
        return (axes[0], begin, end) if begin < end else None
    index, axis = draft.scalar(step.inputs[1]), step.attr("axis")
    if index is None or draft.specs[step.inputs[1]].dtype != "int64" or len(draft.shape(step.inputs[1])) > 1:
        return None
    begin = int(index) % shape[axis]
    return axis, begin, begin + 1


def space_to_depth(draft: Draft, step: Step) -> bool:
    """Four slices that take every other row and column, concatenated along the channels."""
    slices = [draft.before(value, "Slice") for value in step.inputs]
    if len(slices) != 4 or step.attr("axis") != 1 or any(cut is None or draft.edges(cut.outputs[0]) != 1 for cut in slices):
        return False
    found = [cut for cut in slices if cut is not None]
    root = found[0].inputs[0]
    phases = [_phase(draft, cut) for cut in found]
    if len(draft.shape(root)) != 4 or any(cut.inputs[0] != root for cut in found) or set(phases) != {(0, 0), (0, 1), (1, 0), (1, 1)}:
        return False
    if phases == [(0, 0), (0, 1), (1, 0), (1, 1)]:
        draft.replace([*found, step], "SpaceToDepth", [root], attributes(blocksize=2))
        return True
    middle = draft.fresh(step.outputs[0], draft.specs[step.outputs[0]])
    indices = draft.constant(root, draft.shape(middle)[1:2])
    draft.replace(found, "SpaceToDepth", [root], attributes(blocksize=2), output=middle)
    draft.replace([step], "Gather", [middle, indices], attributes(axis=1))
    return True


def _phase(draft: Draft, step: Step) -> tuple[int, int] | None:
    """The row and the column at which a slice by twos begins."""
    shape = draft.shape(step.inputs[0])
    cuts = {a: (s, e, n) for a, s, e, n in zip(*(step.attr(key) for key in ("axes", "starts", "ends", "steps")), strict=True)}
    begins = []
    for axis in (2, 3):
        start, end, by = cuts.pop(axis, (0, 0, 0))
        if by != 2 or start not in (0, 1) or end < shape[axis]:
            return None
        begins.append(start)
    whole = all(start == 0 and end >= shape[axis] and by == 1 for axis, (start, end, by) in cuts.items())
    return (begins[0], begins[1]) if whole else None
