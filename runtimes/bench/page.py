"""report.html: one page that carries its own style and pictures, for a screen, a phone or paper; it loads nothing and runs nothing.

Owns: which pictures and tables there are, in which words. Does not own: drawing (svg.py), looks (style.css), figures
(rows.py). The same report gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.bench import svg
from runtimes.bench.report import auroc_text, machine_text, number, threads_text, warnings_of
from runtimes.text import html_text

COLOURS = 8
POLICY = ("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">")
DASHES = ("", "7 4", "2 3", "10 3 2 3")


def as_html(report: Mapping[str, Any], samples: Mapping[str, Any]) -> str:
    """The page of a report; samples: raw nanoseconds of its rows, in their order."""
    rows = list(report["rows"])
    raw = [np.concatenate([np.asarray(block, dtype=np.float64) for block in series["blocks_ns"]]) / 1e6 for series in samples.values()]
    machine = report["machine"]
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    names = list(dict.fromkeys(row["artifact"] for row in rows))
    title = f"Latency on {machine['cpu']}"
    parts = [_header(title, report, names), _warnings(report), '<div class="two">', _front(rows, names),
             *(_distributions(rows, raw, names, path, report) for path in ("array", "file")), _verdicts(report), "</div>", _table(rows),
             _roofline(rows), _operators(report), _facts(report), _repeat(report)]
    body = "\n".join(part for part in parts if part)
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{POLICY}<meta name="viewport" content="width=device-width, '
            f'initial-scale=1"><link rel="icon" href="data:,"><title>{html_text(title)}</title>\n<style>\n{style}</style></head>\n'
            f"<body><main>\n{body}\n<footer>rd-bench, format {report['format']}. Raw nanoseconds: samples.json.</footer></main></body>"
            "</html>\n")


def _header(title: str, report: Mapping[str, Any], names: list[str]) -> str:
    return (f"<header><h1>{html_text(title)}</h1><p>{len(names)} artifact{'' if len(names) == 1 else 's'}, {len(report['rows'])} cells. "
            f"{html_text(machine_text(report['machine'], report))}</p></header>")


def _warnings(report: Mapping[str, Any]) -> str:
    lists = "".join(f"<h2>{title}</h2><ul>{''.join(f'<li>{html_text(line)}</li>' for line in lines)}</ul>"
                    for title, lines in warnings_of(report["rows"]))
    return f'<section class="warnings">{lists}</section>' if lists else ""


def _colour(names: list[str], name: str) -> str:
    return f"var(--s{names.index(name) % COLOURS})"


def _front(rows: list[dict[str, Any]], names: list[str]) -> str:
    """AUROC over p50 of a single image: the front of what is worth having, and the teacher."""
    head = "<section><h2>Latency against AUROC</h2>"
    scored = [row for row in rows if row["path"] == "array" and row["batch"] == min(other["batch"] for other in rows) and row.get("score")]
    if not scored:
        return (f'{head}<p class="note">No picture: none of these artifacts carries an AUROC. rd-export takes it along from the student\'s '
                "metrics.json.</p></section>")
    value = {id(row): row["score"]["auroc"]["value"] for row in scored}
    teachers = {row["score"]["teacher_auroc"]["value"] for row in scored if row["score"].get("teacher_auroc")}
    measured = any(row.get("teacher") for row in rows)
    bounds = [row["score"]["auroc"].get(end, value[id(row)]) for row in scored for end in ("low", "high")]
    bounds += [] if measured else list(teachers)
    low, high = min(bounds), max(bounds)
    room = max(0.01, (high - low) * 0.12)
    x, y = svg.horizontal([row["p50_ms"] for row in scored]), svg.vertical(low - room, min(high + room, 1.002))
    body = [svg.line([(svg.LEFT, y.at(auroc)), (svg.WIDTH - svg.RIGHT, y.at(auroc))], "var(--muted)", dashes="6 4")
            for auroc in sorted(teachers) if not measured]
    front = sorted(scored, key=lambda row: (row["p50_ms"], -value[id(row)]))
    best = [row for place, row in enumerate(front) if all(value[id(row)] > value[id(other)] for other in front[:place])]
    body.append(svg.line([(x.at(row["p50_ms"]), y.at(value[id(row)])) for row in best], "var(--muted)", width=1.2,
                         title="the best of each"))
    threads = sorted({row["threads"] for row in scored})
    for row in scored:
        colour, place, score = _colour(names, row["artifact"]), x.at(row["p50_ms"]), row["score"]["auroc"]
        if "low" in score:
            body.append(svg.line([(place, y.at(score["low"])), (place, y.at(score["high"]))], colour, width=1))
        body.append(svg.mark("teacher" if row.get("teacher") else row["precision"], place, y.at(score["value"]), colour,
                             f"{row['artifact']}, {threads_text(row)}: {number(row['p50_ms'])} ms, AUROC {score['value']:.3f}",
                             hollow=row["threads"] != threads[0]))
    picture = svg.chart(x, y, body, x_label="p50 of one call, ms (log)", y_label="AUROC", title="AUROC over latency")
    keys = "".join(f"<span>{svg.sample('teacher' if teacher else precision, _colour(names, name))}{html_text(name)}"
                   f"{' (teacher)' if teacher else ''}</span>" for name, precision, teacher in dict.fromkeys(
                       (row["artifact"], row["precision"], bool(row.get("teacher"))) for row in scored))
    line = (f" Dashed: the teacher {', '.join(f'{auroc:.3f}' for auroc in sorted(teachers))}, not measured here."
            if teachers and not measured else "")
    hollow = f" Hollow: more than {threads_text({'threads': threads[0]})}." if len(threads) > 1 else ""
    return (f'{head}<p class="note">AUROC of the student on its {html_text(scored[0]["score"]["split"])} split with its 95 % interval; '
            f'array to decision, batch {scored[0]["batch"]}.{hollow}{line}</p>{picture}<div class="legend">{keys}</div></section>')


def _distributions(rows: list[dict[str, Any]], raw: list[Any], names: list[str], path: str, report: Mapping[str, Any]) -> str:
    """Share of calls that took no longer than so many milliseconds."""
    least = min(row["batch"] for row in rows)
    chosen = [(row, values) for row, values in zip(rows, raw, strict=True) if row["path"] == path and row["batch"] == least]
    if not chosen:
        return ""
    low = min(float(values.min()) for _, values in chosen)
    high = max(float(np.percentile(values, 99.9)) for _, values in chosen)
    x, y = svg.horizontal([low, high]), svg.vertical(0, 1)
    ways = list(dict.fromkeys((row["threads"], row["spin"] is not False) for row, _ in chosen))
    body, last = [], list[str]()
    deadline = report["settings"].get("deadline_ms")
    if deadline and x.low < deadline < x.high:
        late = [(x.at(deadline), svg.TOP), (x.at(deadline), svg.HEIGHT - svg.BOTTOM)]
        last = [svg.line(late, "var(--bad)", dashes="3 3")]
        right = x.at(deadline) > 0.7 * svg.WIDTH  # the words stand where there is room for them
        last.append(svg.words(x.at(deadline) + (-4 if right else 4), svg.HEIGHT - svg.BOTTOM - 6, f"deadline {deadline:g} ms",
                              anchor="end" if right else "start", colour="var(--bad)"))
    for row, values in chosen:
        dashes = DASHES[ways.index((row["threads"], row["spin"] is not False)) % len(DASHES)]
        shares = np.linspace(0, 1, min(len(values), 240))
        places = np.quantile(values, shares)
        label = f"{row['artifact']}, {threads_text(row)}: p50 {number(row['p50_ms'])} ms"
        body.append(svg.line([(x.at(float(ms)), y.at(float(share))) for ms, share in zip(places, shares, strict=True)],
                             _colour(names, row["artifact"]), dashes=dashes, title=label))
    title = "Array to decision" if path == "array" else "File on disk to decision"
    keys = "".join(f"<span>{svg.stroke_sample(_colour(names, name))}{html_text(name)}</span>"
                   for name in dict.fromkeys(row["artifact"] for row, _ in chosen))
    keys += "".join(f"<span>{svg.stroke_sample('var(--ink)', DASHES[place % len(DASHES)])}"
                    f"{threads_text({'threads': count, 'spin': None if spin else False})}</span>"
                    for place, (count, spin) in enumerate(ways)) if len(ways) > 1 else ""
    picture = svg.chart(x, y, [*body, *last], x_label="milliseconds of one call (log)", y_label="share of calls",
                        title=f"{title}: distribution")
    return (f'<section><h2>{title}</h2><p class="note">Share of calls that took no longer than this, batch {least}; every call counts, up '
            f'to p99.9 is drawn.</p>{picture}<div class="legend">{keys}</div></section>')


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    tails = [key for key in ("p90", "p99", "p99.9") if any(f"{key}_ms" in row for row in rows)]
    head = ("artifact", "path", "batch", "threads", "p50 ms", *tails, "max", "images/s", "valid", "AUROC", "first ms", "load ms",
            "peak MiB", "model MB")
    lines = []
    for row in rows:
        cells = [row["path"], str(row["batch"]), threads_text(row), *(number(row.get(f"{key}_ms")) for key in ("p50", *tails, "max")),
            number(row["images_per_s"]), "yes" if row["valid"] else "no",
            auroc_text(row).partition(" ")[0], number(row["first_ms"]), number(row["load_ms"]), number(row.get("peak_rss_mib")),
            number(row["model_bytes"] / 1e6)]
        lines.append(f"<tr><th>{html_text(row['artifact'])}{' (teacher)' if row.get('teacher') else ''}</th>"
                     + "".join(f"<td{' class=no' if cell == 'no' else ''}>{html_text(cell)}</td>" for cell in cells) + "</tr>")
    return "<section><h2>All cells</h2>" + _scrolled(head, lines) + (
        '<p class="note">A percentile that has too few samples behind it is not shown.</p></section>')


def _verdicts(report: Mapping[str, Any]) -> str:
    lines = [f"<li>{html_text(verdict['artifact'])}: int8 is {'' if verdict['keep'] else 'not '}worth it here, "
             f"{html_text(verdict['reason'])}.</li>"
             for verdict in report.get("int8", ())]
    lines += [f"<li>{html_text(entry['artifact'])}, {entry['streams']} streams of {threads_text(entry)}: {number(entry['images_per_s'])} "
              f"images/s, {number(entry['mean_ms'])} ms each on average.</li>" for entry in report.get("streams", ())]
    lines += [f"<li>{html_text(name)}: {number(entry['images_per_s'])} images/s at most, batch {entry['batch']}"
              f"{', ' + str(entry['streams']) + ' streams' if entry['streams'] > 1 else ''}.</li>"
              for name, entry in report.get("offline", {}).items() if len({row["batch"] for row in report["rows"]}) > 1]
    return f"<section><h2>Precision and throughput</h2><ul>{''.join(lines)}</ul></section>" if lines else ""


def _roofline(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        if row.get("roofline"):
            limit = row["roofline"]
            lines.append(f"<tr><th>{html_text(row['artifact'])}</th>" + "".join(f"<td>{html_text(cell)}</td>" for cell in (
                str(row["batch"]), str(row["threads"]), number(limit["macs"] / 1e6), number(limit["bytes"] / 1e6), limit["precision"],
                number(limit["compute_ms"]), number(limit["memory_ms"]), number(row["p50_ms"]), f"{100 * limit['share']:.0f} %")) + "</tr>")
    if not lines:
        return ""
    head = ("artifact", "batch", "threads", "M MACs", "MB moved", "computed in", "arithmetic ms", "memory ms", "p50 ms", "share of limit")
    return ('<section><h2>Against the limit of this machine</h2><p class="note">The limit is the longer of two: all multiplications at the '
            "pace of this machine's fastest matrix product of that precision, or weights, input and output once through its memory at the "
            f"pace of a copy of that size. Both were measured in this run.</p>{_scrolled(head, lines)}</section>")


def _operators(report: Mapping[str, Any]) -> str:
    parts = []
    for profile in report.get("profiles", ()):
        if profile.get("operators"):
            lines = [f"<tr><th>{html_text(operator['name'])}</th><td>{html_text(operator['kind'])}</td><td>{number(operator['us'])}</td>"
                     f"<td>{100 * operator['share']:.1f} %</td></tr>" for operator in profile["operators"]]
            kinds = ", ".join(f"{kind['kind']} {100 * kind['share']:.0f} %" for kind in profile.get("kinds") or () if kind["share"] >= 0.01)
            parts += [f"<h3>{html_text(profile['artifact'])}, {threads_text(profile)}</h3>",
                      f'<p class="note">All operators by kind: {html_text(kinds)}.</p>' if kinds else "",
                      _scrolled(("operator", "kind", "microseconds", "share"), lines)]
        else:
            parts.append(f'<p class="note">{html_text(profile["artifact"])}: {html_text(profile.get("reason", "no profile"))}</p>')
    return (f'<section><h2>Slowest operators</h2><p class="note">By the runtime\'s own profiler, which slows it down; batch 1.</p>'
            f"{''.join(parts)}</section>") if parts else ""


def _scrolled(head: Sequence[str], lines: Sequence[str]) -> str:
    top = "".join(f"<th>{html_text(name)}</th>" for name in head)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _facts(report: Mapping[str, Any]) -> str:
    machine = {key: value for key, value in report["machine"].items() if key != "libraries"}
    machine |= report["machine"]["libraries"]
    machine |= {"load before, after": f"{report['before']['load_average']}, {report['after']['load_average']}",
                "temperatures before, after": ", ".join(str(report[when]["temperatures"] or "not told") for when in ("before", "after"))}
    for row in {row["artifact"]: row for row in report["rows"]}.values():
        ran = ", ".join(f"{count} layers {kind}" for kind, count in (row.get("layers") or {}).items()) or "layers not told"
        machine[row["artifact"]] = (f"{row['target']} {row['precision']}, {row['provider']}, {row['runtime']} {row['version']}, {ran}, "
                                    f"sha256 {row['model_sha256'][:16]}")
    lines = "".join(f"<dt>{html_text(key if ' ' in key else key.replace('_', ' '))}</dt><dd>{html_text(_plain(value))}</dd>"
                    for key, value in machine.items())
    return f"<section><h2>Machine and artifacts</h2><dl>{lines}</dl></section>"


def _plain(value: Any) -> str:
    if value in (None, "", []):
        return "not told"
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)


def _repeat(report: Mapping[str, Any]) -> str:
    return f"<section><h2>How to repeat it</h2><pre>{html_text(report['command'])}</pre></section>"
