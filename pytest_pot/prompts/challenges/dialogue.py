"""Dialogues: at a hotel desk, with an assistant in a chat format, and with a shop."""

from __future__ import annotations

from pytest_pot.prompts.challenges import words
from pytest_pot.prompts.challenges.template import Template, Values, money

__all__ = ["DIALOGUE"]


def _room(v: Values) -> Values:
    room, meals = v["nights"] * v["price"], v["nights"] * v["breakfast"]
    return {"leaves": v["day"] + v["nights"], "room": room, "meals": meals, "total": room + meals}


_ROOM = Template(
    "dialogue",
    {
        "surname": words.SURNAMES,
        "town": words.TOWNS,
        "village": words.VILLAGES,
        "day": range(1, 16),
        "month": words.MONTHS,
        "nights": range(2, 13),
        "price": range(45, 181),
        "breakfast": range(6, 20),
        "floor": range(2, 12),
    },
    "Guest: Good evening, the name is $surname. I'd like a single room from $day $month, for $nights nights.\n"
    "Clerk:‖ Good evening, and welcome to $town. So you would be leaving on $leaves $month. I can offer you a quiet room "
    "on floor $floor at $price a night.\n"
    "Guest: Is breakfast included?\n"
    "Clerk: It is $breakfast more a day, and I can recommend it. The bread comes from $village every morning.\n"
    "Guest: Then with breakfast, please. What does that make?\n"
    "Clerk: $nights nights at $price are $room, and $nights breakfasts at $breakfast are $meals, so $total in all. May I have "
    "your name once more?\n"
    "Guest: $surname, as in the song.\n"
    "Clerk: I don't think I know that song. Here is your key; the lift is behind the palm tree.",
    _room,
)


def _meter(v: Values) -> Values:
    day = v["watts"] * v["hours"]
    month = 30 * day
    cost = (month * v["cents"] + 500) // 1000
    return {
        "day": day,
        "month_wh": month,
        "month_kwh": f"{month // 1000}.{month % 1000:03}",
        "price": money(v["cents"]),
        "cost": money(cost),
        "half": money((cost + 1) // 2),
    }


_METER = Template(
    "dialogue",
    {
        "name": words.WOMEN + words.MEN,
        "town": words.TOWNS,
        "device": words.DEVICES,
        "watts": range(40, 2500),
        "hours": range(2, 13),
        "cents": range(18, 50),
    },
    "<|im_start|>user\n"
    "Hi, this is $name from $town. My $device draws $watts watts and runs for $hours hours a day. A kilowatt-hour costs $price "
    "here. What do I pay for it in 30 days?<|im_end|>\n"
    "<|im_start|>assistant‖\n"
    "Hello $name! Let us go step by step.\n"
    "\n"
    "1. Each day it uses $watts × $hours = $day watt-hours.\n"
    "2. In 30 days that makes 30 × $day = $month_wh watt-hours, or $month_kwh kilowatt-hours.\n"
    "3. At $price for each of them, the cost is $cost, to the nearest cent.\n"
    "\n"
    "If the $device ran only half as long, it would cost about $half. Look at the label on the back as well: $watts watts "
    "may be the highest value, and many devices need less most of the time.<|im_end|>",
    _meter,
)

_PARCEL = Template(
    "dialogue",
    {
        "w": words.WOMEN,
        "m": words.MEN,
        "object": words.OBJECTS,
        "number": range(100000, 1000000),
        "village": words.VILLAGES,
        "town": words.TOWNS,
        "day": words.WEEKDAYS,
        "shelf": range(1, 60),
    },
    "[$m] Hello, I ordered a $object last week, order $number, and it still hasn't come.\n"
    "[$w, support]‖ Hello $m, thank you for waiting. Let me look up order $number. One $object, sent to $village, is that "
    "right?\n"
    "[$m] Yes, to $village.\n"
    "[$w, support] I see what happened. The label was damaged, so the parcel was sent back to our depot in $town, and there it "
    "is now, on shelf $shelf. I am sorry that nobody told you.\n"
    "[$m] Can you send it again?\n"
    "[$w, support] Already done. It leaves $town tomorrow and should reach $village by $day. You will find a new number in "
    "your mail, but $number still works as well.\n"
    "[$m] Great. And if it isn't here on $day?\n"
    "[$w, support] Then write to us once more and ask for me, $w, and I will drive over with the $object myself.",
)

DIALOGUE = (_ROOM, _METER, _PARCEL)
