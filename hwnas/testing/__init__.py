"""What ships for testing: stand-ins that need no hardware, and suites that prove an implementation (`conformance`; needs pytest)."""

from hwnas.testing.fake_device import FakeDevice, FakeMeter
from hwnas.testing.replay import Recording, ReplayRuntime, ReplaySession, digest, record

__all__ = ["FakeDevice", "FakeMeter", "Recording", "ReplayRuntime", "ReplaySession", "digest", "record"]
