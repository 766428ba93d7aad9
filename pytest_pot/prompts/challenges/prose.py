"""Facts about places and people that do not exist, and the beginnings of stories."""

from __future__ import annotations

from pytest_pot.prompts.challenges import words
from pytest_pot.prompts.challenges.template import Template, Values

__all__ = ["PROSE"]


def _river(v: Values) -> Values:
    return {"share": v["height"] * 100 // v["length"], "year_two": v["year"] + v["second"]}


_RIVER = Template(
    "fact",
    {
        "river": words.RIVERS,
        "village": words.VILLAGES,
        "town": words.TOWNS,
        "height": range(310, 1800),
        "length": range(90, 900),
        "bridges": range(3, 60),
        "year": range(1612, 1880),
        "second": range(11, 120),
    },
    "The $river is $length kilometres long. It rises near $village, at a height of $height metres, and‖ reaches the sea "
    "below $town. On its way it drops by $height metres, which is about $share centimetres per kilometre on average, "
    "although most of that is lost in the gorges of the upper course. It is crossed by $bridges bridges. The floods of $year "
    "carried away nearly all that stood at the time, and when the same happened again $second years later, in $year_two, the "
    "council of $town decided to build in stone. Barges go up as far as the weirs. Above $village the water is clear and "
    "cold, and people say that whoever drinks from the $river will come back to it.",
    _river,
)


def _life(v: Values) -> Values:
    return {
        "work": v["born"] + v["at"],
        "died": v["born"] + v["at"] + v["after"],
        "age": v["at"] + v["after"],
        "moved": v["born"] + v["child"],
    }


_LIFE = Template(
    "fact",
    {
        "w": words.WOMEN,
        "surname": words.SURNAMES,
        "born": range(1701, 1900),
        "town": words.TOWNS,
        "village": words.VILLAGES,
        "calling": words.CALLINGS,
        "invention": words.INVENTIONS,
        "child": range(4, 18),
        "at": range(24, 52),
        "after": range(3, 40),
    },
    "$w $surname (born $born in $village) was $calling. She is remembered for $invention, which‖ she finished in $work, when "
    "she was $at years old. Little is known of her early years. The family moved from $village to $town in $moved, when she "
    "was $child, and her father is mentioned there as a cooper. She taught herself to read plans, kept careful notebooks and "
    "wrote to experts all over the country, most of whom took her for a man. After $work she lived for another $after years "
    "and died in $died at the age of $age. A street in $town bears her name, and a small museum in $village keeps the "
    "notebooks and the first trial of $invention.",
    _life,
)

_PLANT = Template(
    "fact",
    {
        "genus": words.GENERA,
        "epithet": words.EPITHETS,
        "surname": words.SURNAMES,
        "year": range(1760, 1960),
        "town": words.TOWNS,
        "low": range(11, 60),
        "more": range(4, 90),
        "petals": range(4, 13),
        "seeds": range(20, 400),
    },
    "$genus $epithet, first described by $surname in $year, is a herb of damp meadows. It grows to a height of‖ $low "
    "centimetres in the shade and up to $most in full sun. The flowers stand alone on hairy stalks and have $petals pale "
    "petals each; they open in the morning and close before rain. A ripe capsule holds about $seeds seeds, which are spread "
    "by water and can lie in the mud for years. The plant that $surname collected in $year came from a ditch near $town, "
    "where it no longer grows. Gardeners like $genus $epithet because it flowers late and is not eaten by slugs. It should "
    "not be confused with its taller relatives, whose stalks are smooth.",
    lambda v: {"most": v["low"] + v["more"]},
)


_STRANGER = Template(
    "narrative",
    {
        "weather": words.WEATHER,
        "w": words.WOMEN,
        "surname": words.SURNAMES,
        "object": words.OBJECTS,
        "town": words.TOWNS,
        "village": words.VILLAGES,
        "day": words.WEEKDAYS,
        "number": range(3, 400),
        "years": range(6, 41),
    },
    "On $day evening, when $weather, a stranger knocked at number $number and asked for $w $surname. He had a $object under "
    "his arm.‖ He had carried it all the way from $town, he said, because he had promised to, and he would not sit down "
    "until he had given it to the right person. $w looked at the $object for a long time. It had stood in the window of her "
    "father's shop in $village until the night of the fire, $years years ago, and she had been told that nothing was saved. "
    '"Who gave it to you?" she asked. The stranger turned his hat in his hands. "A man who could not come himself," he '
    'said. "He told me that you would ask, and that I should say nothing before you had made tea." So she put the kettle on. '
    "Outside, $weather still, and number $number had not had a visitor since the spring.",
)

_KEEPER = Template(
    "narrative",
    {
        "m": words.MEN,
        "town": words.TOWNS,
        "day": range(1, 29),
        "month": words.MONTHS,
        "first": words.OBJECTS[:16],
        "second": words.OBJECTS[16:],
        "shelf": range(11, 100),
        "o": words.OTHERS,
        "count": range(120, 990),
        "weather": words.WEATHER,
    },
    "Notebook of $m, lost property office, $town. $day $month: $weather. Nobody came, so I counted the shelves.‖ There are "
    "$count things in all. A $first has been on shelf $shelf for so long that the label has faded; I wrote a new one, "
    "although I had to guess the year. Next to it lies a $second that somebody hands in every few months and somebody else "
    "collects an hour later, always in a hurry. I have begun to think that the two of them know each other. $o says that I "
    "should mind my own business. In the afternoon a child asked whether we had a shadow. I looked, to be polite, behind the "
    "$first, under the $second and all along shelf $shelf, and told the child to try again when the sun was out. Then I "
    "entered it in the book as number $next.",
    lambda v: {"next": v["count"] + 1},
)

_RACE = Template(
    "narrative",
    {
        "w": words.WOMEN,
        "m": words.MEN,
        "surname": words.SURNAMES,
        "town": words.TOWNS,
        "village": words.VILLAGES,
        "object": words.OBJECTS,
        "year": range(1870, 1990),
        "miles": range(4, 60),
        "crowd": range(30, 900),
    },
    "The race of $year went from $town to $village, $miles miles over the hills, and the prize was a $object. Among the "
    "runners was‖ $w $surname, who had entered under the name of her brother $m. There were $crowd people at the start, and "
    "not one of them looked at her shoes. For the first hour she stayed behind the others and let them quarrel about the "
    "pace. When the path grew steep she walked, and those who ran grew fewer. At the last farm before $village a dog joined "
    "her, and "
    'the two of them came down the lane together while the band was still unpacking its drums. "Name?" said the clerk. She '
    "told him, the real one. He wrote it down, all of it, looked up and put the $object into her hands. It was in the papers "
    "as far away as $town that $m $surname had won. The dog knew better.",
)

PROSE = (_RIVER, _LIFE, _PLANT, _STRANGER, _KEEPER, _RACE)
