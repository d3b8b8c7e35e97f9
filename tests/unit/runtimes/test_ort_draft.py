"""A network while it is rewritten."""

from __future__ import annotations

import pytest
from drafts import drafted, number, ops

from hwnas.ir import GraphBuilder, TensorSpec
from hwnas.runtimes.ort_draft import Draft, attributes


def diamond() -> Draft:
    """Relu -> (Elu, Neg) -> Add -> Tanh; the network returns the Neg as well."""
    b = GraphBuilder("diamond")
    x = b.op("Relu", [b.input("x", (2, 3))])
    left, right = b.op("Elu", [x]), b.op("Neg", [x])
    return Draft(b.finish(b.op("Tanh", [b.op("Add", [left, right])]), right))


def test_who_reads_and_writes() -> None:
    """A value that several read, or that the network returns, has no only reader; one that is returned has nobody to be fused before."""
    draft = diamond()
    relu, elu, neg, add = draft.of("Relu", "Elu", "Neg", "Add")
    assert draft.readers[relu.outputs[0]] == [elu, neg]
    assert draft.edges(relu.outputs[0]) == 2
    assert draft.only_reader(relu.outputs[0]) is None
    assert draft.only_reader(elu.outputs[0], "Add") is add
    assert draft.only_reader(elu.outputs[0], "Mul") is None
    assert draft.only_reader(neg.outputs[0]) is None
    assert draft.before(elu.outputs[0], "Elu") is elu
    assert draft.before(neg.outputs[0], "Neg") is None
    assert draft.following(add, "Tanh") is draft.of("Tanh")[0]
    assert draft.following(None, "Tanh") is None


def test_constants() -> None:
    """A number is known where it is a constant of one element whose value needs no chance."""
    b = GraphBuilder("numbers")
    x = b.input("x", (2, 3))
    half, ones, drawn = number(b, 0.5), b.weight("ones", (1,), init="ones"), b.weight("drawn", (1,))
    y = b.op("Mul", [half, x])
    z = b.op("Add", [b.op("Mul", [b.op("Mul", [y, ones]), drawn]), x])
    draft = Draft(b.finish(z))
    mul, add = draft.of("Mul")[0], draft.of("Add")[0]
    assert (draft.scalar(half), draft.scalar(ones), draft.scalar(drawn), draft.scalar("x")) == (0.5, 1.0, None, None)
    assert draft.close(half, 0.50001)
    assert not draft.close(half, 0.51)
    assert (draft.constant_of(mul), draft.constant_of(add)) == (half, None)
    assert (draft.operand(mul, 0.5), draft.operand(mul, 1.0), draft.operand(add, 0.5)) == ("x", None, None)


def test_what_computes_constants_is_left_out() -> None:
    """The runtime folds it, whatever it is."""
    draft = drafted(lambda b, x: b.op("Add", [x, b.op("Neg", [b.weight("w", (8,))])]))
    assert [step.op for step in draft.ordered()] == ["Softsign", "Add", "Abs"]


def test_several_steps_become_one() -> None:
    """It computes the nodes of all, writes what the last wrote, and its readers see it."""
    draft = diamond()
    add, tanh = draft.of("Add", "Tanh")
    made = draft.replace([add, tanh], "AddTanh", add.inputs, attributes(b=1, a=2))
    assert made.nodes == ["add_0", "tanh_0"]
    assert made.attrs == (("a", 2), ("b", 1))
    assert draft.writer["tanh_0_out"] is made
    assert "add_0_out" not in draft.writer
    assert draft.only_reader("elu_0_out") is made
    assert not draft.given(made)
    assert {step.op for step in draft.ordered()} == {"Relu", "Elu", "Neg", "AddTanh"} == draft.ops()


def test_a_step_taken_out_leaves_its_nodes_to_another() -> None:
    """What reads it reads what it read, and counts its nodes."""
    draft = diamond()
    elu, add = draft.of("Elu", "Add")
    draft.bypass(elu)
    assert add.inputs == ["relu_0_out", "neg_0_out"]
    assert add.nodes == ["add_0", "elu_0"]
    assert draft.edges("relu_0_out") == 2


def test_a_step_absorbs_its_follower() -> None:
    """It writes what the follower wrote."""
    draft = diamond()
    add, tanh = draft.of("Add", "Tanh")
    draft.absorb(add, tanh)
    assert (add.nodes, add.outputs) == (["add_0", "tanh_0"], ["tanh_0_out"])
    assert draft.writer["tanh_0_out"] is add


def test_new_values_know_where_they_stem_from() -> None:
    """Their names are unique, and lead to a value of the graph through any number of others."""
    draft = diamond()
    spec = TensorSpec((3, 2))
    one, two = draft.fresh("elu_0_out", spec), draft.fresh("elu_0_out", spec)
    three = draft.fresh(one, spec)
    assert len({one, two, three, *draft.graph.specs}) == 3 + len(draft.graph.specs)
    assert [draft.origin(value) for value in (one, two, three, "x")] == ["elu_0_out"] * 3 + ["x"]
    assert draft.shape(three) == (3, 2)


def test_the_order_follows_every_change() -> None:
    """A step that comes to read a later one runs after it."""
    draft = diamond()
    elu, tanh = draft.of("Elu", "Tanh")
    before = draft.ordered()
    assert before.index(elu) < before.index(tanh)
    turned = draft.fresh("relu_0_out", draft.specs["relu_0_out"])
    draft.add("Late", ["relu_0_out"], [turned])
    draft.set_input(elu, 0, turned)
    order = [step.op for step in draft.ordered()]
    assert order.index("Late") < order.index("Elu") < order.index("Add")
    assert draft.of("Elu", "Late", ordered=True) == [*draft.of("Late"), elu]


def test_long_networks_need_no_deep_stack() -> None:
    """Thousands of steps in a row are walked."""
    b = GraphBuilder("long")
    x = b.input("x", (1, 2))
    for _ in range(3000):
        x = b.op("Neg", [x])
    assert len(Draft(b.finish(x)).ordered()) == 3000


def test_attributes_can_be_replaced() -> None:
    """Others stay."""
    draft = drafted(lambda b, x: b.op("ReduceMean", [x], axes=(1,)))
    (step,) = draft.of("ReduceMean")
    step.set(axes=(2,))
    assert (step.attr("axes"), step.attr("keepdims"), step.attr("none", 3)) == ((2,), 1, 3)
    assert ops(draft) == ["ReduceMean"]


@pytest.mark.parametrize("first", [0, 1])
def test_the_other_input(first: int) -> None:
    """Of a step of two inputs."""
    (add,) = diamond().of("Add")
    assert diamond().other(add, add.inputs[first]) == add.inputs[1 - first]
