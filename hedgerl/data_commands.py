"""`hedgerl data import`, `check` and `surface`: vendors' option chains and ticks into a store, and what they imply."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hedgerl.data.chains import FORMATS, Finding, Report, Store, check, import_files
from hedgerl.parsing import CommandParser
from hedgerl.pricing._checks import nearest

COMMANDS = ("import", "check", "surface")
_MISSING = 3  # days that are named; the rest is counted


def main(arguments: list[str]) -> None:
    """Does what a command line asks for. Raises ValueError for a bad flag, bad input, and a store that is not whole."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise ValueError(f'data: unknown command "{arguments[0]}"; did you mean {nearest(arguments[0], COMMANDS)}?')
    given = _parser().parse_args(arguments)
    if given.command == "check":
        _check(given.store)
        return
    if given.command == "surface":
        _surface(given)
        return
    options = {"underlying": given.underlying, "date": given.date, "decimal": given.decimal}
    print(told(import_files(given.format, given.files, given.store, **options), given.store))


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="hedgerl data", allow_abbrev=False, description="Option chains of vendors in a Parquet store."
    )
    commands = parser.add_subparsers(dest="command", metavar="import | check | surface", required=True)
    add = commands.add_parser(
        "import",
        allow_abbrev=False,
        help="read files of a vendor into a store",
        description="Reads files of one format into a store, all or nothing. Days that it has are replaced.",
        epilog="\n".join(["formats:", *(f"  {name:<21} {each.what}" for name, each in FORMATS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("files", nargs="+", metavar="FILE", help="text, gz, zip or Parquet; parts of a day together")
    add.add_argument("--format", required=True, metavar="NAME", help="one of those below")
    add.add_argument("--store", required=True, metavar="DIR", help="folder of the store, made where there is none")
    add.add_argument("--underlying", metavar="SPX", help="what the options are on, where the files do not say")
    add.add_argument("--date", metavar="YYYY-MM-DD", help="day of a quote table, or of ticks that have a time alone")
    add.add_argument("--decimal", metavar="SIGN", default=".", help="decimal sign, . or ,")
    look = commands.add_parser(
        "check",
        allow_abbrev=False,
        help="read a store again",
        description="Reads a whole store and says what it holds.",
    )
    look.add_argument("store", metavar="STORE")
    draw = commands.add_parser(
        "surface",
        allow_abbrev=False,
        help="fit and draw the volatility surface of a day",
        description="Fits the smiles of a day's chain without arbitrage, and writes a table, a picture and numbers.",
    )
    draw.add_argument("store", metavar="STORE")
    draw.add_argument("--date", required=True, metavar="YYYY-MM-DD", help="day of the quotes")
    draw.add_argument("--underlying", metavar="SPX", help="where the store has more than one")
    draw.add_argument("--at", default="16:15", metavar="HH:MM", help="time of the quotes")
    draw.add_argument("--smiles", default="svi", metavar="KIND", help="svi: each expiry by itself; ssvi: all together")
    draw.add_argument(
        "--rate", type=float, metavar="R", help="a year; None: what parity shows, needed for American options"
    )
    draw.add_argument("--out", default=".", metavar="DIR", help="folder of the picture and the numbers")
    return parser


def _surface(given: Any) -> None:
    from hedgerl.data import chain_surface  # these bring Matplotlib and SciPy's optimisers
    from hedgerl.data.quotes import expiries
    from hedgerl.files import write_bytes, write_text
    from hedgerl.report.surface_chart import surface_png

    store = Store(given.store)
    underlying = store.optioned(given.underlying)
    chain = store.chain(underlying, given.date)
    quoted = expiries(chain, at=given.at, rate=given.rate)
    surface = chain_surface.fit(quoted, underlying, given.date, smiles=given.smiles)
    errors, arbitrage = surface.errors(), surface.arbitrage()
    count = sum(each.quotes for each in errors)
    inside = sum(each.inside * each.quotes for each in errors) / count
    rows = [("root", "expiry", "days", "forward", "vol", "quotes", "inside", "rms", "raised")]
    for each in errors:
        rows.append(
            (
                *(each.root, each.date, f"{365 * each.years:.1f}", f"{each.forward:.2f}"),
                *(f"{100 * each.at_the_money:.2f}", f"{each.quotes}", f"{100 * each.inside:.1f} %"),
                *(f"{1e4 * each.root_mean_square:.0f}", f"{1e4 * each.raised:.0f}"),
            )
        )
    print("\n".join(_table(rows, right=tuple(range(2, len(rows[0]))))))
    print("vol: at the money, %; in 0.01 % of volatility: rms of surface less mid, and most raised by earlier expiries")
    print(
        f"\n{count} quotes of {len(errors)} expiries, {100 * inside:.1f} % between bid and ask; at {arbitrage.points} "
        f"points {arbitrage.butterflies} butterflies and {arbitrage.calendars} calendar spreads"
    )
    name = f"{underlying.lower()}_{surface.date}_{given.smiles}"
    content = {
        "underlying": underlying,
        "date": str(surface.date),
        "at": given.at,
        "smiles": given.smiles,
        "inside": inside,
        "arbitrage": arbitrage._asdict(),
        "expiries": [
            {
                **error._asdict(),
                "discount": each.discount,
                "smile": dataclasses.asdict(each.smile),
                "reach": each.reach,  # in log-moneyness; beyond, prices are powers of the strike
            }
            for error, each in zip(errors, surface.slices, strict=True)
        ],
    }
    folder = Path(given.out)
    write_bytes(folder / f"{name}.png", surface_png(surface, f"{underlying} on {surface.date}"))
    write_text(folder / f"{name}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    print(f"surface: {folder / name}.png, .json")


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
    ticks = [("ticks of", "quotes", "trades", "from", "to")]
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
        if each.table == "ticks":
            ticks.append((each.underlying, f"{each.quotes}", f"{each.trades}", *each.times))
    lines = _table(rows, right=(4, 5, 6, 7, 8)) if finding.holdings else ["the store is empty"]
    if len(ticks) > 1:
        lines += ["", *_table(ticks, right=(1, 2))]
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
