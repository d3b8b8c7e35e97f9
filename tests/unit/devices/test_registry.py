"""Finding a device by name."""

from __future__ import annotations

import ctypes

import pytest

from hwnas.devices import NAMES, find, here, nvidia_absence, registry
from hwnas.errors import DeviceUnavailable, UsageError


class Driver:
    """Stands for libnvidia-ml."""

    def __init__(self, answer: int) -> None:
        self._answer = answer

    def nvmlInit_v2(self) -> int:  # noqa: N802  (the library's own name)
        return self._answer


def no_driver(name: str) -> Driver:
    raise OSError(f"{name}: cannot open shared object file")


def test_this_processor_is_always_here() -> None:
    """`cpu` is found, and it is the very device that `here` lists."""
    assert find("cpu") is here()[0]


def test_an_unknown_name_is_the_users_mistake() -> None:
    """A name that hwnas does not know is refused with the nearest one and the list; exit code 2."""
    with pytest.raises(UsageError) as caught:
        find("h10")
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "unknown device 'h10'" in message
    assert "(did you mean 'h100'?)" in message
    assert all(name in message for name in NAMES)
    assert "\n" not in message


def test_a_known_device_that_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that this machine lacks: why, what is here instead, and what to do; exit code 1."""
    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    with pytest.raises(DeviceUnavailable) as caught:
        find("a100")
    message = str(caught.value)
    assert caught.value.exit_code == 1
    assert "no 'a100' on this machine: no NVIDIA driver" in message
    assert f"here: cpu ({here()[0].spec.model}, {here()[0].spec.units} cores)" in message
    assert "hwnas profile --device a100" in message
    assert "--device cpu" in message
    assert "\n" not in message


def test_a_card_with_a_driver_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a driver answers, the message does not send the user to another machine: this version measures CPUs only."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(0))
    with pytest.raises(DeviceUnavailable, match=r"an NVIDIA driver answers.*this version of hwnas measures CPUs only") as caught:
        find("a100")
    assert "on a machine that has one" not in str(caught.value)


@pytest.mark.parametrize(
    ("library", "said"), [(no_driver, "no NVIDIA driver"), (lambda name: Driver(9), "does not answer"), (lambda name: Driver(0), None)]
)
def test_why_there_is_no_card(monkeypatch: pytest.MonkeyPatch, library, said: str | None) -> None:
    """A missing driver, one that does not answer, and one that does are told apart."""
    monkeypatch.setattr(registry.ctypes, "CDLL", library)
    found = nvidia_absence()
    assert found is None if said is None else said in str(found)
