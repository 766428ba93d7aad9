"""Programs that state their results, in Python, Rust and JavaScript."""

from __future__ import annotations

from pytest_pot.prompts.challenges import words
from pytest_pot.prompts.challenges.template import Template, Values

__all__ = ["CODE"]


def _python(v: Values) -> Values:
    first = [v["v1"], v["v2"], v["v3"], v["v4"]]
    second = [v["w1"], v["w2"], v["w3"]]
    figures: dict[str, object] = {}
    for name, numbers in (("one", first), ("two", second)):
        above = [number for number in numbers if number > v["limit"]]
        figures[name] = f"({sum(above) * v['factor']}, {len(numbers) - len(above)})"
    return figures


_PYTHON = Template(
    "code",
    {
        "verb": words.VERBS,
        "noun": words.NOUNS,
        "limit": range(20, 80),
        "factor": range(2, 20),
        **{name: range(10, 100) for name in ("v1", "v2", "v3", "v4", "w1", "w2", "w3")},
    },
    "def ${verb}_$noun(values, limit=$limit):\n"
    '    """Add up what is above the limit, times $factor, and count the rest.\n'
    "\n"
    "    >>> ${verb}_$noun([$v1, $v2, $v3, $v4])\n"
    "    $one\n"
    '    """‖\n'
    "    total = 0\n"
    "    rest = 0\n"
    "    for value in values:\n"
    "        if value > limit:\n"
    "            total += $factor * value\n"
    "        else:\n"
    "            rest += 1\n"
    "    return total, rest\n"
    "\n"
    "\n"
    "def test_${verb}_$noun():\n"
    "    assert ${verb}_$noun([]) == (0, 0)\n"
    "    assert ${verb}_$noun([$limit]) == (0, 1)\n"
    "    assert ${verb}_$noun([$w1, $w2, $w3]) == $two",
    _python,
)


def _rust(v: Values) -> Values:
    states = [v["seed"]]
    for byte in (v["a"], v["b"], v["c"]):
        states.append((states[-1] * v["factor"] + byte) % v["modulus"])
    return {"after_a": states[1], "after_b": states[2], "after_c": states[3]}


_RUST = Template(
    "code",
    {
        "noun": words.NOUNS,
        "factor": range(31, 1000),
        "modulus": range(1009, 10000),
        "seed": range(1, 1000),
        "a": range(256),
        "b": range(256),
        "c": range(256),
    },
    "/// A rolling checksum over $noun: multiply, add, keep the remainder.\n"
    "pub fn checksum_of_$noun(data: &[u64]) -> u64 {\n"
    "    const FACTOR: u64 = $factor;\n"
    "    const MODULUS: u64 = $modulus;\n"
    "    let mut state = $seed;‖\n"
    "    for &value in data {\n"
    "        state = (state * FACTOR + value) % MODULUS;\n"
    "    }\n"
    "    state\n"
    "}\n"
    "\n"
    "#[test]\n"
    "fn known_values() {\n"
    "    assert_eq!(checksum_of_$noun(&[]), $seed);\n"
    "    assert_eq!(checksum_of_$noun(&[$a]), $after_a);\n"
    "    assert_eq!(checksum_of_$noun(&[$a, $b]), $after_b);\n"
    "    assert_eq!(checksum_of_$noun(&[$a, $b, $c]), $after_c);\n"
    "}",
    _rust,
)


def _javascript(v: Values) -> Values:
    total = v["p"] * v["n"] + v["q"] * v["m"]
    return {"total": total, "cheap": total - v["off"], "both": v["p"] + v["q"]}


_JAVASCRIPT = Template(
    "code",
    {
        "name": words.MEN,
        "good": words.PRODUCE,
        "p": range(105, 1000),
        "other": words.NOUNS,
        "q": range(105, 1000),
        "n": range(2, 31),
        "m": range(2, 31),
        "off": range(10, 200),
    },
    "// Prices in cents, kept by $name\n"
    "const prices = new Map([\n"
    '  ["$good", $p],\n'
    '  ["$other", $q],\n'
    "]);\n"
    "\n"
    "export function total(basket, voucher = 0) {‖\n"
    "  let sum = -voucher;\n"
    "  for (const [article, count] of Object.entries(basket)) {\n"
    "    if (!prices.has(article)) {\n"
    "      throw new RangeError(`unknown article: $${article}`);\n"
    "    }\n"
    "    sum += prices.get(article) * count;\n"
    "  }\n"
    "  return Math.max(sum, 0);\n"
    "}\n"
    "\n"
    "console.log(total({ $good: 1 })); // $p\n"
    "console.log(total({ $good: 1, $other: 1 })); // $both\n"
    "console.log(total({ $good: $n, $other: $m })); // $total\n"
    "console.log(total({ $good: $n, $other: $m }, $off)); // $cheap",
    _javascript,
)

CODE = (_PYTHON, _RUST, _JAVASCRIPT)
