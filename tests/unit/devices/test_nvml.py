"""NVIDIA cards through the real client, over a scripted driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_nvml import A100, FakeDriver

from hwnas.devices import nvml
from hwnas.devices.nvml import Card, Link, cards, state
from hwnas.errors import DeviceUnavailable, HwnasError, MissingExtraError

H100 = "card\nname NVIDIA H100 PCIe\nuuid GPU-0b\ncapability 9 0\nmemory 85899345920\nmig 1\nclocks 1755 1593 1095\n"
EVERY_QUESTION = (
    "clock",
    "memory_clock",
    "temperature",
    "power",
    "events",
    "throttle",
    "driver",
    "mig",
    "processes",
    "processes_v2",
    "default_clock",
)
NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, LOST = 3, 4, 13, 15


def one_line(error: HwnasError) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_cards_in_the_order_of_the_driver(driver: FakeDriver) -> None:
    """Each card with its name, its number, what it can compute and hold, and whether it is split."""
    driver.load(A100 + H100)
    assert cards() == (
        Card(index=0, name="NVIDIA A100-SXM4-40GB", uuid="GPU-0a", compute_capability=(8, 0), memory_bytes=40 * 2**30, mig=False),
        Card(index=1, name="NVIDIA H100 PCIe", uuid="GPU-0b", compute_capability=(9, 0), memory_bytes=80 * 2**30, mig=True),
    )


def test_no_cards(driver: FakeDriver) -> None:
    """A driver without a card lists none; that is no error."""
    driver.load("driver 580.65.06\n")
    assert cards() == ()


def test_a_card_without_memory_of_its_own(driver: FakeDriver) -> None:
    """Where a card tells no memory it uses the machine's; MIG that it does not know is None."""
    driver.load(A100 + f"fail memory {NOT_SUPPORTED} 0 ever\nfail mig {NOT_SUPPORTED} 0 ever\n")
    (card,) = cards()
    assert card.memory_bytes > 2**27
    assert card.mig is None


def test_the_state(driver: FakeDriver) -> None:
    """Clocks in Hz, power in W, temperature, what holds the clock back, driver, MIG, and the processes of others."""
    driver.load("driver 575.57.08\n" + A100 + "heat 30 0.1 10\nevent 0x44 0 ever 1\nprocess 4242 0 ever\nprocess 4243 0 ever\n" + H100)
    first, second = (state(card) for card in cards())
    assert (first.clock_hz, first.memory_clock_hz) == (705e6, 1215e6)
    assert (first.power_w, first.temperature_c) == (60.0, 36.0)
    assert first.clock_events == ("idle", "software power cap", "hardware thermal slowdown")
    assert (first.driver, first.mig, first.others, first.unsupported) == ("575.57.08", False, 2, ())
    assert first.default_clock_hz == 1095e6
    assert (second.mig, second.others, second.clock_events) == (True, 0, ("idle",))


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND])
def test_what_a_card_does_not_tell_is_none(driver: FakeDriver, code: int) -> None:
    """Not supported, not permitted, not known to this driver: the field is None and named, the others are there, nothing is raised."""
    driver.load(A100 + "".join(f"fail {question} {code} 0 ever\n" for question in EVERY_QUESTION))
    (card,) = cards()
    nothing = state(card)
    assert set(nothing.unsupported) == {
        "clock_hz",
        "memory_clock_hz",
        "temperature_c",
        "power_w",
        "clock_events",
        "driver",
        "mig",
        "others",
        "default_clock_hz",
    }
    assert all(getattr(nothing, field) is None for field in nothing.unsupported)
    driver.load(A100 + f"fail temperature {code} 0 ever\n")
    partly = state(card)
    assert partly.unsupported == ("temperature_c",)
    assert partly.power_w == 60.0


def test_older_drivers_are_asked_under_older_names(driver: FakeDriver) -> None:
    """A driver that calls clock events throttle reasons, or lists processes in its own way, tells them all the same."""
    older = f"fail events {FUNCTION_NOT_FOUND} 0 ever\nfail processes {FUNCTION_NOT_FOUND} 0 ever\n"
    driver.load(A100 + older + "event 0x8 0 ever 1\nprocess 4242 0 ever\n")
    assert state(cards()[0]).clock_events == ("idle", "hardware slowdown")
    assert state(cards()[0]).others == 1


def test_power_readings(driver: FakeDriver) -> None:
    """Averaged and instantaneous power are different readings, and each may be missing."""
    clock = driver.load(A100 + "average 1\n")
    link = Link(cards()[0])
    driver.library.fake_nvml_run(0)
    clock.sleep(0.5)
    assert link.power_w("instant") == link.power_w("usage") == pytest.approx(300.0)
    assert link.power_w("average") == pytest.approx(180.0)
    driver.load(A100 + f"fail average {NOT_SUPPORTED} 0 ever\n")
    assert Link(cards()[0]).power_w("average") is None
    assert Link(cards()[0]).power_w("instant") == 60.0
    driver.load(A100 + f"fail fields {FUNCTION_NOT_FOUND} 0 ever\n")
    assert Link(cards()[0]).power_w("instant") is None


def test_the_counter_counts(driver: FakeDriver) -> None:
    """The counter goes on with the energy of the board, in J."""
    clock = driver.load(A100)
    link = Link(cards()[0])
    before = link.energy_j()
    clock.sleep(10.0)
    after = link.energy_j()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(600.0)


def test_this_process_is_not_another(driver: FakeDriver) -> None:
    """This process is left out of the others, by its number; in a container, once it has work there, by being a stranger to the machine."""
    stranger = 4_194_301  # beyond the largest number that Linux gives
    driver.load(A100 + "own 1\nprocess 4242 0 ever\n")
    assert Link(cards()[0]).others() == (4242,)
    driver.load(A100 + f"own 0\nprocess {stranger} 0 ever\n")
    assert Link(cards()[0]).others() == (stranger,)
    assert Link(cards()[0]).others(computing=True) == ()
    driver.load(A100 + f"own 0\nprocess {stranger} 0 ever\nprocess {stranger + 1} 0 ever\nprocess 1 0 ever\n")
    assert Link(cards()[0]).others(computing=True) == (1, stranger + 1)


def test_no_driver_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a driver: that it is not there, and what to do."""
    import pynvml

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", missing)
    with pytest.raises(
        DeviceUnavailable, match=r"no NVIDIA driver \(libnvidia-ml\.so\.1: .*install one, or run this on a machine"
    ) as caught:
        cards()
    one_line(caught.value)


@pytest.mark.parametrize(("code", "said"), [(9, "no NVIDIA driver"), (18, "the NVIDIA driver does not answer")])
def test_a_driver_that_is_not_loaded_or_does_not_fit(driver: FakeDriver, code: int, said: str) -> None:
    """A library without its kernel module, and one of another version, are told apart."""
    driver.load(A100 + f"fail init {code} 0 ever\n")
    with pytest.raises(DeviceUnavailable, match=said) as caught:
        cards()
    one_line(caught.value)


def test_no_client_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NVML's client: what to install."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hwnas\[gpu\]'") as caught:
        nvml.connect()
    one_line(caught.value)


def test_a_card_that_falls_off_the_bus(driver: FakeDriver) -> None:
    """A lost card is an error that names it, wherever it is asked."""
    clock = driver.load(A100 + f"fail all {LOST} 5 ever\n")
    (card,) = cards()
    clock.sleep(6.0)
    with pytest.raises(DeviceUnavailable, match=r"card 0 \(NVIDIA A100-SXM4-40GB\) does not answer: GPU is lost") as caught:
        state(card)
    one_line(caught.value)
    with pytest.raises(DeviceUnavailable, match="does not say what it is"):
        cards()
    driver.load(H100)
    with pytest.raises(DeviceUnavailable, match=r"card 0 .* does not answer: Not Found"):
        Link(card)


def test_through_the_loader(nvml_library: Path, tmp_path: Path) -> None:
    """The client finds a driver on the library path, as it does on a machine with a card; no test double is in that process."""
    (tmp_path / "script").write_text("clock real\n" + A100 + H100)
    code = "import json; from hwnas.devices.nvml import cards, state; print(json.dumps([(c.name, state(c).power_w) for c in cards()]))"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(nvml_library.parent), "FAKE_NVML_SCRIPT": str(tmp_path / "script")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["NVIDIA A100-SXM4-40GB", 60.0], ["NVIDIA H100 PCIe", 60.0]]
