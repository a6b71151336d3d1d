"""`hedgerl data import` and `hedgerl data check`: option chains of vendors into a store of Parquet files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from hedgerl.data.chains import FORMATS, Finding, Report, check, import_files
from hedgerl.pricing._checks import nearest

COMMANDS = ("import", "check")
_MISSING = 3  # days that are named; the rest is counted


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{self.prog.removeprefix('hedgerl ')}: {message}")


def main(arguments: list[str]) -> None:
    """Does what a command line asks for. Raises ValueError for a bad flag, bad input, and a store that is not whole."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise ValueError(f'data: unknown command "{arguments[0]}"; did you mean {nearest(arguments[0], COMMANDS)}?')
    given = _parser().parse_args(arguments)
    if given.command == "check":
        _check(given.store)
        return
    options = {"underlying": given.underlying, "date": given.date, "decimal": given.decimal}
    print(told(import_files(given.format, given.files, given.store, **options), given.store))


def _parser() -> _Parser:
    parser = _Parser(
        prog="hedgerl data", allow_abbrev=False, description="Option chains of vendors in a Parquet store."
    )
    commands = parser.add_subparsers(dest="command", metavar="import | check", required=True)
    add = commands.add_parser(
        "import",
        allow_abbrev=False,
        help="read files of a vendor into a store",
        description="Reads files of one format into a store, all or nothing. Days that it has are replaced.",
        epilog="\n".join(["formats:", *(f"  {name:<21} {each.what}" for name, each in FORMATS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("files", nargs="+", metavar="FILE", help="plain, gz or zip; those with parts of a day together")
    add.add_argument("--format", required=True, metavar="NAME", help="one of those below")
    add.add_argument("--store", required=True, metavar="DIR", help="folder of the store, made where there is none")
    add.add_argument("--underlying", metavar="SPX", help="what the options are on, where the files do not say")
    add.add_argument("--date", metavar="YYYY-MM-DD", help="day of a quote table (cboe-quotes)")
    add.add_argument("--decimal", metavar="SIGN", default=".", help="decimal sign, . or ,")
    look = commands.add_parser(
        "check",
        allow_abbrev=False,
        help="read a store again",
        description="Reads a whole store and says what it holds.",
    )
    look.add_argument("store", metavar="STORE")
    return parser


def _check(store: str) -> None:
    finding = check(store)
    print(held(finding))
    if finding.problems:
        more = f" (and {len(finding.problems) - 1} more)" if len(finding.problems) > 1 else ""
        raise ValueError(f"{finding.problems[0]}{more}")


def told(report: Report, store: str) -> str:
    """An import's report as text."""
    if report.unchanged:
        names = ", ".join(str(each["file"]) for each in report.files)
        return f"{names}: imported before, {store} is as it was"
    lines = _table(
        [("file", "rows", "kept", "dropped")]
        + [tuple(f"{each[name]}" for name in ("file", "read", "kept", "dropped")) for each in report.files]
    )
    met = [(kind, rule, each) for kind, rules in report.rules.items() for rule, each in rules.items()]
    if met:
        rows = [("", "rule", "rows", "first")]
        for kind, rule, each in met:
            first = each["examples"][0]
            rows.append((kind, rule, f"{each['rows']}", f"{first['file']}, line {first['line']}: {first['what']}"))
        lines += ["", *_table(rows, right=(2,))]
    lines += [""]
    for underlying, each in report.days.items():
        days = f"{each['days']} days, {each['first']} to {each['last']}" if each["days"] > 1 else each["first"]
        lines += [f"{underlying}: {each['rows']} rows on {days}"]
    if report.replaced["days"]:
        lines += [f"replaced: {report.replaced['days']} days of the store, which had {report.replaced['rows']} rows"]
    return "\n".join([*lines, f"{report.read} rows = {report.kept} kept + {report.dropped} dropped; store {store}"])


def held(finding: Finding) -> str:
    """A check's findings as text."""
    rows = [
        ("table", "underlying", "first", "last", "days", "rows", "contracts", "expiries", "zero bids", "missing days")
    ]
    for each in finding.holdings:
        named = " ".join(each.missing[:_MISSING]) + (" ..." if len(each.missing) > _MISSING else "")
        is_chain = each.table == "chains"
        rows.append(
            (
                *(each.table, each.underlying, each.first, each.last, f"{each.days}", f"{each.rows}"),
                f"{each.contracts}" if is_chain else "",
                f"{each.expiries}" if is_chain else "",
                f"{100 * each.zero_bids:.1f} %" if is_chain else "",
                f"{len(each.missing)} {named}".strip(),
            )
        )
    lines = _table(rows, right=(4, 5, 6, 7, 8)) if finding.holdings else ["the store is empty"]
    return "\n".join([*lines, *(f"problem: {each}" for each in finding.problems)])


def _table(rows: Sequence[tuple[str, ...]], right: Sequence[int] = (1, 2, 3)) -> list[str]:
    """Lines with the cells below one another; `right`: the columns of numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
