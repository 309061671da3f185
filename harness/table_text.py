"""A table as text: plain, Markdown and LaTeX (booktabs)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.errors import printable

if TYPE_CHECKING:
    from harness.tables import Entry, Table

FORMATS: dict[str, tuple[str, str]] = {  # name -> (file ending, about)
    "csv": ("csv", "long form, one row a task, method and metric"),
    "md": ("md", "Markdown"),
    "latex": ("tex", "LaTeX with booktabs"),
}
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "\n": " ",
}  # fmt: skip


def number(value: float) -> str:
    """Two decimals, never `-0.00`."""
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text


def signed(value: float) -> str:
    """Two decimals with a sign; no difference is `+0.00`."""
    text = f"{value:+.2f}"
    return "+0.00" if text == "-0.00" else text


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(LATEX.get(character, character) for character in printable(text.replace("\n", " ")))


def markdown_escape(text: str) -> str:
    """Text that neither ends a table cell nor becomes HTML."""
    text = printable(text.replace("\n", " "))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def spread(mean: float, std: float | None, plus_minus: str) -> str:
    """`0.93 ± 0.02`, or `0.93` without a deviation."""
    return number(mean) if std is None else f"{number(mean)}{plus_minus}{number(std)}"


def plain_cell(entry: Entry) -> str:
    """`0.93 ± 0.02 (0.95, -0.02) n=3`; `--` where there is no record."""
    ours = "--" if entry.mean is None else spread(entry.mean, entry.std, " ± ")
    behind = [] if entry.paper_mean is None else [number(entry.paper_mean)]
    behind += [] if entry.diff is None else [signed(entry.diff)]
    text = ours + (f" ({', '.join(behind)})" if behind else "")
    return text + (f" n={len(entry.values)}" if 0 < len(entry.values) < entry.planned else "")


def latex_cell(entry: Entry) -> str:
    """As `plain_cell`, the paper's number and the difference in small type."""
    pm = r" \pm "
    ours = "--" if entry.mean is None else f"${spread(entry.mean, entry.std, pm)}$"
    behind = [] if entry.paper_mean is None else [number(entry.paper_mean)]
    behind += [] if entry.diff is None else [f"${signed(entry.diff)}$"]
    text = ours + (rf" {{\scriptsize ({', '.join(behind)})}}" if behind else "")
    return text + (rf" {{\scriptsize $n={len(entry.values)}$}}" if 0 < len(entry.values) < entry.planned else "")


def grid(table: Table, cell: Any, escape: Any) -> list[list[str]]:
    """Head and body as strings."""
    head = ["Task", *(escape(title) for _, title in table.columns)]
    return [head] + [
        [escape(title), *(cell(table.entries[row][method]) for method, _ in table.columns)] for row, title in table.rows
    ]


def table_text(table: Table, form: str) -> str:
    """The table as `text`, `md` or `latex`."""
    if form == "latex":
        return latex(table)
    if form == "md":
        lines = grid(table, plain_cell, markdown_escape)
        rule = ["---", *(":---:" for _ in table.columns)]
        body = "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
        notes = "  \n".join(f"_{markdown_escape(note)}_" for note in table.notes)
        return f"**{markdown_escape(table.title)}**\n\n{body}\n\n{notes}\n"
    return plain(table)


def plain(table: Table) -> str:
    """For a terminal: one line a task and method, narrow enough for 80 columns."""
    lines = [["task", "method", "ours", "paper", "difference", "seeds"]]
    for row, title in table.rows:
        for method, head in table.columns:
            e = table.entries[row][method]
            ours = "--" if e.mean is None else spread(e.mean, e.std, " ± ")
            paper = "--" if e.paper_mean is None else spread(e.paper_mean, e.paper_std, " ± ")
            count = len(e.values)
            seeds = f"{count} of {e.planned}" if count < e.planned else str(count)
            lines.append([title, head, ours, paper, "" if e.diff is None else signed(e.diff), seeds])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(printable(t).ljust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(
        [table.title, text[0], "-" * len(max(text, key=len)), *text[1:], *table.notes[:1], *table.notes[2:]]
    )


def latex(table: Table) -> str:
    """A `table` environment for the booktabs package."""
    lines = grid(table, latex_cell, latex_escape)
    body = [" & ".join(line) + r" \\" for line in lines]
    caption = ". ".join([latex_escape(table.title), *(latex_escape(note) for note in table.notes)])
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}.}}",
            rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
