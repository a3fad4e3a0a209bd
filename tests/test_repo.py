"""The repository itself: generated files are what their sources make, and nothing in it that does not belong there."""
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_settings():
    assert (ROOT / "settings.ini").exists()
