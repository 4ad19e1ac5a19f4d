"""Settings of rd-distill that contradict each other: what is refused, and what to leave out or add.

Owns: refuse_contradictions. Does not own: DistillSettings and the range of each (config.py, which calls this and so is not imported).
"""

from __future__ import annotations

from typing import Any

from runtimes.errors import USAGE, UserError


def refuse_contradictions(settings: Any) -> None:
    """Raise UserError (exit 2) for the first pair of settings that cannot both hold."""
    for wrong, told in contradictions(settings):
        if wrong:
            raise UserError(told, USAGE)


def contradictions(settings: Any) -> list[tuple[bool, str]]:
    """Each contradiction there can be: whether it is there, and what to say of it."""
    budget = (settings.max_params, settings.max_macs, settings.max_latency_ms) != (None, None, None)
    method, adapt = settings.method, settings.adapt
    how = next((f"--{name.replace('_', '-')} {getattr(settings, name)}" for name, usual in
                (("importance", "auto"), ("prune_scope", "layer"), ("prune_rounds", None)) if getattr(settings, name) != usual), None)
    needless = [f"--{name.replace('_', '-')}" for name in ("bank", "teacher_size", "teacher_weights", "teacher_adapter")
                if getattr(settings, name)]
    return [
        (how is not None and not budget,
         f"{how} says how a student is pruned to a budget: give --max-params, --max-macs or --max-latency-ms, or leave it out"),
        (how is not None and settings.student == "auto",
         f"--student auto takes whole networks that fit; leave {how} out, or name a student to prune"),
        (settings.latency_table is not None and settings.max_latency_ms is None,
         "--latency-table tells what networks take on another device; it needs --max-latency-ms"),
        (settings.student == "auto" and not budget,
         "--student auto needs a budget to choose within: --max-params, --max-macs or --max-latency-ms"),
        (settings.student == "auto" and settings.student_weights is not None,
         "--student auto compares networks with random weights; leave --student-weights out, or name a student"),
        (settings.views == "tied" and method == "vanilla", "--views tied needs a bank; --method vanilla has none"),
        (adapt != "none" and method == "vanilla", f"--adapt {adapt} adapts a teacher; --method vanilla has none"),
        (settings.teacher_adapter is not None and adapt != "none",
         f"--adapt {adapt} starts from a plain teacher; leave --teacher-adapter out"),
        (settings.teacher.startswith("bank:") and method != "vanilla" and bool(needless),
         f"--teacher {settings.teacher} holds features already; leave {' and '.join(needless)} out"),
        (settings.second_teacher is not None and method == "vanilla",
         f"--second-teacher {settings.second_teacher} needs a bank; --method vanilla has none"),
        (settings.second_teacher is not None and adapt != "none",
         f"--adapt {adapt} adapts one teacher; run rd-adapt first and give its folder as --teacher or --second-teacher"),
        (method == "auto" and (settings.prune_rounds or 1) > 1,
         "--method auto chooses after pruning; with --prune-rounds above 1 name a method"),
        (method == "at" and settings.views != "tied",
         "--method at compares places in the image, which both must see alike: add --views tied"),
        (settings.classifier == "own" and method != "rd",
         f"--classifier own is about the teacher branch of rd; --method {method} has none"),
        (settings.cka_against == "teacher" and method not in ("rd", "drd"),
         f"--cka-against teacher is about the CKA of rd and drd; --method {method} has none"),
        (settings.kd_from != "auto" and method not in ("rd", "drd"),
         f"--kd-from {settings.kd_from} is about the logits that rd and drd distil; leave it out with --method {method}"),
        (settings.overwrite and settings.resume, "--overwrite and --resume contradict each other; give one"),
    ]
