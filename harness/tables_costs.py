"""Tables 3, 6 and 7: what acting, training and more experts cost. Pure functions of measurements and records.

Table 3 is from measurements (harness/measurement.py): the paper's machine had an RTX 3070, so the ratios between the
methods compare, the milliseconds do not. Table 6: `train_s` of the records, the paper's hours are ranges. Table 7: the
records of the study `experts`; `train_s` holds validation and compilation besides the iterations.
"""

from __future__ import annotations

from typing import Any

from harness import measurement, record, studies
from harness.registry import Suites
from harness.tables import Entry, Found, Source, Table, origin, paper_lines, provenance, task_title

DEVICES = {"cpu": "CPU", "cuda": "GPU"}
NO_SPREAD = "the paper gives no spread: differences alone"


def inference(name: str, suites: Suites, source: Source, found: Found) -> Table:
    """Table 3: rows are methods, once for each way in which they were measured; columns are evaluations (NFE)."""
    block = suites.tables[name]
    measured, bad = measurement.read(source.measurements)
    measured = [one for one in measured if one["task"] == block["task"]]
    paper = {
        (line["method"], int(line["nfe"])): float(line["milliseconds"])
        for line in paper_lines(block["paper"])
        if line["task"] == block["task"]
    }
    ways: list[tuple[str, str, bool]] = list(
        dict.fromkeys((case["device"], case["mode"], case["copies"]) for one in measured for case in one["cases"])
    ) or [("", "", False)]
    rows, entries = [], {}
    for method in block["methods"]:
        title = suites.methods[method]["title"] if method in suites.methods else method.upper()
        for way in ways:
            mine = {nfe: times_of(measured, method, nfe, way) for nfe in block["evaluations"]}
            if not any(mine.values()) and not (way == ways[0] and not any(way)):
                continue  # nobody measures averaged weights of a method that has none
            row = "/".join(part for part in (method, *way[:2], "copies" if way[2] else "") if part)
            rows.append((row, f"{title}{way_text(way)}"))
            entries[row] = {
                str(nfe): Entry(row, str(nfe), "milliseconds", mine[nfe], len(mine[nfe]), paper.get((method, nfe)))
                for nfe in block["evaluations"]
            }
    notes = [machine_text(one) for one in measured] or ["no measurement yet: python -m harness bench inference"]
    notes += ["milliseconds an action ± standard deviation over turns (paper, difference)", NO_SPREAD]
    columns = [(str(nfe), f"NFE {nfe}") for nfe in block["evaluations"]]
    return Table(name, block["title"], rows, columns, entries, notes + bad, corner="Method")


def times_of(
    measured: list[measurement.Measurement], method: str, nfe: int, way: tuple[str, str, bool]
) -> tuple[float, ...]:
    """Milliseconds of a method with so many evaluations, measured in that way; the last measurement that has them."""
    times: tuple[float, ...] = ()
    for one in measured:
        for case in one["cases"]:
            if (case["method"], case["nfe"]) == (method, nfe) and (case["device"], case["mode"], case["copies"]) == way:
                times = tuple(case["ms"])
    return times


def way_text(way: tuple[str, str, bool]) -> str:
    """`, CPU, eager, weights copied`."""
    device, mode, copies = way
    parts = [DEVICES.get(device, device), mode, "weights copied" if copies else ""]
    return "".join(f", {part}" for part in parts if part)


def machine_text(one: measurement.Measurement) -> str:
    """What a measurement was made on."""
    p = one["provenance"]
    torch = p.get("versions", {}).get("torch", "unknown")
    load = f", load {p['load']}" if "load" in p else ""
    return f"ours: {p.get('device', 'unknown')}, torch {torch}, {p.get('threads', '?')} thread(s){load}"


def hours(name: str, suites: Suites, source: Source, found: Found) -> Table:
    """Table 6: hours of training, over all tasks and seeds; state and image."""
    block = suites.tables[name]
    paper = {line["method"]: line for line in paper_lines(block["paper"])}
    used: list[tuple[str, record.Record]] = []
    entries: dict[str, dict[str, Entry]] = {}
    for method in block["methods"]:
        entries[method] = {}
        for kind in ("state", "image"):
            mine = [
                entry for task in block[kind] for entry in found.get((task, method), {}).values()
                if entry["timings"].get("train_s")
            ]  # fmt: skip
            used += [(task_title(suites, entry["cell"]["task"]), entry) for entry in mine]
            times = tuple(entry["timings"]["train_s"] / 3600 for entry in mine)
            text = paper[method][f"{kind}_hours"].replace("-", "–")
            entries[method][kind] = Entry(
                method, kind, "hours", times, len(times), paper_text=text, **origin(mine)
            )  # fmt: skip
    rows = [
        (method, suites.methods[method]["title"] if method in suites.methods else method) for method in block["methods"]
    ]
    columns = [("state", "state-based"), ("image", "image-based")]
    notes = provenance(used) or ["no records yet"]
    notes += [f"ours on: {', '.join(devices([entry for _, entry in used]))}"] if used else []
    notes += ["ours: mean ± standard deviation over tasks and seeds (paper: one NVIDIA A100)"]
    return Table(name, block["title"], rows, columns, entries, notes, corner="Method")


def devices(entries: list[record.Record]) -> list[str]:
    """The devices of records, with their threads."""
    return sorted(
        {
            f"{e['provenance'].get('device', 'unknown')}, {e['provenance'].get('threads', '?')} thread(s)"
            for e in entries
        }
    )


def experts(name: str, suites: Suites, source: Source, found: Found) -> Table:
    """Table 7: trainable parameters and seconds for 1000 iterations, by number of experts."""
    block = suites.tables[name]
    variants = studies.load(source.studies).get(block["study"], {})
    method, mine = chosen(variants, block)
    paper = {line["experts"]: line for line in paper_lines(block["paper"])}
    rows = [("parameters", "Parameters (×10⁴)"), ("seconds", "Seconds for 1000 iterations")]
    entries: dict[str, dict[str, Entry]] = {row: {} for row, _ in rows}
    for variant in block["variants"]:
        here = mine.get(variant, [])
        sizes = tuple(entry["parameters"] / 1e4 for entry in here if entry["parameters"])
        trained = [e for e in here if e["timings"].get("train_s") and e["training"].get("steps")]
        seconds = tuple(1000 * e["timings"]["train_s"] / e["training"]["steps"] for e in trained)
        number, time = float(paper[variant]["parameters"]) / 1e4, float(paper[variant]["seconds_per_1k_iterations"])
        about = origin(here)
        same = sizes[:1] if len(set(sizes)) == 1 else sizes  # a size has no spread
        entries["parameters"][variant] = Entry(
            "parameters", variant, "parameters/1e4", same, len(same), number, **about
        )
        entries["seconds"][variant] = Entry("seconds", variant, "seconds", seconds, len(seconds), time, **about)
    columns = [(variant, variant) for variant in block["variants"]]
    everything = [entry for variant in block["variants"] for entry in mine.get(variant, [])]
    notes = provenance([(f"{method}", entry) for entry in everything]) or [
        f"no records yet: python -m harness.run --study {block['study']}"
    ]
    notes += [f"ours: {method} on {', '.join(devices(everything))} (paper: RTX 3070, difference)"] if everything else []
    return Table(name, block["title"], rows, columns, entries, [*notes, NO_SPREAD], corner="Experts")


def chosen(
    variants: dict[str, dict[studies.Group, list[Any]]], block: dict[str, Any]
) -> tuple[str, dict[str, list[Any]]]:
    """The first of the block's methods with records, and those by variant."""
    for method in block["methods"]:
        mine = {name: groups.get((block["task"], method), []) for name, groups in variants.items()}
        if any(mine.values()):
            return method, mine
    return block["methods"][0], {}
