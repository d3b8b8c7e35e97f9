from __future__ import annotations

from pathlib import Path

import pytest

from hwnas import spaces
from hwnas.errors import UsageError

SPACE = """\
from hwnas.ir import GraphBuilder
from hwnas.spaces import Gene, SearchSpace


class Tiny(SearchSpace):
    genes = (Gene("width", (8, 16)),)

    def __init__(self, num_classes=2):
        self.num_classes = num_classes

    def graph(self, genotype, *, batch=1):
        b = GraphBuilder(self.name)
        x = b.conv(b.input("x", (batch, 3, 8, 8)), self.decode(genotype)["width"])
        return b.finish(b.linear(b.op("Flatten", [b.op("GlobalAveragePool", [x])]), self.num_classes))
"""


def written(folder: Path, text: str) -> Path:
    """A user's file with this text."""
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_shipped_spaces_load_by_name() -> None:
    """All four, each under its own name."""
    assert {"mobilenet", "mobilenet-small", "resnet", "resnet-small"} <= set(spaces.names())
    assert all(spaces.load(name).name == name for name in spaces.names())


def test_the_number_of_classes_can_be_chosen() -> None:
    """For shipped spaces, and for a user's whose constructor takes it."""
    for name in ("mobilenet-small", "resnet-small"):
        space = spaces.load(name, num_classes=3)
        graph = space.graph(space.reference())
        assert graph.specs[graph.outputs[0]].shape == (1, 3) == (1, space.num_classes)


def test_an_unknown_name_gets_a_suggestion_and_the_list() -> None:
    """The message also says how one's own space is given."""
    said = r"no space 'mobilnet' \(did you mean 'mobilenet'\?\); there are generic, mobilenet, .*path.py:Class"
    with pytest.raises(UsageError, match=said):
        spaces.load("mobilnet")


def test_a_space_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`path.py:Class`, absolute or relative, is loaded, named after its class, and takes the number of classes."""
    path = written(tmp_path, SPACE)
    assert spaces.load(f"{path}:Tiny").name == "Tiny"
    monkeypatch.chdir(tmp_path)
    assert spaces.load("mine.py:Tiny", num_classes=4).num_classes == 4


def test_a_space_that_an_installed_package_registers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point of the group `hwnas.spaces` makes a name; a shipped name cannot be taken."""
    (tmp_path / "plugin_space.py").write_text(SPACE)
    info = tmp_path / "plugin_space-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-space\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[hwnas.spaces]\ntiny = plugin_space:Tiny\nresnet = plugin_space:Tiny\nlost = plugin_space:Lost\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "tiny" in spaces.names()
    assert spaces.load("tiny").name == "Tiny"
    assert spaces.load("resnet").name == "resnet"
    with pytest.raises(UsageError, match=r"space 'lost' \(plugin_space:Lost\) does not work: .*AttributeError"):
        spaces.load("lost")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_that_name\n", r"mine\.py, line 1: ModuleNotFoundError: No module named 'nothing_of_that_name'$"),
        ("x = 1\nclass Tiny(\n", r"mine\.py, line 2: SyntaxError: '\(' was never closed"),
        ("class Tiny:\n    def __init__(self):\n        1 / 0\n", r"mine\.py, line 3: ZeroDivisionError: division by zero$"),
        ("class Tiny:\n    pass\n", r"must be a subclass of hwnas\.spaces\.SearchSpace, and it made a Tiny$"),
        ("class Tine:\n    pass\n", r"has no class 'Tiny' \(did you mean 'Tine'\?\); it has Tine$"),
        ("", r"has no class 'Tiny'; it has none$"),
        (SPACE.replace('["width"]', '["depth"]'), r"mine\.py, line 13: KeyError: 'depth'$"),
        (SPACE.replace("(8, 16)", "()"), r"mine\.py, line 6: UsageError: gene 'width' needs at least one choice"),
        (
            SPACE.replace('"GlobalAveragePool"', '"GlobalPool"'),
            r"mine\.py, line 14: GraphError: node 'globalpool_0' \(GlobalPool\): operator",
        ),
        (
            SPACE.replace("self.num_classes)", "9)"),
            r"a network must end in one output of shape \[1, num_classes\] = \[1, 2\], got \[\(1, 9\)\]$",
        ),
        (SPACE.replace("def graph", "def draw"), r"TypeError: Can't instantiate abstract class Tiny"),
    ],
)
def test_a_broken_file_is_one_line_that_says_where(tmp_path: Path, text: str, message: str) -> None:
    """The message names the file and, where the user's code raised, its line and the exception."""
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=message) as caught:
        spaces.load(f"{path}:Tiny")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_a_class_that_is_not_given(tmp_path: Path) -> None:
    """Both say what the form is."""
    with pytest.raises(UsageError, match=r"no file 'absent\.py'; a space in a file is given as 'path\.py:Class'"):
        spaces.load("absent.py:Tiny")
    with pytest.raises(UsageError, match=r"is given as 'path\.py:Class', got 'mine\.py' without a class"):
        spaces.load("mine.py")
