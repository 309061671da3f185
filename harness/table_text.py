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
    "±": r"$\pm$", "σ": r"$\sigma$", "×": r"$\times$", "–": "--", "\n": " ",
}  # fmt: skip


def number(value: float, digits: int = 2) -> str:
    """So many decimals, never `-0.00`."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def signed(value: float, digits: int = 2) -> str:
    """So many decimals with a sign; no difference is `+0.00`."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "+") if float(text) == 0 else text


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it stands; a letter outside Latin, which its fonts lack, as its number."""
    return "".join(
        LATEX.get(c) or (c if ord(c) < 0x180 else f"[U+{ord(c):04X}]") for c in printable(text.replace("\n", " "))
    )


def markdown_escape(text: str) -> str:
    """Text that neither ends a table cell nor becomes HTML."""
    text = printable(text.replace("\n", " "))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def spread(mean: float, std: float | None, plus_minus: str, digits: int = 2) -> str:
    """`0.93 ± 0.02`, or `0.93` without a deviation."""
    return number(mean, digits) if std is None else f"{number(mean, digits)}{plus_minus}{number(std, digits)}"


def ours_text(entry: Entry, table: Table, plus_minus: str = " ± ") -> str:
    """What stands for our number: mean and deviation, words, or `--`."""
    if entry.mean is None:
        return entry.text or "--"
    return spread(entry.mean, entry.std, plus_minus, table.digits)


def behind(entry: Entry, table: Table, sigma: str) -> tuple[str, list[str]]:
    """The paper's number or words ("": none, or the same as ours), and the difference, plain and in standard errors."""
    if entry.paper_mean is None:
        return (entry.paper_text if entry.paper_text != entry.text else ""), []
    differences = [] if entry.diff is None else [signed(entry.diff, table.digits)]
    differences += [] if entry.z is None else [signed(entry.z, 1) + sigma]
    return entry.paper_text or number(entry.paper_mean, table.digits), differences


def counted(entry: Entry) -> str:
    """`n=3` where fewer values than planned are there."""
    return f"n={len(entry.values)}" if 0 < len(entry.values) < entry.planned else ""


def marks(table: Table, row: str, column: str) -> tuple[bool, bool]:
    """(bold, underlined): best of the columns that compete for it."""
    return column in table.best(row, table.bold), column in table.best(row, table.underline)


def plain_cell(table: Table, row: str, column: str) -> str:
    """Markdown: `**0.93 ± 0.02** (0.95, -0.02, -0.9σ) n=3`; `--` where there is no record."""
    entry = table.entries[row][column]
    bold, underlined = marks(table, row, column)
    text = markdown_escape(ours_text(entry, table))
    text = f"**{text}**" if bold else text
    text = f"<ins>{text}</ins>" if underlined else text
    paper, differences = behind(entry, table, "σ")
    more = f"({', '.join([markdown_escape(paper), *differences])})" if paper else ""
    return " ".join(part for part in (text, more, counted(entry)) if part)


def latex_cell(table: Table, row: str, column: str) -> str:
    """As `plain_cell`, the paper's number and the differences in small type."""
    entry = table.entries[row][column]
    bold, underlined = marks(table, row, column)
    text = ours_text(entry, table, r" \pm ")
    text = text if entry.mean is None else f"${text}$"
    text = latex_escape(entry.text) if entry.text else text
    text = rf"{{\boldmath\bfseries {text}}}" if bold else text
    text = rf"\underline{{{text}}}" if underlined else text
    paper, differences = behind(entry, table, r"\sigma")
    if paper:
        more = ", ".join([latex_escape(paper), *(f"${difference}$" for difference in differences)])
        text += rf" {{\scriptsize ({more})}}"
    return text + (rf" {{\scriptsize $n={len(entry.values)}$}}" if counted(entry) else "")


def grid(table: Table, cell: Any, escape: Any) -> list[list[str]]:
    """Head and body as strings."""
    head = [escape(table.corner), *(escape(title) for _, title in table.columns)]
    return [head] + [
        [escape(title), *(cell(table, row, method) for method, _ in table.columns)] for row, title in table.rows
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
    lines = [[table.corner.lower(), "method", "ours", "paper", "difference", "seeds"]]
    for row, title in table.rows:
        for method, head in table.columns:
            e = table.entries[row][method]
            ours = ours_text(e, table)
            paper = e.paper_text or "--"
            if e.paper_mean is not None and not e.paper_text:
                paper = spread(e.paper_mean, e.paper_std, " ± ", table.digits)
            count = len(e.values)
            seeds = f"{count} of {e.planned}" if count < e.planned else str(count)
            lines.append([title, head, ours, paper, "" if e.diff is None else signed(e.diff, table.digits), seeds])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(printable(t).ljust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(
        [table.title, text[0], "-" * len(max(text, key=len)), *text[1:]]
        + [printable(note) for note in table.notes if not note.startswith("ours: mean")]
    )


def latex(table: Table) -> str:
    """A `table` environment for the booktabs package."""
    lines = grid(table, latex_cell, latex_escape)
    body = [" & ".join(line) + r" \\" for line in lines]
    caption = ". ".join(latex_escape(text) for text in (table.title, *table.notes))
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
