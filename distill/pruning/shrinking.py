"""Bringing a student within its budget: once before training, or in rounds with a little training between them.

Owns: the order of the rounds, what is said, the cut students on disk that --resume takes up. Does not own: the search (budget.py),
which channels go (prune.py), training (fit.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from distill.networks.models import Model, ModelSpec, build_model
from distill.progress import say
from distill.pruning.budget import COST, Budget, Cost, cost_of, read_count, shrink
from distill.pruning.prune import Importance, open_pruner
from distill.pruning.timing import elsewhere_ms, latency_ms
from distill.run import remove_run
from distill.settings.student import BudgetOptions
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_atomic, write_json
from runtimes.files.schema import anything, check, mapping_of, object_of, whole
from runtimes.measure.device_table import read_table

CUT = "cut.json"  # in the run's folder: the last finished round and its student, beside cut.safetensors

KEPT = object_of({"done": whole(1, 10**6), "whole": COST, "model": mapping_of(anything)}, others=True)


def budget_of(options: BudgetOptions) -> Budget:
    """The budget that the flags give; a number that is none is a usage error."""
    return Budget(None if options.max_params is None else read_count(options.max_params, "--max-params"),
                  None if options.max_macs is None else read_count(options.max_macs, "--max-macs"), options.max_latency_ms)


def device_table(path: Path | None) -> dict[str, Any] | None:
    """The latency table of another device that --max-latency-ms is about, said; None for this machine."""
    if path is None:
        return None
    table = read_table(path)
    weak = sum(not row.get("valid", True) for row in table["rows"])
    say("budget", f"latencies are those of {table['machine']['cpu']}, {len(table['rows'])} rows of {path}"
                  + (f" without {weak} that were not valid" if weak else "") + "; nothing is timed here")
    return table


def shrink_student(options: BudgetOptions, student: Model, run: Path, *, given_weights: bool, chosen_after: bool, resume: bool,
                   gradients: Callable[[Model], Tensor], train: Callable[[Model, int], Model]) -> Model:
    """The student within its budget, the same after a kill and a resumed run; itself when it fits or when there is no budget.

    given_weights: the student does not start from random ones. chosen_after: its method is chosen after pruning. gradients: the task
    loss of a model on training images, for taylor. train: some steps of training in round n.
    """
    budget = budget_of(options)
    if not budget:
        return student
    table = device_table(options.latency_table)
    measure = None if not budget.latency_ms else lambda model: (
        latency_ms(model, options.latency_target, options.latency_threads) if table is None else
        elsewhere_ms(model, table, options.latency_target, options.latency_threads))
    state = _stored_cut(run) if resume else None
    done, whole, student = state or (0, cost_of(student, measure), student)
    importance, rounds = importance_of(options, given_weights=given_weights), rounds_of(
        options, budget, whole, given_weights=given_weights, chosen_after=chosen_after)
    if not done:
        say("budget", f"{budget}; {student.spec.arch} has {whole}")
        if budget.over(whole):
            scope = "the same share of every layer" if options.prune_scope == "layer" else "ranked over the whole network"
            say("prune", f"by {importance}, {scope}, "
                         + ("at once" if rounds == 1 else f"in {rounds} rounds, {options.prune_steps} steps of training between them"))
    for number in range(done, rounds):
        try:
            student, cost = shrink(
                student, part_of(budget, whole, number, rounds),
                lambda model: open_pruner(model, importance, options.prune_scope, unit=options.prune_unit,
                                          gradients=lambda: gradients(model)),
                measure=measure, tell=lambda line: say("prune", line))
        except UserError:
            if number == 0:  # nothing is trained yet, and the next try will have another budget or student
                remove_run(run)
            raise
        if number + 1 < rounds:
            student = train(student, number)
        _keep(run, number + 1, whole, student)
        say("budget", f"{cost}" + (f", round {number + 1} of {rounds}" if rounds > 1 else ": kept"))
    return student


def importance_of(options: BudgetOptions, *, given_weights: bool) -> Importance:
    """What pruning ranks by: weights that know something by the loss they would cost, random ones by their size."""
    if options.importance != "auto":
        return options.importance
    return "taylor" if given_weights else "magnitude"


def rounds_of(options: BudgetOptions, budget: Budget, whole: Cost, *, given_weights: bool, chosen_after: bool = False) -> int:
    """How often to prune: as asked, else once, or once for every halving where weights know something that training can mend."""
    if options.prune_rounds is not None:
        return options.prune_rounds
    if not given_weights or chosen_after:
        return 1
    return max(1, round(math.log2(max(budget.over(whole).values(), default=1.0))))


def part_of(budget: Budget, whole: Cost, number: int, rounds: int) -> Budget:
    """The budget of one round: from what the student has to the budget in steps of equal factors."""
    share = (number + 1) / rounds

    def between(has: float | None, most: float | None) -> float | None:
        return most if has is None or most is None or has <= most else most if share == 1 else has * (most / has) ** share

    params, macs = between(whole.params, budget.params), between(whole.macs, budget.macs)
    return Budget(None if params is None else round(params), None if macs is None else round(macs),
                  between(whole.latency_ms, budget.latency_ms))


def _keep(run: Path, done: int, whole: Cost, student: Model) -> None:
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in student.net.state_dict().items()}
    name = f"cut-{done}.safetensors"
    write_atomic(run / name, save(state))
    write_json(run / CUT, {"done": done, "whole": asdict(whole), "weights": name, "model": student.spec.as_dict()})


def _stored_cut(run: Path) -> tuple[int, Cost, Model] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (run / CUT).is_file():
        return None
    state = read_json(run / CUT)
    check(state, KEPT, str(run / CUT), "start anew with --overwrite")
    model, weights = build_model(ModelSpec.from_dict(state["model"])), run / f"cut-{state['done']}.safetensors"
    try:
        model.net.load_state_dict(load_file(weights), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"{weights} does not fit {model.spec.arch} ({str(error).splitlines()[0]}); start anew with --overwrite") from None
    return int(state["done"]), Cost(**state["whole"]), model
