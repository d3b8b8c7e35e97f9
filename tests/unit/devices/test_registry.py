"""Finding a device by what a user types."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from fake_nvml import A100, FakeDriver

from hwnas import assets
from hwnas.devices import Unavailable, find, here, name_of, names, nvidia_cards, nvml, registry, unknown
from hwnas.errors import DeviceUnavailable, MissingExtraError, NotFoundError, UsageError

L4 = "card\nname NVIDIA L4\nuuid GPU-0b\ncapability 8 9\nmemory 24152899584\nclocks 2040 6251 2040\n"
STRANGE = "card\nname NVIDIA A100-SXM-64GB\nuuid GPU-0c\ncapability 8 0\nmemory 68719476736\nclocks 1410 1215 1095\n"


def refusal(name: str) -> str:
    with pytest.raises(DeviceUnavailable) as caught:
        find(name)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_this_processor_is_always_here() -> None:
    """`cpu` is found, and it is the very device that `here` lists first, every time."""
    assert find("cpu") is here()[0] is here()[0]


@pytest.mark.parametrize("name", ["h10", "cuda", "cuda:x", "GPU-", "A100"])
def test_what_means_no_device_is_the_users_mistake(name: str) -> None:
    """It is refused with the list of those that are known, and with what a card can be picked by; exit code 2."""
    with pytest.raises(UsageError) as caught:
        find(name)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert f"unknown device '{name}'" in message
    assert all(known in message for known in (*names(), "cuda:N", "UUID"))
    assert "\n" not in message
    assert name != "h10" or "(did you mean 'h100'?)" in message


def test_a_known_device_that_is_elsewhere() -> None:
    """A card on a machine without a driver: why, what is here instead, and what to do; exit code 1."""
    message = refusal("a100")
    assert "no 'a100' on this machine: no NVIDIA driver" in message
    assert f"here: cpu ({here()[0].spec.model}, {here()[0].spec.units} cores)" in message
    assert "run 'hwnas profile --device a100' on a machine that has one, or use --device cpu" in message


def test_a_number_says_nothing_without_cards() -> None:
    """A card picked by its number is refused alike, but no other machine is sent to for that number."""
    assert "no 'cuda:0' on this machine: no NVIDIA driver" in refusal("cuda:0")
    assert "profile --device cuda:0" not in refusal("cuda:0")


@pytest.mark.parametrize("asked", ["a100", "cuda:0", "GPU-0a"])
def test_a_card_that_is_here(driver: FakeDriver, asked: str) -> None:
    """By name, number or UUID: its figures are the catalogue's, its state the driver's, and profiles name it by its kind."""
    driver.load(A100 + L4)
    device = find(asked)
    assert (device.spec.name, device.spec.model, device.spec.units) == ("a100", "NVIDIA A100-SXM4-40GB", 108)
    assert device.state().driver == "580.65.06"
    assert not isinstance(device.energy_meter(), Unavailable)
    assert name_of(asked) == "a100"


def test_a_name_is_enough_where_no_card_is(driver: FakeDriver) -> None:
    """A device that is elsewhere can be predicted for, so its name is its name; a number must be here."""
    driver.load(L4)
    assert name_of("h100") == "h100"
    with pytest.raises(DeviceUnavailable, match=r"no 'cuda:1' on this machine; its NVIDIA cards: cuda:0 NVIDIA L4 \(l4, GPU-0b\)"):
        name_of("cuda:1")


def test_a_card_of_another_kind(driver: FakeDriver) -> None:
    """Where a driver answers, its cards are listed."""
    driver.load(L4)
    assert "its NVIDIA cards: cuda:0 NVIDIA L4 (l4, GPU-0b); run this on a machine that has one" in refusal("a100")


def test_what_is_here(driver: FakeDriver) -> None:
    """The processor, then the cards that the catalogue describes; of the others it is said what to do."""
    driver.load(A100 + STRANGE + L4)
    assert [device.spec.name for device in here()] == ["cpu", "a100", "l4"]
    (message,) = unknown()
    assert "cuda:1 is a 'NVIDIA A100-SXM-64GB'" in message
    with pytest.raises(NotFoundError, match=r"write profiles/NAME/device\.toml in \$HWNAS_HOME"):
        find("cuda:1")


def test_a_card_that_the_user_describes(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file in the user's own workspace makes a card known, by its own name and by its number."""
    folder = tmp_path / "profiles" / "leonardo"
    folder.mkdir(parents=True)
    text = (assets.root("profiles") / "a30" / "device.toml").read_text()
    text = text.replace('name = "a30"', 'name = "leonardo"').replace("NVIDIA A30", "NVIDIA A100-SXM-64GB")
    (folder / "device.toml").write_text(text)
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    driver.load(A100 + STRANGE)
    assert "leonardo" in names()
    assert find("leonardo") == find("cuda:1")
    assert name_of("cuda:1") == "leonardo"


def test_no_card_is_unknown_without_a_driver() -> None:
    """Nothing is said of cards that no driver lists."""
    assert unknown() == ()


@pytest.mark.parametrize(("there", "said"), [(False, "no NVIDIA driver"), (True, "pip install 'hwnas[gpu]'")])
def test_the_client_is_missed_only_where_there_is_a_driver(monkeypatch: pytest.MonkeyPatch, there: bool, said: str) -> None:
    """Without NVML's client, a machine with a driver is told to install it, and one without is not."""

    def missing() -> None:
        raise MissingExtraError("'pynvml' cannot be imported (gone); run: pip install 'hwnas[gpu]'")

    def library(name: str) -> object:
        if not there:
            raise OSError(f"{name}: cannot open shared object file")
        return object()

    monkeypatch.setattr(nvml, "cards", missing)
    monkeypatch.setattr(registry.ctypes, "CDLL", library)
    found = nvidia_cards()
    assert isinstance(found, Unavailable)
    assert said in found.reason
    assert registry.ctypes is ctypes
