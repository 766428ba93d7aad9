"""Arithmetic and reasoning: worked solutions in which every figure follows from the drawn numbers."""

from __future__ import annotations

from pytest_pot.prompts.challenges import words
from pytest_pot.prompts.challenges.template import Template, Values, clock, money

__all__ = ["ARITHMETIC"]


def _people() -> tuple[str, ...]:
    return words.WOMEN + words.MEN


def _product(v: Values) -> Values:
    a, b, c = v["a"], v["b"], v["c"]
    return {
        "tens": b // 10 * 10,
        "units": b % 10,
        "by_tens": a * (b // 10 * 10),
        "by_units": a * (b % 10),
        "product": a * b,
        "total": a * b + c,
        "a9": a % 9,
        "b9": b % 9,
        "ab9": (a % 9) * (b % 9),
        "p9": a * b % 9,
    }


_PRODUCT = Template(
    "arithmetic",
    {
        "name": _people(),
        "a": range(1001, 10000),
        "b": [n for n in range(12, 100) if n % 10],
        "c": range(10007, 100000),
    },
    "$name works out $a × $b + $c on paper and explains each step:‖ first the product. $a × $tens = $by_tens, and $a × "
    "$units = $by_units. Together that makes $by_tens + $by_units = $product. Now add the last number: $product + $c = "
    "$total. To check the sum, go backwards: $total − $c = $product, and $product / $b = $a. To check the product in another "
    "way, divide by 9: $a leaves a remainder of $a9 and $b one of $b9. Now $a9 × $b9 = $ab9, which leaves $p9, and so does "
    "$product. The answer is $total.",
    _product,
)


def _receipt(v: Values) -> Values:
    first, second = v["n"] * v["p"], v["m"] * v["q"]
    total = first + second
    paid = (total // 5000 + 1) * 5000
    discount = (total + 5) // 10
    return {
        "p_money": money(v["p"]),
        "q_money": money(v["q"]),
        "first": money(first),
        "second": money(second),
        "total": money(total),
        "paid": money(paid),
        "change": money(paid - total),
        "discount": money(discount),
        "reduced": money(total - discount),
        "count": v["n"] + v["m"],
    }


_RECEIPT = Template(
    "arithmetic",
    {
        "name": words.WOMEN,
        "n": range(2, 31),
        "good": words.PRODUCE,
        "p": range(105, 2000),
        "m": range(2, 31),
        "other": words.STATIONERY,
        "q": range(105, 2000),
    },
    "$name buys $n kilos of $good at $p_money a kilo and $m $other at $q_money each. The bill:‖ the $good cost $n × $p_money "
    "= $first, and the $other cost $m × $q_money = $second. Both together are $first + $second = $total. She pays with $paid "
    "and is given $paid − $total = $change in return. With a discount of a tenth, which is $discount to the nearest cent, "
    "she would have paid $total − $discount = $reduced. Counting kilos and pieces alike, $n + $m = $count units were put on "
    "the scales or scanned.",
    _receipt,
)


def _connection(v: Values) -> Values:
    arrival = v["departure"] + v["train"]
    leaves = arrival + v["wait"]
    end = leaves + v["bus"]
    whole = end - v["departure"]
    return {
        "dep": clock(v["departure"]),
        "train_h": v["train"] // 60,
        "train_m": v["train"] % 60,
        "arrival": clock(arrival),
        "leaves": clock(leaves),
        "end": clock(end),
        "whole": whole,
        "whole_h": whole // 60,
        "whole_m": whole % 60,
    }


_CONNECTION = Template(
    "arithmetic",
    {
        "name": words.MEN,
        "departure": range(300, 840),
        "town": words.TOWNS,
        "village": words.VILLAGES,
        "train": range(65, 360),
        "wait": range(4, 45),
        "bus": range(12, 119),
    },
    "$name takes the train from $town at $dep. It needs $train_h h $train_m min to $village, where a bus leaves $wait "
    "minutes later and drives for another $bus minutes. He arrives at‖ $end. Step by step: $dep plus $train_h h $train_m min "
    "is $arrival, when the train comes in. After a wait of $wait minutes the bus leaves at $leaves, and $bus minutes after "
    "that it is $end. The train alone takes $train minutes, so the whole journey lasts $train + $wait + $bus = $whole "
    "minutes, which is $whole_h h $whole_m min. Adding that to $dep gives $end once more.",
    _connection,
)


def _ages(v: Values) -> Values:
    young, more, times, years = v["young"], v["more"], v["times"], v["years"]
    total = young * (times + 2) + more
    return {
        "times_word": {2: "twice", 3: "three times", 4: "four times"}[times],
        "total": total,
        "parts": times + 2,
        "rest": total - more,
        "middle": young + more,
        "old": young * times,
        "later": total + 3 * years,
        "added": 3 * years,
    }


_AGES = Template(
    "reasoning",
    {
        "w": words.WOMEN,
        "m": words.MEN,
        "o": words.OTHERS,
        "plan": words.PLANS,
        "town": words.TOWNS,
        "young": range(6, 19),
        "more": range(2, 41),
        "times": range(2, 5),
        "years": range(2, 31),
    },
    "$w, $m and $o want to start $plan in $town. $m is $more years older than $o, and $w is $times_word as old as $o. "
    "Together they are $total. How old is each of them?‖ Let $o be x years old. Then $m is x + $more and $w is ${times}x, "
    "and all three together are ${parts}x + $more. This is to be $total, so ${parts}x = $total − $more = $rest, and x = "
    "$rest / $parts = $young. Hence $o is $young, $m is $young + $more = $middle, and $w is $times × $young = $old. The "
    "check: $young + $middle + $old = $total. In $years years each of them will be $years years older, and the sum will have "
    "grown by 3 × $years = $added to $later.",
    _ages,
)


def _tank(v: Values) -> Values:
    rate = v["net"] + v["leak"]
    return {
        "pump": rate,
        "volume": v["net"] * v["minutes"],
        "dep": clock(v["start"]),
        "end": clock(v["start"] + v["minutes"]),
        "pumped": rate * v["minutes"],
        "lost": v["leak"] * v["minutes"],
    }


_TANK = Template(
    "reasoning",
    {
        "name": _people(),
        "vessel": words.VESSELS,
        "village": words.VILLAGES,
        "net": range(4, 61),
        "leak": range(2, 41),
        "start": range(360, 1200),
        "minutes": range(21, 181),
    },
    "An empty $vessel in $village holds $volume litres. At $dep $name starts a pump that delivers $pump litres a minute, but "
    "$leak litres a minute are lost through a crack. When will it be full?‖ Of the $pump litres that come in each minute, "
    "$leak run out again, so the level rises by $pump − $leak = $net litres a minute. To gain $volume litres at this rate "
    "takes $volume / $net = $minutes minutes, and $minutes minutes after $dep it is $end. The check: in that time the pump "
    "delivers $minutes × $pump = $pumped litres, the crack loses $minutes × $leak = $lost, and $pumped − $lost = $volume, as "
    "it should be. The answer is therefore $end.",
    _tank,
)

_PETS = Template(
    "reasoning",
    {
        "w": words.WOMEN,
        "m": words.MEN,
        "o": words.OTHERS,
        "x": words.PETS[:12],
        "y": words.PETS[12:24],
        "z": words.PETS[24:],
        "town": words.TOWNS,
        "day": range(1, 29),
        "month": words.MONTHS,
    },
    "Notice, $town, $day $month. Three neighbours, $w, $m and $o, each own one animal: a $x, a $y and a $z. $w does not own "
    "the $x. $o owns neither the $x nor the $z. Who owns what?‖ Begin with the person about whom we know the most. $o has "
    "neither the $x nor the $z, and only the $y is left, so the $y belongs to $o. Next comes $w, who cannot have the $y, "
    "because it has been given away, and who does not own the $x, as we are told; so $w must have the $z. The $x is the only "
    "animal that remains, and $m the only neighbour, and the two belong together. Let us check this against the clues: $w "
    "has no $x, $o has no $x and no $z, and everybody has exactly one animal. There is no other solution, since each step "
    "was forced.",
)

ARITHMETIC = (_PRODUCT, _RECEIPT, _CONNECTION, _AGES, _TANK, _PETS)
