"""The command line of rd-bench: read the settings, do the job they name.

Owns: main. Does not own: the settings (config.py), measuring (command.py), comparing (compare.py), the soak (soak.py).
"""

from __future__ import annotations

import sys

from runtimes.bench.config import BenchSettings
from runtimes.commands.flags import command_line, parse
from runtimes.errors import finish

EXAMPLES = (("rd-bench artifact-onnx-fp32 artifact-onnx-int8", "latency of both on this machine, as a report"),
            ("rd-bench artifact-onnx-fp32 --batch 1 --deadline-ms 10", "how many calls take longer than 10 ms"),
            ("rd-bench --compare old/report.json new/report.json --gate", "exit code 4 where something got slower"))


def main() -> None:
    """Entry point of rd-bench: exit code 0 measured, 1 cannot be, 2 usage, 4 slower with --gate, 5 no runtime."""
    sys.exit(finish(lambda: run(parse(BenchSettings, sys.argv[1:], "rd-bench", examples=EXAMPLES), command_line("rd-bench"))))


def run(settings: BenchSettings, command: str) -> int:
    """Do the job that the settings name."""
    if settings.compare is not None:
        from runtimes.bench.compare import compare

        return compare(*settings.compare, noise=settings.noise, gate=settings.gate, other_machine=settings.other_machine)
    if settings.soak_minutes is not None:
        from runtimes.bench.soak import soak

        return soak(settings)
    from runtimes.bench.command import bench

    return bench(settings, command)


if __name__ == "__main__":
    main()
