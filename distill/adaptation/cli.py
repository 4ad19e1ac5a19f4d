"""The command line of rd-adapt: read the settings, then load the workshop.

Owns: main. Does not own: settings (settings/adapt.py), the work (adapt.py).
"""

from __future__ import annotations

import sys

from distill.settings.adapt import AdaptSettings
from distill.settings.continual import with_task_names
from runtimes.commands.flags import command_line, parse
from runtimes.errors import finish

EXAMPLES = (("rd-adapt --data images/", "routed low-rank experts in every layer of efficientnet-lite0"),
            ("rd-adapt --data labels.csv --method lora", "one expert a layer, folded into plain weights"),
            ("rd-adapt --data labels.csv --method molre --teacher hf:FOLDER", "behind the pool, on banked features: seconds"))


def main() -> None:
    """Entry point of rd-adapt."""

    def command() -> int:
        settings = parse(AdaptSettings, sys.argv[1:], "rd-adapt", "Adapt a frozen teacher to a task with low-rank experts.",
                         examples=EXAMPLES, spelled=with_task_names)
        from distill.adaptation.adapt import adapt

        return adapt(settings, command_line("rd-adapt"))

    sys.exit(finish(command, resumes=True))


if __name__ == "__main__":
    main()
