"""Follows TensorRT's objects through source code and holds every use against an introspected API.

A value is known to be TensorRT's by its annotation (`config: tensorrt.IBuilderConfig`), by being the module itself (a parameter named
`trt`), or by where it comes from: what a known method returns, a known property holds, an annotated function of the same file gives.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTRACTS = Path(__file__).parent / "contract"
BOTH = ("tensorrt-10.16", "tensorrt-11.4", "tensorrt_rtx-1.7")  # code for either flavour has to hold everywhere
RTX = ("tensorrt_rtx-1.7",)  # code whose annotations name `tensorrt_rtx`
MODULES = ("tensorrt", "tensorrt_rtx")
_MODULE_NAME = "trt"
_ALIASES = {"IParserError": "ParserError"}  # pybind11 gives the C++ name here
_OF_ANY_MODULE = ("__name__", "__version__")
_OF_ANY_ENUM = ("__members__", "name", "value")


@dataclass(frozen=True)
class Type:
    """What is known of an expression: `module`, `class`, `object`, `enum`, `member`, `method` or `list` (of `name`s)."""

    kind: str
    name: str = ""
    owner: str = ""


@dataclass
class Api:
    """One version's API."""

    version: str
    enums: Mapping[str, list[str]]
    classes: Mapping[str, Mapping[str, str]]

    @classmethod
    def load(cls, name: str) -> Api:
        """The contract in that file."""
        plain = json.loads((CONTRACTS / f"{name}.json").read_text())
        return cls(name, plain["enums"], plain["classes"])

    def named(self, text: str) -> Type | None:
        """The type that an annotation or a signature names."""
        name = _ALIASES.get(text, text)
        return Type("object", name) if name in self.classes else Type("member", name) if name in self.enums else None


@dataclass
class Check:
    """What was found in a file: complaints, and every name of TensorRT that was followed."""

    complaints: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)


def uses_tensorrt(source: str) -> bool:
    """Whether a file imports TensorRT, in whatever way, or handles its module."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] in MODULES for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            return True
        if isinstance(node, ast.arg | ast.Name) and (node.arg if isinstance(node, ast.arg) else node.id) == _MODULE_NAME:
            return True
    return False


def check(source: str) -> Check:
    """Holds a file against every contract that its functions are for."""
    found = Check()
    tree = ast.parse(source)
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for function in _outermost(tree):
        names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        for contract in RTX if "tensorrt_rtx" in names else BOTH:
            _Walk(Api.load(contract), functions, found).function(function)
    return found


def _outermost(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node
        else:
            yield from _outermost(node)


class _Walk(ast.NodeVisitor):
    """Goes through one function with one API; the types of its variables are those of their last assignment."""

    def __init__(self, api: Api, functions: Mapping[str, ast.FunctionDef], found: Check) -> None:
        self._api = api
        self._functions = functions
        self._found = found
        self._types: dict[str, Any] = {}

    def function(self, node: ast.FunctionDef) -> None:
        """Checks a function with what its annotations say."""
        for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            self._types[arg.arg] = Type("module") if arg.arg == _MODULE_NAME else self._annotated(arg.annotation)
        for statement in node.body:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = [self.type_of(base) for base in node.bases]
        for base in bases:
            if isinstance(base, Type) and base.kind == "class":
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("__"):
                        self._overrides(base.name, method)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self.type_of(node.value)
        for target in node.targets:
            self._assign(target, value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        value = self.type_of(node.value) if node.value else None
        self._assign(node.target, self._annotated(node.annotation) or value)

    def visit_For(self, node: ast.For) -> None:
        self._assign(node.target, _element(self.type_of(node.iter)))
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def visit_Expr(self, node: ast.Expr) -> None:
        self.type_of(node.value)

    def generic_visit(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.type_of(child)
            else:
                self.visit(child)

    def type_of(self, node: ast.expr) -> Any:
        """What is known of an expression, checking all that it uses."""
        if isinstance(node, ast.Name):
            return self._types.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
            self._comprehend(node.generators)
            element = self.type_of(node.elt)
            return Type("list", element.name) if isinstance(element, Type) and element.kind == "object" else None
        if isinstance(node, ast.DictComp):
            self._comprehend(node.generators)
            self.type_of(node.key)
            self.type_of(node.value)
            return None
        if isinstance(node, ast.Tuple):
            return tuple(self.type_of(element) for element in node.elts)
        types = [self.type_of(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        return next((found for found in types[1:] if found), None) if isinstance(node, ast.IfExp | ast.BoolOp) else None

    def _comprehend(self, generators: list[ast.comprehension]) -> None:
        for generator in generators:
            self._assign(generator.target, _element(self.type_of(generator.iter)))
            for condition in generator.ifs:
                self.type_of(condition)

    def _assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self._types[target.id] = value
        elif isinstance(target, ast.Tuple):
            values = value if isinstance(value, tuple) and len(value) == len(target.elts) else [None] * len(target.elts)
            for element, part in zip(target.elts, values, strict=True):
                self._assign(element, part)
        else:
            self.type_of(target)

    def _annotated(self, annotation: ast.expr | None) -> Any:
        if annotation is None:
            return None
        if isinstance(annotation, ast.Subscript):
            parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
            types = [self._annotated(part) for part in parts]
            outer = ast.unparse(annotation.value)
            if outer == "tuple":
                return tuple(types)
            return Type("list", types[0].name) if isinstance(types[0], Type) and outer in ("list", "Sequence", "Iterable") else None
        if isinstance(annotation, ast.BinOp):
            return self._annotated(annotation.left) or self._annotated(annotation.right)
        text = ast.unparse(annotation)
        for module in MODULES:
            if text.startswith(f"{module}."):
                name = text.removeprefix(f"{module}.")
                return self._api.named(name) or self._complain(annotation, f"no class {name}")
        return None

    def _attribute(self, node: ast.Attribute) -> Any:
        owner = self.type_of(node.value)
        if not isinstance(owner, Type):
            return None
        if owner.kind == "module":
            return self._of_module(node)
        if owner.kind in ("enum", "member"):
            known = owner.kind == "enum" and node.attr in self._api.enums[owner.name]
            if not known and node.attr not in _OF_ANY_ENUM:
                return self._complain(node, f"{owner.name} has no member {node.attr}")
            self._found.used.add(f"{owner.name}.{node.attr}")
            return Type("member", owner.name) if known else None
        if owner.kind not in ("class", "object"):
            return None
        nested = f"{owner.name}.{node.attr}"
        self._found.used.add(nested)
        if nested in self._api.enums:
            return Type("enum", nested)
        member = self._api.classes[owner.name].get(node.attr)
        if member is None:
            return self._complain(node, f"{owner.name} has no {node.attr}")
        if member.startswith("property"):
            return self._api.named(member.rpartition("-> ")[2])
        return Type("method", node.attr, owner.name)

    def _of_module(self, node: ast.Attribute) -> Any:
        if node.attr in _OF_ANY_MODULE:
            return None
        self._found.used.add(node.attr)
        if node.attr in self._api.classes:
            return Type("class", node.attr)
        if node.attr in self._api.enums:
            return Type("enum", node.attr)
        return self._complain(node, f"no {node.attr}")

    def _call(self, node: ast.Call) -> Any:
        called = self.type_of(node.func)
        for value in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.type_of(value)
        if isinstance(called, Type) and called.kind == "class":
            self._fits(node, called.name, "__init__", 0)
            return Type("object", called.name)
        if isinstance(called, Type) and called.kind == "method":
            unbound = called.name == "__init__"  # `trt.ILogger.__init__(self)`
            self._fits(node, called.owner, called.name, int(unbound))
            signature = self._api.classes[called.owner][called.name]
            return self._api.named(signature.split("; ")[0].rpartition("-> ")[2])
        if isinstance(node.func, ast.Name) and node.func.id in self._functions:
            return self._annotated(self._functions[node.func.id].returns)
        return None

    def _fits(self, node: ast.Call, owner: str, method: str, skipped: int) -> None:
        """Whether a call has the arguments that some signature takes."""
        signature = self._api.classes[owner][method]
        given = len(node.args) - skipped
        names = {keyword.arg for keyword in node.keywords}
        for parameters in (_parameters(overload) for overload in signature.split("; ")):
            needed = [name for name, optional in parameters if not optional][given:]
            known = {name for name, _ in parameters[given:]}
            if given <= len(parameters) and names <= known and names.issuperset(needed):
                return
        self._complain(node, f"{owner}.{method} takes {signature}, not {ast.unparse(node)}")

    def _overrides(self, owner: str, method: ast.FunctionDef) -> None:
        """Whether a method that TensorRT calls has the parameters that it is called with."""
        signature = self._api.classes[owner].get(method.name)
        self._found.used.add(f"{owner}.{method.name}")
        names = [arg.arg for arg in method.args.args[1:]]
        if signature is None or names != [name for name, _ in _parameters(signature)]:
            self._complain(method, f"{owner}.{method.name} is {signature}, not ({', '.join(names)})")

    def _complain(self, node: ast.AST, what: str) -> None:
        self._found.complaints.append(f"line {getattr(node, 'lineno', 0)}: {self._api.version}: {what}")


def _element(found: Any) -> Any:
    return Type("object", found.name) if isinstance(found, Type) and found.kind == "list" else None


def _parameters(signature: str) -> list[tuple[str, bool]]:
    """Names of a signature's parameters, and whether each has a default."""
    inside = re.sub(r"<[^<>]*>|\[[^\[\]]*\]", "", signature.rpartition(" -> ")[0])[1:-1]
    return [(part.split(":")[0].strip(), "=" in part) for part in inside.split(",") if part.strip()]
