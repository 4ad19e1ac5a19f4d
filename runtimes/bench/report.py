"""A finished benchmark as files: report.json, report.csv, report.md, samples.json, report.html.

Owns: the format of report.json, tables. Does not own: figures (rows.py), the pictures (page.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtimes.files import spreadsheet
from runtimes.files.folder import write_atomic, write_json
from runtimes.text import fenced, markdown, one_line

FORMAT = 1
# The columns of report.csv: plain values, one row a cell.
COLUMNS = ("artifact", "target", "precision", "batch", "threads", "path", "spin", "pinned", "samples", "p50_ms", "p90_ms", "p95_ms",
           "p99_ms", "p99.9_ms", "max_ms", "min_ms", "mean_ms", "sd_ms", "first_ms", "load_ms", "images_per_s", "peak_rss_mib",
           "model_bytes", "others_share", "valid", "provider", "runtime", "version", "model_sha256")
SHOWN = ("p50_ms", "p90_ms", "p99_ms", "max_ms")


def write_report(folder: Path, report: dict[str, Any], samples: Mapping[str, Any], page: str) -> None:
    """Write all files of a report into a folder; page: the HTML."""
    write_json(folder / "report.json", report)
    write_atomic(folder / "samples.json", (json.dumps({"format": FORMAT, "rows": samples}) + "\n").encode())
    write_atomic(folder / "report.csv", as_csv(report["rows"]).encode())
    write_atomic(folder / "report.md", as_markdown(report).encode())
    write_atomic(folder / "report.html", page.encode())


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with the machine's column left to the file's reader: a file is of one machine."""
    scores = [((row.get("score") or {}).get("auroc") or {}).get("value", "") for row in rows]
    cells = ({**row, "auroc": score, "notices": "; ".join(row["notices"])} for row, score in zip(rows, scores, strict=True))
    return spreadsheet.as_csv([*COLUMNS, "auroc", "notices"], cells, line_end="\n")


def number(value: Any, digits: int = 3) -> str:
    """A figure with so many significant digits, or a dash."""
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.{digits}g}".rstrip(".")


def auroc_text(row: Mapping[str, Any]) -> str:
    """A row's AUROC with its interval."""
    auroc = (row.get("score") or {}).get("auroc")
    if not auroc:
        return "-"
    interval = f" ({auroc['low']:.3f} to {auroc['high']:.3f})" if "low" in auroc else ""
    return f"{auroc['value']:.3f}{interval}"


def line_of(row: Mapping[str, Any]) -> str:
    """One row as a line of the terminal."""
    what = f"{one_line(row['artifact'])}, {row['path']}, batch {row['batch']}, {threads_text(row)}"
    shown = ", ".join(f"{key.removesuffix('_ms')} {number(row[key])}" for key in SHOWN if key in row)
    late = f", {row['deadline']['missed']} of {row['deadline']['samples']} late" if "deadline" in row else ""
    return f"{what}: {shown} ms{late}" + (f"  [{row['notices'][0]}]" if not row["valid"] else "")


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown: machine, tables, what to know."""
    machine, rows = report["machine"], report["rows"]
    head = ["artifact", "path", "batch", "threads", "p50 ms", "p90", "p95", "p99", "p99.9", "max", "images/s", "first ms", "load ms",
            "peak MiB", "model MB", "AUROC", "valid"]
    body = [[markdown(row["artifact"]) + (" (teacher)" if row.get("teacher") else ""), row["path"], row["batch"], threads_text(row),
             *(number(row.get(f"{key}_ms")) for key in ("p50", "p90", "p95", "p99", "p99.9", "max")), number(row["images_per_s"]),
             number(row["first_ms"]), number(row["load_ms"]), number(row.get("peak_rss_mib")), number(row["model_bytes"] / 1e6),
             auroc_text(row), "yes" if row["valid"] else "NO"] for row in rows]
    parts = [f"# Latency on {markdown(machine['cpu'])}", "", markdown(machine_text(machine, report)), "", table(head, body), ""]
    for title, lines in warnings_of(rows):
        parts += [f"{title}:", "", *(f"- {markdown(line)}" for line in lines), ""]
    parts += [f"- {markdown(verdict['artifact'])}: int8 {'is worth it' if verdict['keep'] else 'is NOT worth it'} here: "
              f"{markdown(verdict['reason'])}."
              for verdict in report.get("int8", ())]
    parts += streams_text(report)
    parts += ["", "A percentile is left out where there are too few samples for it (64 for p90, 130 for p95, 662 for p99, 6,636 for "
              "p99.9). Path array: pixels in memory to probabilities and decision. Path file: file on disk (in the page cache) "
              "to decision.", "",
              "Repeat:", "", fenced(one_line(report["command"])), ""]
    return "\n".join(parts)


def threads_text(row: Mapping[str, Any]) -> str:
    """Thread count in words, and how threads wait where that was chosen."""
    spin = "" if row.get("spin") is None else ", spinning" if row["spin"] else ", not spinning"
    return f"{row['threads']} thread{'' if row['threads'] == 1 else 's'}{spin}"


def warnings_of(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """What to know before quoting, under a title each: of rows that are not valid, and of the others."""
    bad, good = ([row for row in rows if row["valid"] is valid] for valid in (False, True))
    sections = [(f"{len(bad)} of {len(rows)} rows are not fit to be quoted", notices_of(bad)),
                (f"To know before quoting {'the others' if bad else 'a figure'}", notices_of(good))]
    return [(title, lines) for title, lines in sections if lines]


def notices_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What rows say of themselves, each sentence with the rows that say it."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        for notice in row["notices"]:  # sentences that differ in their figures alone are one
            who = f"{row['artifact']}, {row['path']}, batch {row['batch']}, {threads_text(row)}"
            groups.setdefault(re.sub(r"[\d.]+", "#", notice), []).append((notice, who))
    sentences = []
    for same in groups.values():
        others = f"; much the same in {len(same) - 1} more of {len(rows)} rows" if len(same) > 1 else ""
        sentences.append(f"{same[0][0]} ({same[0][1]}{others})")
    return sentences


def machine_text(machine: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The machine in two sentences."""
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    clock = f", {machine['clock_mhz']:.0f} MHz" if machine.get("clock_mhz") else ""
    gpu = "".join(f", {device.get('name')} (driver {device.get('driver')})" for device in machine.get("gpu") or ())
    virtual = ", a virtual machine: what its neighbours outside take is not seen" if machine.get("virtual") else ""
    mode = f", power mode {machine['power_mode']}" if machine.get("power_mode") else ""
    return (f"{machine['cpu']}, {machine['cores_allowed']} of {machine['cores']} cores (set {machine['core_set']}){clock}, governor "
            f"{machine['governor'] or 'not told'}{mode}{virtual}{gpu}, {machine['memory_gib']} GiB; "
            f"{', '.join(machine['flags']) or 'no special'} instructions; "
            f"load {report['before']['load_average']} before, {report['after']['load_average']} after, "
            f"{report['after']['time']}. {libraries}.")


def streams_text(report: Mapping[str, Any]) -> list[str]:
    """Throughput in words."""
    lines = [f"- {markdown(entry['artifact'])}, {entry['streams']} streams of {threads_text(entry)}, batch {entry['batch']}: "
             f"{number(entry['images_per_s'])} images/s, {number(entry['mean_ms'])} ms each on average"
             for entry in report.get("streams", ())]
    best = [f"- {markdown(name)}: {number(entry['images_per_s'])} images/s at most (batch {entry['batch']}, {entry['streams']} stream(s))"
            for name, entry in report.get("offline", {}).items()]
    return ["", "Throughput, all images at hand (MLPerf's offline):", "", *best, *lines] if best else lines


def table(head: Sequence[Any], body: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    return "\n".join(["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *body)])
