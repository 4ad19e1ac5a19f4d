"""The tables of LATENCY.md, written from the results that lie beside: no figure is typed by hand.

Owns: the tables between the marks `<!-- latency -->` and `<!-- /latency -->` of LATENCY.md. Does not own: measuring (command.py).
"""

from __future__ import annotations

import json
import re
import statistics
from typing import Any

from benchmarks.latency.parity import verdict
from benchmarks.record import BENCHMARKS, RESULTS

PAGE = BENCHMARKS / "LATENCY.md"


def main() -> None:
    """Write the tables of every result there is into LATENCY.md, a machine each its own."""
    names = ("matrix", "kinds", "parity", "overhead", "noise", "weaker")
    parts = [part for name in names for path in sorted(RESULTS.glob(f"latency-{name}*.json"))
             for part in globals()[f"_{name}"](json.loads(path.read_text(encoding="utf-8")))]
    text = PAGE.read_text(encoding="utf-8")
    table = "\n".join(parts)
    made = re.sub(r"(<!-- latency -->\n).*(<!-- /latency -->)", lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.S)
    PAGE.write_text(made, encoding="utf-8")
    print(f"{PAGE.name}: {len(parts)} lines")


def _typed(result: dict[str, Any]) -> str:
    """The command as it is typed today: a result keeps the name that it had when it was measured."""
    return re.sub(r"^python (benchmarks/latency\.py|-m \S+)", "python -m benchmarks.latency.command", str(result["command"]))


def _machine(result: dict[str, Any]) -> str:
    facts = result["machine"]
    gpu = "".join(f", {one['name']}" for one in facts.get("gpu") or ())
    flags = " ".join(facts.get("flags") or ())  # a virtual machine may hide its processor's model: vectors tell two apart
    return f"{facts['cpu']} ({flags}), {facts['cores_allowed']} core(s){gpu}{', virtual' if facts.get('virtual') else ''}"


def _busy(rows: list[dict[str, Any]]) -> str:
    shares = [row["others_share"] for row in rows if row.get("others_share") is not None]
    return f"others used {100 * min(shares):.0f} to {100 * max(shares):.0f} % of the processors meanwhile" if shares else "load not told"


def _line(cells: list[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _matrix(result: dict[str, Any]) -> list[str]:
    rows = result["rows"]["rows"]
    by = {(row["artifact"], row["threads"]): row for row in rows}
    lines = ["", f"**The matrix** on {_machine(result)}, single images, array to decision; {_busy(rows)}, so ratios are what "
             f"counts. Threads: those of the runtime. `{_typed(result)}`", "",
             "| what | threads | p50 ms | p90 | min | fastest over PyTorch eager's | share of the limit: p50, fastest call | MB | AUROC |",
             "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        eager = by.get((f"{row['artifact'].split('-')[0].split(',')[0]}, torch eager", row["threads"]))
        line, score = row.get("roofline"), (row.get("score") or {}).get("auroc") or {}
        share = [f"{100 * line['bound_ms'] / row[key]:.0f}" for key in ("p50_ms", "min_ms")] if line else []
        name = row["artifact"] + ("" if row["valid"] else " (not valid)")
        lines.append(_line([name, row["threads"], *(_ms(row.get(key)) for key in ("p50_ms", "p90_ms", "min_ms")),
                            f"{eager['min_ms'] / row['min_ms']:.1f} x" if eager else "-",
                            f"{', '.join(share)} % ({line['precision']})" if line else "-", f"{row['model_bytes'] / 1e6:.1f}",
                            f"{score['value']:.3f}" if score else "-"]))
    peaks = "; ".join(f"{one['threads']} thread(s): " + ", ".join(
        f"{kind} {found['ops_per_s'] / 1e9:.0f} Gop/s ({found['by']})" for kind, found in one["products"].items())
        for one in result["rows"]["peaks"])
    lines += ["", f"Measured peaks of a matrix product: {peaks}.", ""]
    for count in sorted({row["threads"] for row in rows}):
        lines += [f"- {text}" for text in _speedups(by, count)]
    lines += [f"- {name} is not there: {reason.partition('; allowed')[0].removeprefix('error: ')}."
              for name, reason in result["rows"]["not_exported"].items()]
    return lines


def _speedups(by: dict[tuple[str, int], dict[str, Any]], threads: int) -> list[str]:
    def over(slow: str, fast: str) -> str:
        one, other = by.get((slow, threads)), by.get((fast, threads))
        if not one or not other:
            return ""
        return f"{one['p50_ms'] / other['p50_ms']:.2f} times as fast by p50, {one['min_ms'] / other['min_ms']:.2f} by the fastest call"

    pairs = [("the student over the teacher in PyTorch eager", "teacher, torch eager", "student, torch eager"),
             ("the student over the teacher in ONNX Runtime fp32", "teacher-onnx-fp32", "student-onnx-fp32"),
             ("the student in ONNX Runtime fp32 over the teacher in PyTorch eager", "teacher, torch eager", "student-onnx-fp32"),
             *((f"int8 over fp32, {role} in {name}", f"{role}-{target}-fp32", f"{role}-{target}-int8")
               for role in ("student", "teacher") for target, name in (("onnx", "ONNX Runtime"), ("openvino", "OpenVINO")))]
    return [f"{threads} thread(s), {what}: {text}." for what, slow, fast in pairs if (text := over(slow, fast))]


def _parity(result: dict[str, Any]) -> list[str]:
    lines = ["", f"**rd-bench beside other ways to time the same file** on {_machine(result)}, p50 of turns that are a fresh process each; "
             f"rd-bench over the other within a round, the median with a 95 % interval; behind it the ratio of medians over all rounds; "
             f"{_busy(result['rows'])}. `{_typed(result)}`", "",
             "| artifact | threads | repeat | rounds | rd-bench ms | over the bare loop | over benchmark_app | within 5 % |",
             "|---|---|---|---|---|---|---|---|"]
    for artifact in dict.fromkeys(row["artifact"] for row in result["rows"]):
        own = [row for row in result["rows"] if row["artifact"] == artifact]
        together = {side: [one for row in own for one in row["turns_ms"][side]] for side in own[0]["turns_ms"]}
        for repeat, turns in [*((row["repeat"], row["turns_ms"]) for row in own), ("all", together)]:
            said = verdict(turns)
            cells = ["{ratio:.3f} ({low:.3f} to {high:.3f}); {of_medians:.3f}".format(**said["over"][side]) if side in said["over"] else "-"
                     for side in ("bare loop", "benchmark_app")]
            ours = turns["rd-bench"]
            lines.append(_line([artifact, own[0]["threads"], repeat, len(ours), _ms(statistics.median(ours)), *cells,
                                ("yes" if said["near"] else "NO") + (", the whole interval" if said["whole"] else "")
                                + ("" if said["settled"] else " (not settled)")]))
    return lines


def _overhead(result: dict[str, Any]) -> list[str]:
    lines = ["", f"**A Session over the raw call**, call by call in turn, p50, on {_machine(result)}. `{_typed(result)}`", "",
             "| artifact | raw ms | Session ms | ratio | more, microseconds | 3 % or 30 us |", "|---|---|---|---|---|---|"]
    for name, repeats in result["rows"].items():
        cells = [", ".join(form.format(one[key]) for one in repeats) for key, form in (
            ("raw_p50_ms", "{:.3f}"), ("session_p50_ms", "{:.3f}"), ("ratio", "{:.3f}"), ("extra_us", "{:.0f}"))]
        lines.append(f"| {name} | {' | '.join(cells)} | {'yes' if all(one['met'] for one in repeats) else 'NO'} |")
    return lines


def shares(kinds: list[dict[str, Any]]) -> str:
    """Every kind of operator with 2 % of the time or more."""
    return ", ".join(f"{one['kind']} {100 * one['share']:.0f} %" for one in kinds if one["share"] >= 0.02)


def _kinds(result: dict[str, Any]) -> list[str]:
    return ["", f"**Where the time goes**, by kind of operator, batch 1, by the runtimes' own profilers on {_machine(result)}. "
            f"`{_typed(result)}`", "", *(f"- {name}: {shares(kinds)}." for name, kinds in result["rows"].items())]


def _noise(result: dict[str, Any]) -> list[str]:
    rows = result["rows"]
    quiet = (f"{100 * rows['spread_of_quiet_runs']:.1f} % among the {rows['quiet_runs']} that were valid" if rows["quiet_runs"]
             else "none of them was valid: others were at work")
    beside = rows["beside_burners"]
    word = beside["notices"][0] if beside["notices"] else "nothing"
    many = f"{len(rows['runs'])} runs of rd-bench on {rows['artifact']}, {rows['threads']} thread(s)"
    return ["", f"**Noise** on {_machine(result)}: {many}: p50 {min(rows['p50_ms']):.3f} to {max(rows['p50_ms']):.3f} ms, spread "
            f"{100 * rows['spread']:.1f} % of the median ({quiet}), sd {100 * rows['sd']:.1f} %. Beside a process burning every core p50 "
            f"was {beside['p50_ms']:.3f} ms and the report said: \"{word}\". `{_typed(result)}`"]


def _weaker(result: dict[str, Any]) -> list[str]:
    rows = result["rows"]
    small = {row["artifact"]: row for row in rows["weaker"]}
    lines = ["", f"**A weaker machine**, simulated on {_machine(result)}: {rows['how']}. p90 in ms, deadline {rows['deadline_ms']:g} ms; "
             f"{_busy([*rows['whole'], *rows['weaker']])}. `{_typed(result)}`", "",
             "| artifact | AUROC | whole machine | late | weaker | late |", "|---|---|---|---|---|---|"]
    for row in rows["whole"]:
        other = small[row["artifact"]]
        lines.append(f"| {row['artifact']} | {row['auroc']:.3f} | {row['p90_ms']:.2f} | {100 * row['deadline']['share']:.0f} % | "
                     f"{other['p90_ms']:.2f} | {100 * other['deadline']['share']:.0f} % |")
    return [*lines, "", f"Chosen (best AUROC whose p90 keeps the deadline): {rows['choice']['whole'] or 'none'} on the whole machine, "
            f"{rows['choice']['weaker'] or 'none'} on the weaker one."]
