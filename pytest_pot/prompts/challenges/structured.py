"""Structured texts: JSON, a Markdown table, a log."""

from __future__ import annotations

from pytest_pot.prompts.challenges import words
from pytest_pot.prompts.challenges.template import Template, Values, clock, money

__all__ = ["STRUCTURED"]


def _sensor(v: Values) -> Values:
    levels = [v["level"], v["level"] + v["rise"], v["level"] + v["rise"] - v["fall"]]
    return {
        "second": levels[1],
        "third": levels[2],
        "total": sum(levels),
        "highest": max(levels),
        "lowest": min(levels),
        "limit": levels[1] + v["spare"],
    }


_SENSOR = Template(
    "structured",
    {
        "village": words.VILLAGES,
        "river": words.RIVERS,
        "serial": range(10000, 100000),
        "year": range(1990, 2030),
        "month": range(1, 13),
        "level": range(40, 300),
        "rise": range(1, 60),
        "fall": range(1, 40),
        "spare": range(1, 100),
        "surname": words.SURNAMES,
    },
    "{\n"
    '  "gauge": {"place": "$village", "river": "$river", "serial": $serial, "installed": $year},\n'
    '  "unit": "cm",\n'
    '  "levels": [‖\n'
    '    {"month": $month, "hour": 6, "level": $level},\n'
    '    {"month": $month, "hour": 12, "level": $second},\n'
    '    {"month": $month, "hour": 18, "level": $third}\n'
    "  ],\n"
    '  "summary": {"count": 3, "sum": $total, "highest": $highest, "lowest": $lowest},\n'
    '  "alarm": {"limit": $limit, "below_limit_by": $spare, "raised": false},\n'
    '  "checked_by": "$surname",\n'
    '  "source": "https://gauges.example/$serial.json"\n'
    "}",
    _sensor,
)


def _table(v: Values) -> Values:
    sums = [v["n"] * v["p"], v["m"] * v["q"], v["k"] * v["r"]]
    return {
        "p_money": money(v["p"]),
        "q_money": money(v["q"]),
        "r_money": money(v["r"]),
        "first": money(sums[0]),
        "second": money(sums[1]),
        "third": money(sums[2]),
        "total": money(sum(sums)),
        "pieces": v["n"] + v["m"] + v["k"],
    }


_TABLE = Template(
    "structured",
    {
        "town": words.TOWNS,
        "good": words.STATIONERY[:12],
        "other": words.STATIONERY[12:],
        "third_good": words.PRODUCE,
        "n": range(2, 31),
        "m": range(2, 31),
        "k": range(2, 31),
        "p": range(105, 1000),
        "q": range(105, 1000),
        "r": range(105, 1000),
    },
    "Delivery to the school in $town\n"
    "\n"
    "| Article | Pieces | Price | Amount |\n"
    "|---|---:|---:|---:|\n"
    "| $good | $n | $p_money |‖ $first |\n"
    "| $other | $m | $q_money | $second |\n"
    "| $third_good | $k | $r_money | $third |\n"
    "| **Total** | **$pieces** | | **$total** |\n"
    "\n"
    "The $pieces pieces were counted when they arrived in $town, and the sum of the amounts, $first + $second + $third = "
    "$total, agrees with the invoice. The $third_good go to the kitchen, the $good and the $other to the store room.",
    _table,
)


def _log(v: Values) -> Values:
    minute = v["minute"]
    return {
        "t0": clock(minute),
        "t1": clock(minute + 1),
        "t2": clock(minute + v["wait"]),
        "t3": clock(minute + v["wait"] + v["run"]),
        "left": v["total"] - v["done"],
        "both": v["wait"] + v["run"],
    }


_LOG = Template(
    "structured",
    {
        "verb": words.VERBS,
        "noun": words.NOUNS,
        "run_id": range(10000, 100000),
        "minute": range(1200),
        "wait": range(2, 60),
        "run": range(2, 120),
        "total": range(5000, 10000),
        "done": range(100, 5000),
        "port": range(3000, 10000),
    },
    "$t0 INFO  ${verb}-$noun: run $run_id started, $total $noun to do\n"
    "$t1 INFO‖  ${verb}-$noun: connected to worker on port $port\n"
    "$t2 WARN  ${verb}-$noun: worker on port $port went away after $done $noun, $left left\n"
    "$t2 INFO  ${verb}-$noun: run $run_id goes on without it\n"
    "$t3 INFO  ${verb}-$noun: all $total $noun done, $left of them in the last $run minutes\n"
    "$t3 INFO  ${verb}-$noun: run $run_id took $both minutes\n"
    "$t3 INFO  ${verb}-$noun: sent a summary to the operators, and waiting for the next run",
    _log,
)

STRUCTURED = (_SENSOR, _TABLE, _LOG)
