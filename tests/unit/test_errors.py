"""The errors and how they are worded."""

from __future__ import annotations

import inspect

import pytest

from hwnas import errors
from hwnas.errors import HwnasError, MissingExtraError, UsageError, did_you_mean, one_line, require

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, HwnasError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_exit_codes(kind: type[HwnasError]) -> None:
    """A wrong call exits with 2, failed work with 1."""
    assert kind.exit_code == (2 if issubclass(kind, UsageError) else 1)


@pytest.mark.parametrize(("word", "found"), [("h10", "h100"), ("mobilnet", "mobilenet"), ("zebra", None), ("", None)])
def test_suggestions(word: str, found: str | None) -> None:
    """The nearest known word is suggested, and none where nothing is near."""
    clause = did_you_mean(word, ["h100", "mobilenet", "resnet"])
    assert clause == (f" (did you mean '{found}'?)" if found else "")


def test_one_line_has_one_line() -> None:
    """Line breaks and runs of spaces become single spaces; an error without a message gives its class."""
    assert one_line(ValueError("a\n  b\t c\n")) == "a b c"
    assert one_line(KeyError()) == "KeyError"


def test_require_gives_the_module() -> None:
    """What is installed is imported."""
    assert require("json").loads("1") == 1


@pytest.mark.parametrize(("extra", "said"), [("cpu", "(or 'hwnas[gpu]' on an NVIDIA machine, never both)"), ("tensorrt", "")])
def test_require_names_the_extra(extra: str, said: str) -> None:
    """What is missing is named with the command that installs it, on one line."""
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_module_anywhere", extra)
    message = str(caught.value)
    assert "'no_such_module_anywhere' cannot be imported" in message
    assert f"pip install 'hwnas[{extra}]'{said and ' ' + said}" in message
    assert message.endswith(said)
    assert "\n" not in message
