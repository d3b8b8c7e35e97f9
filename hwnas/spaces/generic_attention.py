"""What token families of carrier networks share: attention in the forms that exporters write, and layers around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod, sqrt

from hwnas.ir import Graph
from hwnas.spaces.generic_parts import Sketch, scalar

HEAD_SIZES = (16, 24, 32, 32, 48, 64, 64)
HEADS_FIRST, KEYS_LAST = (0, 2, 1, 3), (0, 2, 3, 1)
SCALINGS = ("scores", "scores-mul", "both", "query", "cosine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a network writes its attention.

    Attributes:
        parts: queries, keys and values from three linear layers (`apart`), or from one that is cut by Gather (`joined`) or Split (`split`).
        scaling: what is scaled: the scores by Div or Mul, queries and keys alike by a root, the queries, or both to unit length.
        guarded: what a Softmax makes of rows without a number is replaced, as newer exporters do.
        biased: whether the linear layers of queries, keys and values have biases.
        einsum: whether products are written as Einsum.
    """

    parts: str
    scaling: str
    guarded: bool
    biased: bool
    einsum: bool

    @classmethod
    def drawn(cls, s: Sketch) -> Form:
        """Any of them."""
        return cls(
            parts=s.pick("apart", "apart", "joined", "split"),
            scaling=s.pick(*SCALINGS[:4], *SCALINGS),
            guarded=s.chance(0.15),
            biased=s.chance(0.7),
            einsum=s.chance(0.1),
        )

    def product(self, s: Sketch, a: str, c: str) -> str:
        """Matrices [N, heads, ., .] multiplied."""
        if not self.einsum:
            return s.product(a, c)
        x = s.b.op("Einsum", [a, c], equation="bhij,bhjk->bhik")
        s.spend(2 * prod(s.b.shape(x)) * s.b.shape(a)[-1], x)
        return x


def dimensions(s: Sketch, wanted: float) -> tuple[int, int]:
    """Number of heads, and a number of channels nearby that they divide."""
    size = s.pick(*HEAD_SIZES)
    heads = max(1, round(wanted / size))
    return heads, heads * size


def cut(s: Sketch, x: str, heads: int, key: int, value: int, parts: str, linear: Callable[[str, int], str]) -> tuple[str, str, str]:
    """Queries [N, heads, tokens, key], keys [N, heads, key, tokens] and values [N, heads, tokens, value] of tokens."""
    b, (n, count, _) = s.b, s.b.shape(x)
    if parts == "joined" and key == value:
        y = b.op("Reshape", [linear(x, 3 * heads * key)], shape=(n, count, 3, heads, key))
        y = b.op("Transpose", [y], perm=(2, 0, 3, 1, 4))
        s.spend(0, y)
        q, k, v = (s.take(y, i, 0) for i in range(3))
        return q, b.op("Transpose", [k], perm=(0, 1, 3, 2)), v
    sizes = (key, key, value)
    split: Sequence[str]
    if parts == "apart":
        split = [b.op("Reshape", [linear(x, heads * size)], shape=(n, count, heads, size)) for size in sizes]
    else:
        y = b.op("Reshape", [linear(x, heads * sum(sizes))], shape=(n, count, heads, sum(sizes)))
        split = b.ops("Split", [y], outputs=3, axis=3, split=sizes)
    q, k, v = (b.op("Transpose", [part], perm=perm) for part, perm in zip(split, (HEADS_FIRST, KEYS_LAST, HEADS_FIRST), strict=True))
    s.spend(0, q, k, v)
    return q, k, v


def unit_length(s: Sketch, x: str, axis: int) -> str:
    """Vectors along an axis divided by their lengths."""
    b = s.b
    length = b.op("Clip", [b.op("ReduceL2", [x], axes=(axis,), keepdims=1)], min=1e-12)
    s.spend(0, x, x)
    return b.op("Div", [x, b.op("Expand", [length], shape=b.shape(x))])


def attended(s: Sketch, q: str, k: str, v: str, form: Form, *, bias: str | None = None) -> str:
    """Values mixed by attention, the heads side by side again: [N, tokens, heads value]."""
    b, key = s.b, s.b.shape(q)[-1]
    if form.scaling == "both":
        q, k = (b.op("Mul", [part, b.constant("root", scalar(key**-0.25))]) for part in (q, k))
    elif form.scaling == "query":
        q = b.op("Mul", [q, b.constant("scale", scalar(key**-0.5))])
    elif form.scaling == "cosine":
        q, k = unit_length(s, q, 3), unit_length(s, k, 2)
    scores = form.product(s, q, k)
    if form.scaling == "scores":
        scores = b.op("Div", [scores, b.constant("root", scalar(sqrt(key)))])
    elif form.scaling == "scores-mul":
        scores = b.op("Mul", [scores, b.constant("scale", scalar(key**-0.5))])
    elif form.scaling == "cosine":
        scores = b.op("Mul", [scores, b.weight("temperature", (b.shape(q)[1], 1, 1), "ones")])
    if bias is not None:
        scores = s.add(scores, bias)
    weights = b.op("Softmax", [scores], axis=-1)
    s.spend(0, scores, scores)
    if form.guarded:
        weights = b.op("Where", [b.op("IsNaN", [weights]), b.constant("c", scalar(0)), weights])
        s.spend(0, weights)
    y = b.op("Transpose", [form.product(s, weights, v)], perm=HEADS_FIRST)
    s.spend(0, y)
    n, count, heads, value = b.shape(y)
    return b.op("Reshape", [y], shape=(n, count, heads * value))


def attention(s: Sketch, x: str, heads: int, form: Form, *, key: int = 0, bias: str | None = None) -> str:
    """Multi-head attention among tokens [N, tokens, C].

    Args:
        s: the sketch.
        x: tokens.
        heads: number of heads.
        form: how it is written.
        key: channels of a head; by default its share of C.
        bias: a constant that broadcasts to [N, heads, tokens, tokens] and is added to the scores.
    """
    width = s.b.shape(x)[-1]
    key = key or width // heads
    q, k, v = cut(s, x, heads, key, key, form.parts, lambda x, features: s.linear(x, features, bias=form.biased))
    return s.linear(attended(s, q, k, v, form, bias=bias), width)


class Encoder:
    """Residual layers of something that mixes tokens and of a small network each; sizes inside differ from layer to layer.

    Args:
        s: the sketch.
        normalise: the normalisation of tokens; by default `Sketch.layer_norm`.
    """

    def __init__(self, s: Sketch, normalise: Callable[[str], str] | None = None) -> None:
        self.s = s
        self.form = Form.drawn(s)
        self.normalise = normalise or s.layer_norm
        self._before = s.chance(0.75)
        self._scaled = s.chance(0.2)
        self._gated = s.chance(0.15)

    @property
    def normalised_first(self) -> bool:
        """Whether a layer normalises what it reads, and not what it writes."""
        return self._before

    def mlp(self, x: str) -> str:
        """Two linear layers with an activation between, or three of which one is a gate."""
        s, width = self.s, self.s.b.shape(x)[-1]
        hidden = s.round(width * s.pick(1.3, 2, 2.7, 3, 4, 4))
        y = s.act(s.linear(x, hidden, bias=not self._gated))
        s.spend(0, y, y)
        if self._gated:
            y = s.b.op("Mul", [y, s.linear(x, hidden, bias=False)])
        return s.linear(y, width, bias=not self._gated)

    def layer(self, x: str, mix: Callable[[str], str], mlp: Callable[[str], str] | None = None) -> str:
        """A residual layer of something that mixes tokens, and one of the small network."""
        s = self.s
        for part in (mix, mlp or self.mlp):
            y = part(self.normalise(x) if self._before else x)
            if self._scaled:
                y = s.b.op("Mul", [y, s.b.weight("gamma", s.b.shape(y)[-1:], "ones")])
            x = s.add(y, x)
            x = x if self._before else self.normalise(x)
        return x

    def attend(self, x: str, heads: int, bias: str | None = None) -> str:
        """`layer` with attention, now and then of other heads."""
        key = self.s.b.shape(x)[-1] // heads
        if bias is None and self.s.chance(0.4):
            heads, key = max(1, int(heads * self.s.pick(0.5, 1, 1.5))), self.s.pick(*HEAD_SIZES)
        return self.layer(x, lambda y: attention(self.s, y, heads, self.form, key=key, bias=bias))


def affordable(s: Sketch, tokens: float, wanted: float, *, layers: float = 2) -> float:
    """Channels of a transformer of at least so many layers on so many tokens."""
    # a layer takes about 24 operations for each token and square of channels
    return min(wanted, sqrt(s.limit / (24 * layers * tokens)))


def patched(s: Sketch, x: str, width: int, patch: int) -> str:
    """An image cut into patches, each a token."""
    b = s.b
    weight = b.weight("w", (width, b.shape(x)[1], patch, patch))
    x = b.op("Conv", [x, weight, b.weight("b", (width,), "zeros")], strides=(patch, patch))
    s.spend(2 * s.batch * prod(b.shape(x)[2:]) * prod(b.shape(weight)), x)
    return s.tokens(x)


def head_of(s: Sketch, x: str, *, first: bool) -> Graph:
    """From tokens [N, tokens, C] to class scores: of the first token, or of their mean."""
    if s.chance(0.8):
        x = s.layer_norm(x)
    x = s.take(x, 0, 1) if first else s.b.op("ReduceMean", [x], axes=(1,), keepdims=0)
    if s.chance(0.2):
        x = s.act(s.b.linear(x, s.b.shape(x)[1]), "tanh")
    return s.finish(s.b.linear(x, s.classes))
