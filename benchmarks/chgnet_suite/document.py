"""docs/benchmarks.md, the part between two markers, from the JSON that a run of the suite wrote.

    python benchmarks/chgnet_suite/document.py [--check]        (make bench-docs)

--check compares and ends with 1 if the page is stale; a test does this.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE, RESULTS = ROOT / "docs" / "benchmarks.md", ROOT / "benchmarks" / "results" / "chgnet.json"
FIGURE = "![Time per atom and step, speed against chgnet](figures/chgnet_speed.png)\n"
BEGIN, END = "<!-- begin: make bench-docs -->", "<!-- end -->"
PEER, BEFORE = "chgnet 0.4.2", "before"

Row = dict[str, Any]
Results = dict[str, Any]


def page(text: str, results: Results) -> str:
    """The page with tables of `results` between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"docs/benchmarks.md must contain the lines {BEGIN!r} and {END!r}; restore them")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    return f"{head}{BEGIN}\n\n{summary(results)}\n{END}{tail}"


def summary(results: Results) -> str:
    """All tables of what was measured, as markdown."""
    parts = [described(results)]
    if "step" in results:
        parts += [FIGURE, one_thread(results), ways(results), two_threads(results), large(results)]
    if "fused_ops" in results:
        parts.append(fused_ops(results))
    if "lammps" in results:
        parts.append(lammps(results))
    if "memory" in results or "lammps_memory" in results:
        parts.append(memory(results))
    return "\n".join(part for part in parts if part)


def described(results: Results) -> str:
    """Machine and versions."""
    machine, versions = results["machine"], results["versions"]
    workers = list(results["workers"].values())
    codes = {**versions, "torch": workers[-1]["torch"], "python": workers[-1]["python"]}
    codes |= {name: worker[name] for worker in workers for name in ("chgnet",) if name in worker}
    kernels, absent = results["kernels"], "avx512" not in results["kernels"]
    loads = results["load_average"]
    busy = " Other programs were running or had just ended: wall times may be too long." if loads[0] > 0.5 else ""
    variables = [f"{name}={value}" for name, value in machine["variables"].items()]
    return "\n".join(
        [
            f"- Machine: {machine['processor']}, {machine['cores']} cores, {', '.join(machine['instruction_sets'])}, "
            f"{machine['memory_gb']:.0f} GB.",
            f"- {results['date']}, {results['seconds']} s: `{' '.join([*variables, results['command']])}`",
            f"- Load average before the run and after each question: {', '.join(map(str, loads))}.{busy}",
            f"- {', '.join(f'{name} {value}' for name, value in codes.items())}.",
            f"- Kernels of libuip: {kernels[0]}; for comparison {', '.join(kernels[1:]) or 'none'}"
            + ("; avx512 was not run, this processor lacks it." if absent else "."),
            "",
        ]
    )


def table(title: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown with a heading; empty without rows."""
    head, lines = list(head), ["| " + " | ".join(row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"### {title}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|", *lines, ""])


def indexed(results: Results) -> dict[tuple[str, str, int], Row]:
    """Rows of steps by structure, way and threads."""
    return {(row["structure"], row["way"], row["threads"]): row for row in results["step"]}


def shared(results: Results) -> list[str]:
    """Structures that were measured with more than the main way."""
    others = {row["structure"] for row in results["step"] if row["way"] != results["main"]}
    return [name for name in dict.fromkeys(row["structure"] for row in results["step"]) if name in others]


def ratio(a: Row, b: Row, key: str) -> str:
    """How many times longer `a` takes: bests, median of rounds."""
    median = statistics.median(x / y for x, y in zip(a[key], b[key], strict=True))
    return f"{min(a[key]) / min(b[key]):.2f}x, {median:.2f}x"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.{max(0, 3 - len(str(int(value))))}f}"


def ms(row: Row | None, key: str) -> str:
    return number(min(row[key])) if row else ""


def per_atom(row: Row, key: str) -> str:
    return f"{1e3 * min(row[key]) / row['atoms']:.0f}"


def one_thread(results: Results) -> str:
    """Against the peer."""
    at, main = indexed(results), results["main"]

    def line(name: str) -> list[str]:
        theirs, ours = at[name, PEER, 1], at[name, main, 1]
        times = [ms(theirs, "cpu_ms"), ms(ours, "cpu_ms"), ms(theirs, "wall_ms"), ms(ours, "wall_ms")]
        return [name, *times, ratio(theirs, ours, "cpu_ms"), ratio(theirs, ours, "wall_ms"), per_atom(ours, "cpu_ms")]

    head = ["", f"{PEER}, ms", f"{main}, ms", f"{PEER}, wall ms", f"{main}, wall ms", "faster", "faster, wall"]
    rows = [line(name) for name in shared(results) if (name, PEER, 1) in at]
    return table(f"One thread, against {PEER}", [*head, "us/atom/step"], rows)


def ways(results: Results) -> str:
    """Ways of uip against the main one."""
    at, main = indexed(results), results["main"]
    others = [way for way in results_ways(results, 1) if way not in (PEER, main)]

    def line(name: str) -> list[str]:
        ours = at[name, main, 1]
        cells = [f"{ms(at[name, way, 1], 'cpu_ms')} ({ratio(at[name, way, 1], ours, 'cpu_ms')})" for way in others]
        return [name, ms(ours, "cpu_ms"), *cells]

    return table(
        f"Ways of uip, one thread: ms (times longer than {main})", ["", main, *others], map(line, shared(results))
    )


def results_ways(results: Results, threads: int) -> list[str]:
    return list(dict.fromkeys(row["way"] for row in results["step"] if row["threads"] == threads))


def two_threads(results: Results) -> str:
    """Against the peer, and against one thread."""
    at, main = indexed(results), results["main"]

    def line(name: str) -> list[str]:
        theirs, one, two = at.get((name, PEER, 2)), at[name, main, 1], at[name, main, 2]
        faster = ratio(theirs, two, "wall_ms") if theirs else ""
        return [name, ms(theirs, "wall_ms"), ms(two, "wall_ms"), faster, *speed_up(one, two)]

    head = ["", f"{PEER}, wall ms", f"{main}, wall ms", "faster, wall", "one / two threads, wall"]
    rows = [line(name) for name in shared(results) if (name, main, 2) in at]
    return table("Two threads", [*head, "two / one, processor time"], rows)


def speed_up(one: Row, two: Row) -> list[str]:
    return [ratio(one, two, "wall_ms"), ratio(two, one, "cpu_ms")]


def large(results: Results) -> str:
    """What was measured for uip alone."""
    at, main = indexed(results), results["main"]
    names = [name for name, way, threads in at if threads == 1 and name not in shared(results)]

    def line(name: str) -> list[str]:
        one, two = at[name, main, 1], at.get((name, main, 2))
        cells = [name, ms(one, "cpu_ms"), per_atom(one, "cpu_ms"), ms(one, "wall_ms")]
        return [*cells, ms(two, "wall_ms"), ratio(one, two, "wall_ms") if two else ""]

    head = ["", "one thread, ms", "us/atom/step", "wall ms", "two threads, wall ms", "one / two, wall"]
    return table(f"Large structures, {main} alone", head, map(line, names))


def fused_ops(results: Results) -> str:
    """Rates of messages relative to the product of matrices of the same process."""
    rows: list[Row] = results["fused_ops"]
    kinds = sorted({row["kind"] for row in rows if row["gflop"] > 0} - {"all", "gemm"})

    def line(structure: str, way: str) -> list[str]:
        rate = {(row["kind"], row["direction"]): row["gflop"] / row["ms"] * 1e3
                for row in rows if (row["structure"], row["way"]) == (structure, way)}  # fmt: skip
        peak, total = rate["gemm", "forward"], rate["all", "both"]
        return [
            structure,
            way,
            f"{peak:.0f}",
            *(both(rate, kind, peak) for kind in kinds),
            f"{total:.0f} ({total / peak:.0%})",
        ]

    pairs = dict.fromkeys((row["structure"], row["way"]) for row in rows)
    head = ["", "", "product of matrices", *kinds, "all"]
    return table("Fused messages, one thread: GFlop/s (share of the product)", head, [line(*pair) for pair in pairs])


def both(rate: dict[tuple[str, str], float], kind: str, peak: float) -> str:
    """Forward and gradient."""
    found = [rate.get((kind, direction)) for direction in ("forward", "gradient")]
    return ", ".join(f"{value:.0f} ({value / peak:.0%})" for value in found if value is not None)


def lammps(results: Results) -> str:
    rows: list[Row] = results["lammps"]
    one = rows[0]

    def line(row: Row) -> list[str]:
        outside = statistics.median(1 - p / w for p, w in zip(row["program_ms"], row["wall_ms"], strict=True))
        each = [ms(row, "cpu_ms"), per_atom(row, "cpu_ms"), ms(row, "wall_ms"), f"{outside:.1%}"]
        against = ["", ""] if row is one else [ratio(one, row, "wall_ms"), ratio(row, one, "cpu_ms")]
        return [row["way"], f"{row['ranks']} x {row['threads']}", *each, *against]

    head = ["", "ranks x threads", "ms a step", "us/atom/step", "wall ms", "outside of the program"]
    head += ["first row / this, wall", "this / first row, processor time"]
    return table(f"LAMMPS, {one['structure']}", head, map(line, rows)) + bytes_sent(rows)


def bytes_sent(rows: list[Row]) -> str:
    """Of the run on two ranks."""
    return "".join(
        f"\nTwo ranks: {row['ghosts']:.0f} ghosts counted, {row['estimated_ghosts']:.0f} by the surface estimate of\n"
        f"[scaling.md](scaling.md); {1e-6 * row['bytes']:.2f} MB sent per step by both, "
        f"{1e-6 * row['estimated_bytes']:.2f} MB estimated.\n"
        for row in rows
        if row["ranks"] == 2
    )


def memory(results: Results) -> str:
    """Of processes through ASE, one thread, and of LAMMPS."""
    rows: list[Row] = results.get("memory", [])
    peaks = {(row["structure"], row["way"]): max(row["load_mb"], row["step_mb"]) for row in rows}
    loading = {(row["structure"], row["way"]): f"{row['load_mb']:.0f}" for row in rows}
    peaks |= {(row["structure"], row["way"]): row["peak_mb"] for row in results.get("lammps_memory", [])}

    def line(structure: str, way: str) -> list[str]:
        peak, ours = peaks[structure, way], peaks.get((structure, results["main"]))
        more = f"{peak / ours:.1f}x" if ours and way != results["main"] else ""
        return [structure, way, f"{peak:.0f}", loading.get((structure, way), ""), more]

    head = ["", "", "MB", "of loading and 8 atoms", f"times more than {results['main']}"]
    return table("Peak memory of a process", head, [line(*key) for key in peaks])


def main(arguments: list[str], say: Callable[[str], object] = sys.stderr.write) -> int:
    """Write the page; with --check compare it and return 1 if it is stale."""
    old = PAGE.read_text()
    new = page(old, json.loads(RESULTS.read_text()))
    if "--check" not in arguments:
        PAGE.write_text(new)
    elif new != old:
        say(f"docs/benchmarks.md does not match {RESULTS.relative_to(ROOT)}; run 'make bench-docs'\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
