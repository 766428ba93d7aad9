"""Letters in German, French and Spanish."""

from __future__ import annotations

from pytest_pot.prompts.challenges import words
from pytest_pot.prompts.challenges.template import Template, Values, comma

__all__ = ["MULTILINGUAL"]


def _rent(v: Values) -> Values:
    return {"price": comma(v["cents"]), "year": 12 * v["rent"], "older": v["years"] + 1}


_GERMAN = Template(
    "multilingual",
    {
        "w": words.WOMEN,
        "ort": words.ORTE,
        "days": range(3, 300),
        "rent": range(310, 990),
        "m": words.MEN,
        "years": range(61, 99),
        "cents": range(105, 1000),
        "stairs": range(18, 120),
        "surname": words.SURNAMES,
    },
    "Liebe $w,\nseit $days Tagen wohne ich jetzt in $ort, und langsam‖ kenne ich mich aus. Die Wohnung liegt ganz oben, "
    "$stairs Stufen, und kostet $rent Euro im Monat, also $year Euro im Jahr. Dafür sehe ich vom Küchenfenster bis zum Fluss. "
    "Mein Nachbar heißt $m $surname und ist $years Jahre alt; im Herbst wird er $older. Er hat mir gleich am ersten Abend "
    "gezeigt, wo man in $ort einkauft, und auf dem Markt handelt er um jeden Cent. Gestern habe ich ein Brot für $price Euro "
    "gekauft, das er viel zu teuer fand. Jetzt backt er selbst und bringt mir die Hälfte. Wenn du mich besuchst, kannst du auf "
    "dem Sofa schlafen. Komm bald, und bring feste Schuhe mit!\nHerzliche Grüße, auch von $m",
    _rent,
)


def _market(v: Values) -> Values:
    return {"price": comma(v["cents"]), "total": comma(v["cents"] * v["jars"]), "age": v["now"] - v["since"]}


_FRENCH = Template(
    "multilingual",
    {
        "w": words.WOMEN,
        "ville": words.VILLES,
        "km": range(12, 400),
        "cents": range(205, 1000),
        "jars": range(2, 25),
        "m": words.MEN,
        "since": range(1890, 1960),
        "now": range(2027, 2067),
        "surname": words.SURNAMES,
    },
    "Chère $w,\nje t'écris de $ville, un village à $km kilomètres de chez nous, où‖ je suis arrivé hier soir sous la pluie. "
    "L'auberge est tenue par $m $surname, dont la famille est ici depuis $since; en $now, cela fera donc $age ans, et il "
    "prépare déjà la fête. Ce matin je suis allé au marché. J'ai acheté $jars pots de miel à $price euros, ce qui fait $total "
    "euros en tout, et la marchande m'a offert une poire pour la route. Les gens de $ville parlent lentement et rient "
    "beaucoup. Personne ne sait me dire à quelle heure part le car, mais tout le monde est sûr qu'il partira. S'il me laisse "
    "ici, je ne me plaindrai pas. Garde-moi une place à table dimanche, je t'apporterai le miel.\nJe t'embrasse.",
    _market,
)


def _harvest(v: Values) -> Values:
    return {"total": v["trees"] * v["kilos"]}


_SPANISH = Template(
    "multilingual",
    {
        "w": words.WOMEN,
        "pueblo": words.PUEBLOS,
        "m": words.MEN,
        "trees": range(12, 200),
        "kilos": range(14, 60),
        "days": range(5, 40),
        "degrees": range(19, 39),
        "pages": range(40, 700),
        "surname": words.SURNAMES,
    },
    "Querida $w:\nLlevo $days días en $pueblo, en casa de mi tío $m, y todavía‖ no he abierto el libro de $pages páginas que "
    "me prestaste. Aquí nos levantamos antes de que salga el sol, porque a mediodía hace $degrees grados y ya no se puede "
    "trabajar. Mi tío tiene $trees olivos, y cada uno da unos $kilos kilos de aceitunas, de modo que este año recogeremos unos "
    "$total kilos si no llueve. Los vecinos, la familia $surname, nos ayudan, y después les ayudamos nosotros a ellos. Por la "
    "noche cenamos todos juntos en la plaza de $pueblo y $m cuenta siempre la misma historia del burro. Vuelvo el domingo en "
    "el último autobús. Te llevaré una botella del aceite nuevo, y el libro, sin leer.\nUn abrazo muy fuerte.",
    _harvest,
)

MULTILINGUAL = (_GERMAN, _FRENCH, _SPANISH)
