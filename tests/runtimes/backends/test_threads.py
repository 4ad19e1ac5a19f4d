"""Counts of threads: none or more than a machine can use are refused by every command before any work."""

from __future__ import annotations

import pytest

from distill.settings.distill import DistillSettings
from export.config import ExportSettings
from runtimes.backends.threads import check_threads, most_threads
from runtimes.bench.config import BenchSettings
from runtimes.errors import USAGE, UserError


@pytest.mark.parametrize("count", [-1, 0, 10_000])
def test_a_count_that_is_none_or_too_large_is_a_usage_error_everywhere(count: int) -> None:
    for make in (lambda: check_threads(count), lambda: DistillSettings(threads=count), lambda: DistillSettings(latency_threads=count),
                 lambda: ExportSettings(threads=count), lambda: BenchSettings(artifacts=(), threads=(1, count))):
        with pytest.raises(UserError, match=f"{count}") as caught:
            make()
        assert caught.value.exit_code == USAGE


def test_what_a_machine_can_use_and_none_are_taken() -> None:
    for count in (None, 1, 64, most_threads()):
        check_threads(count)
