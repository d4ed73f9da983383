from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from nh2st._settings import Settings, format_bytes

LIMITS = ("memory_limit", "cache_limit")


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (123, 123),
        (np.int64(123), 123),
        ("123", 123),
        ("2GB", 2_000_000_000),
        ("500 MB", 500_000_000),
        ("1.5kb", 1500),
        ("2GiB", 2 * 1024**3),
        (" .5 t ", 500_000_000_000),
    ],
)
def test_limits_are_numbers_of_bytes(name, given, expected):
    settings = Settings()
    setattr(settings, name, given)
    assert getattr(settings, name) == expected


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("given", ["", "GB", "much", "-1GB", "2 XB", "nan", "1e9", -1, 1.5, float("inf"), True, None])
def test_limits_that_are_none(name, given):
    settings = Settings()
    before = getattr(settings, name)
    with pytest.raises(ValueError, match=rf'{name} must be a number of bytes, such as .* or "2GB", not .*'):
        setattr(settings, name, given)
    assert getattr(settings, name) == before


@pytest.mark.parametrize("count", [0, 1, 999, 1001, 999_999, 1_234_567_890, 10**15 + 1])
def test_bytes_in_messages_are_enough(count):
    settings = Settings()
    settings.memory_limit = format_bytes(count)
    assert count <= settings.memory_limit <= 1.1 * count


@pytest.mark.parametrize(("given", "printed"), [("3GB", "3000000000"), ("lots", "NH2ST_MEMORY_LIMIT must be a number")])
def test_limits_of_the_environment(given, printed):
    code = "import nh2st; print(nh2st.settings.memory_limit)"
    environment = {**os.environ, "NH2ST_MEMORY_LIMIT": given}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert printed in run.stdout + run.stderr
