"""Small option chains in each vendor's layout, written here: nothing of a vendor's is kept in the repository."""

from __future__ import annotations

import gzip
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

SPOT = 3000.0
DAYS = ("2019-04-24", "2019-04-25", "2019-04-26")


@dataclass(frozen=True)
class Quote:
    """One contract on one day, with round numbers that every layout can write."""

    day: str
    expiry: str
    strike: float
    right: str
    bid: float
    ask: float
    last: float = 1.25
    volume: int = 7
    interest: int = 11
    iv: float = 0.1875
    delta: float = 0.5
    gamma: float = 0.0625
    theta: float = -0.5
    vega: float = 0.75
    rho: float = 0.125
    root: str = "SPXW"
    underlying: str = "SPX"

    @property
    def symbol(self) -> str:
        return f"{self.root}{self.expiry[2:].replace('-', '')}{self.right}{round(1000 * self.strike):08d}"

    @property
    def word(self) -> str:
        return {"C": "call", "P": "put"}[self.right]


def quotes(days=DAYS, strikes=8, root="SPXW", underlying="SPX", spot=SPOT) -> list[Quote]:
    """Calls and puts about the money, sorted as a store sorts them; every day's quotes differ."""
    made = []
    for number, day in enumerate(days):
        for expiry in ("2019-05-17", "2019-06-21"):
            for place in range(strikes):
                strike = spot + 25.0 * (place - strikes // 2)
                for right in "CP":
                    inner = max(spot - strike, 0.0) if right == "C" else max(strike - spot, 0.0)
                    bid = inner + 20.0 + number + 0.25 * place
                    made.append(Quote(day, expiry, strike, right, bid, bid + 1.5, root=root, underlying=underlying))
    return made


def us(day: str, zeros: bool = True) -> str:
    year, month, rest = day.split("-")
    return f"{month}/{rest}/{year}" if zeros else f"{int(month)}/{int(rest)}/{year}"


def generic(chain: list[Quote], delimiter: str = ",") -> str:
    head = "quote_date underlying underlying_price root expiry strike right style bid ask last volume open_interest iv"
    lines = [delimiter.join([*head.split(), "delta", "gamma", "theta", "vega", "rho"])]
    for q in chain:
        cells = (
            *(q.day, q.underlying, SPOT, q.root, q.expiry, q.strike, q.right, "E", q.bid, q.ask, q.last, q.volume),
            *(q.interest, q.iv, q.delta, q.gamma, q.theta, q.vega, q.rho),
        )
        lines.append(delimiter.join(map(str, cells)))
    return "\n".join(lines) + "\n"


def historicaloptiondata(chain: list[Quote]) -> str:
    lines = [
        "\ufeffunderlying,underlying_last, exchange,optionroot,optionext,type,expiration,quotedate,strike,last,bid,ask,"
        "volume,openinterest,impliedvol,delta,gamma,theta,vega,optionalias"
    ]
    for q in chain:
        lines.append(
            f"{q.root},{SPOT},W,{q.symbol},,{q.word},{us(q.expiry)},{us(q.day)},{q.strike:g},{q.last},{q.bid},{q.ask},"
            f"{q.volume},{q.interest},{q.iv},{q.delta},{q.gamma},{q.theta},{q.vega},{q.symbol}"
        )
    return "\r\n".join(lines) + "\r\n"


def ivolatility(chain: list[Quote]) -> str:
    lines = [
        "symbol,exchange,company_name,date,stock_price_close,option_symbol,option_expiration,strike,call/put,style,ask,bid,"
        "mean_price,settlement,iv,volume,open_interest,stock_price_for_iv,forward_price,isinterpolated,delta,vega,gamma,"
        "theta,rho"
    ]
    for q in chain:
        symbol = f"{q.root:<6}{q.symbol.removeprefix(q.root)}"
        lines.append(
            f"SPX,CBOE,S&P 500 Index (SPX),{us(q.day)},{SPOT},{symbol},{us(q.expiry)},{q.strike},{q.right},E,{q.ask},"
            f"{q.bid},{(q.ask + q.bid) / 2},0.0,{q.iv},{q.volume},{q.interest},{SPOT},{SPOT},*,{q.delta},{q.vega},"
            f"{q.gamma},{q.theta},{q.rho}"
        )
    return "\n".join(lines) + "\n"


def pairs(chain: list[Quote]) -> list[tuple[Quote, Quote]]:
    """The call and the put of each day, expiry and strike."""
    calls = [q for q in chain if q.right == "C"]
    puts = {(q.day, q.expiry, q.strike): q for q in chain if q.right == "P"}
    return [(call, puts[call.day, call.expiry, call.strike]) for call in calls]


def cboe_quotes(chain: list[Quote], downloaded: str = "Apr 28 2019 @ 18:24 ET") -> str:
    side = "Last Sale,Net,Bid,Ask,Vol,IV,Delta,Gamma,Open Int"
    lines = [
        f"^SPX (Standard & Poors 500 Index),{SPOT},-104.4701",
        f"{downloaded},Bid,2900,Ask,3100,Size,1x1,Vol,",
        f"Expiration Date,Calls,{side},Strike,Puts,{side}",
    ]
    for call, put in pairs(chain):
        call_side, put_side = (
            f"{q.symbol},{q.last},0,{q.bid},{q.ask},{q.volume},{q.iv},{q.delta},{q.gamma},{q.interest}"
            for q in (call, put)
        )
        lines.append(f"{us(call.expiry)},{call_side},{call.strike:.3f},{put_side}")
    return "\r\n".join(lines) + "\r\n"


def cboe_datashop(chain: list[Quote]) -> str:
    names = (
        "underlying_symbol quote_date root expiration strike option_type open high low close trade_volume "
        "bid_size_1545 bid_1545 ask_size_1545 ask_1545 underlying_bid_1545 underlying_ask_1545 "
        "active_underlying_price_1545 implied_volatility_1545 delta_1545 gamma_1545 theta_1545 vega_1545 "
        "rho_1545 open_interest"
    )
    lines = [",".join(f'"{name}"' for name in names.split()).replace('"quote_date"', '"quote_date"    ')]
    for q in chain:
        lines.append(
            f'"^SPX"             ,{us(q.day, zeros=False)} 0:00:00,"{q.root}",{us(q.expiry, zeros=False)} 0:00:00,'
            f'{q.strike:.2f}  ,"{q.right.lower()}"          ,0.00  ,0.00  ,0.00 ,{q.last}   ,{q.volume}   ,100  ,'
            f"{q.bid}  ,100 ,{q.ask}  ,{SPOT - 0.5}   ,{SPOT + 0.5}   ,0.00   ,{q.iv}  ,{q.delta} ,{q.gamma} ,"
            f"{q.theta} ,{q.vega} ,{q.rho}  ,{q.interest}"
        )
    return "\n".join(lines) + "\n"


def optionsdx(chain: list[Quote]) -> str:
    names = (
        "QUOTE_UNIXTIME QUOTE_READTIME QUOTE_DATE QUOTE_TIME_HOURS UNDERLYING_LAST EXPIRE_DATE EXPIRE_UNIX DTE C_DELTA "
        "C_GAMMA C_VEGA C_THETA C_RHO C_IV C_VOLUME C_LAST C_SIZE C_BID C_ASK STRIKE P_BID P_ASK P_SIZE P_LAST P_DELTA "
        "P_GAMMA P_VEGA P_THETA P_RHO P_IV P_VOLUME STRIKE_DISTANCE STRIKE_DISTANCE_PCT"
    )
    lines = [", ".join(f"[{name}]" for name in names.split())]
    for c, p in pairs(chain):
        lines.append(
            f"1556222400, {c.day} 16:00, {c.day}, 16.0, {SPOT}, {c.expiry}, 1558123200, 21.0, {c.delta}, {c.gamma}, "
            f"{c.vega}, {c.theta}, {c.rho}, {c.iv}, {c.volume}.000000, {c.last}, 10 x 1, {c.bid}, {c.ask}, {c.strike}, "
            f"{p.bid}, {p.ask}, 0 x 250, {p.last}, {p.delta}, {p.gamma}, {p.vega}, {p.theta}, {p.rho}, {p.iv}, "
            f"{p.volume}.000000, 1.0, 0.001"
        )
    return "\n".join(lines) + "\n"


def lean(path: Path, chain: list[Quote]) -> Path:
    """A zip with a file for each contract, and one of trades, which is not wanted."""
    members: dict[str, list[str]] = {}
    for q in chain:
        expiry = q.expiry.replace("-", "")
        name = f"spx_quote_european_{q.word}_{round(10_000 * q.strike)}_{expiry}.csv"
        bid, ask = round(10_000 * q.bid), round(10_000 * q.ask)
        members.setdefault(name, []).append(f"{q.day.replace('-', '')} 00:00,1,2,3,{bid},10,4,5,6,{ask},12\n")
    with zipfile.ZipFile(path, "w") as archive:
        for name, lines in members.items():
            archive.writestr(name, "".join(lines))
        archive.writestr("spx_trade_european_call_30000000_20190517.csv", "20190424 00:00,1,2,3,4,5\n")
    return path


def yahoo(prices: list[tuple[str, float]]) -> str:
    lines = ["Date,Open,High,Low,Close,Adj Close,Volume"]
    lines += [f"{day},{close - 1},{close + 2},{close - 2},{close},{close / 2},1000" for day, close in prices]
    return "\n".join(lines) + "\n"


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """The text in a file; packed where its name ends in .gz or .zip."""
    content = text.encode(encoding)
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("chain.csv", content)
    else:
        path.write_bytes(content)
    return path


def moved(chain: list[Quote], by: float) -> list[Quote]:
    """The same contracts at higher quotes."""
    return [replace(q, bid=q.bid + by, ask=q.ask + by) for q in chain]


# Ticks


@dataclass(frozen=True)
class Tick:
    """A quote, and a trade where there is a price, so many nanoseconds after midnight."""

    at: int
    bid: float
    ask: float
    bid_size: int = 300
    ask_size: int = 500
    price: float | None = None
    size: int | None = None

    @property
    def clock(self) -> str:
        seconds, rest = divmod(self.at, 10**9)
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:09d}"


def ticks(n=40, start=34_200, every=60) -> list[Tick]:
    """Quotes a cent wide, the times on whole seconds; every third is a trade at the ask, too."""
    made = []
    for number in range(n):
        bid = round(167.0 + 0.01 * (number * 7 % 13), 2)
        ask = round(bid + 0.01, 2)
        trade = {"price": ask, "size": 100 + number} if number % 3 == 0 else {}
        made.append(Tick((start + every * number) * 10**9, bid, ask, 300 + number, 500 - number, **trade))
    return made


def tick_cell(value: float | None) -> str:
    return "" if value is None else str(value)


def generic_ticks(rows: list[Tick], day: str = "2013-10-07") -> str:
    lines = ["timestamp,symbol,bid,ask,bid_size,ask_size,price,size"]
    for t in rows:
        cells = (t.bid, t.ask, t.bid_size, t.ask_size, t.price, t.size)
        lines.append(f"{day} {t.clock},SPY,{','.join(map(tick_cell, cells))}")
    return "\n".join(lines) + "\n"


def lean_equity(folder: Path, rows: list[Tick], resolution: str, day: str = "20131007") -> list[Path]:
    """The day's quote and trade zips. A bar of a second or minute begins that much before its tick."""
    begin = {"tick": 0, "second": 1_000, "minute": 60_000}[resolution]
    quotes_, trades = [], []
    for t in rows:
        at = t.at // 10**6 - begin
        bid, ask = round(10_000 * t.bid), round(10_000 * t.ask)
        if resolution == "tick":
            quotes_.append(f"{at}.0,{bid},{t.bid_size},{ask},{t.ask_size},P,1,0")
        else:
            bars = f"{bid - 900},{bid + 900},{bid - 900},{bid},{t.bid_size},{ask - 700},{ask + 900},{ask - 900},{ask}"
            quotes_.append(f"{at},{bars},{t.ask_size}")
        if t.price is not None:
            price = round(10_000 * t.price)
            bar = f"{price - 500},{price + 500},{price - 500},{price},{t.size}"
            trades.append(f"{at},{price},{t.size},D,1,0" if resolution == "tick" else f"{at},{bar}")
    files = []
    for kind, lines in (("quote", quotes_), ("trade", trades)):
        files.append(folder / f"{day}_{kind}.zip")
        with zipfile.ZipFile(files[-1], "w") as archive:
            archive.writestr(f"{day}_spy_{resolution}_{kind}.csv", "\n".join(lines))
    return files


def lobster(folder: Path, rows: list[Tick], day: str = "2013-10-07") -> list[Path]:
    """A message file and an order book of two levels: an execution where there is a trade, else a new order."""
    messages, book = [], []
    for number, t in enumerate(rows):
        seconds, rest = divmod(t.at, 10**9)
        event, size, price = (1, 18, t.bid) if t.price is None else (4 + number % 2, t.size, t.price)
        messages.append(f"{seconds}.{rest:09d},{event},{16113575 + number},{size},{round(10_000 * price)},1")
        bid, ask = round(10_000 * t.bid), round(10_000 * t.ask)
        book.append(f"{ask},{t.ask_size},{bid},{t.bid_size},{ask + 100},7,{bid - 100},8")
    files = [folder / f"SPY_{day}_34200000_57600000_{kind}_2.csv" for kind in ("message", "orderbook")]
    for file, lines in zip(files, (messages, book), strict=True):
        file.write_text("\n".join(lines) + "\n")
    return files
