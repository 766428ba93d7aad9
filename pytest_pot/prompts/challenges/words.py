"""The words that fill the slots of challenges. Never change their order: the same key must give the same prompts in any
version.

Lists that one template may use together have no word in common. The names of towns, rivers and plants are combined from two
halves; none of them is meant to exist.
"""

from __future__ import annotations

__all__ = [
    "CALLINGS",
    "DEVICES",
    "EPITHETS",
    "GENERA",
    "INVENTIONS",
    "MEN",
    "MONTHS",
    "NOUNS",
    "OBJECTS",
    "ORTE",
    "OTHERS",
    "PETS",
    "PLANS",
    "PRODUCE",
    "PUEBLOS",
    "RIVERS",
    "STATIONERY",
    "SURNAMES",
    "TOWNS",
    "VERBS",
    "VESSELS",
    "VILLAGES",
    "VILLES",
    "WEATHER",
    "WEEKDAYS",
    "WOMEN",
]


def _combinations(fronts: str, backs: str) -> tuple[str, ...]:
    return tuple(front + back for front in _words(fronts) for back in _words(backs))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


WOMEN = _words(
    """Ada Agnes Amira Anouk Astrid Beata Bettina Carmen Clara Dalia Daphne Edith Elena Elsie Esther Fatima Frieda Gloria Greta
    Hanna Hazel Helga Imani Irene Jasmin Judith Karin Leila Lucia Mabel Magda Maren Miriam Nadia Nora Odile Paula Petra Renata
    Rosa Sabine Selma Sofia Tamar Ursula Vera Wanda Yara"""
)
MEN = _words(
    """Adam Albert Amos Anton Basil Boris Bruno Carl Cyril Dario David Edgar Emil Enzo Felix Frank Georg Gustav Hamid Henry Hugo
    Igor Ivan Jakob Jonas Karim Konrad Leon Luis Malik Marcel Marius Milan Nathan Noel Oskar Pablo Paul Rafael Robert Samir
    Simon Stefan Theo Tobias Victor Walter Yusuf"""
)
OTHERS = _words(
    """Ari Ash Blair Cameron Casey Charlie Dana Devon Drew Ellis Emery Finley Gray Harper Jamie Jess Jordan Kai Kim Lane Lee
    Morgan Noa Parker Quinn Reese Remy Robin Rowan Sage Sky Taylor"""
)
SURNAMES = _words(
    """Abbott Adeyemi Almeida Andersen Arslan Baptiste Barlow Becker Bianchi Bondarenko Brandt Carver Castillo Chandra Cohen
    Costa Danso Delgado Dubois Eriksen Farkas Ferreira Fischer Fontaine Garvey Greco Hakimi Halloran Hansen Hoang Ibrahim
    Ivanova Jansen Kamara Keller Kovacs Lindholm Lombardi Marchetti Mbeki Molnar Moreau Nakamura Novak Okafor Olsen Osman
    Park Pereira Petrov Quist Rahman Ricci Romero Sandoval Schuster Silva Tanaka Thorne Vasquez Vogel Weber Yilmaz
    Zimmer"""
)

TOWNS = _combinations(
    """Alder Ash Barrow Birch Black Bright Cold Crow Dun East Elm Fair Falcon Farn Fern Glen Hart Hazel Heron High Holm Kings
    Lang Long Marl Mill North Oak Raven Red Stan Thorn""",
    "bourne bury combe ford gate ham haven hurst ley mere mouth port stow ton wick worth",
)
VILLAGES = _combinations(
    """Apple Bell Bramble Clay Cob Cuckoo Dove Flax Fox Gorse Hay Hollow Honey Kettle Lamb Lark Linnet Moss Nettle Otter Pebble
    Plum Quarry Sheep""",
    "beck bridge brook cliff cross den dale field green hill marsh moor pool ridge side well",
)
RIVERS = _combinations(
    "Al Ar Bel Cor Dar El Es Fal Gal Ir Kor Lam Mar Nev Or Pel Ran Sal Tam Tor Ul Ver Wen Yar",
    "da do ga go la lo na ne ra ro sa se ta va ve za",
)
GENERA = _combinations(
    "Alti Bori Cala Dori Euri Fila Glauco Helo Lepto Melo Nema Oro Penta Rhodo Steno Xero",
    "carpa dendra flora lepis mera nanthus phylla pogon sperma stachys thera thrix",
)
EPITHETS = _words(
    """alpina angusta borealis caerulea cinerea communis dubia elegans fragilis gracilis humilis insignis lucida major maritima
    minor montana nitida obscura pallida palustris robusta rosea velutina"""
)

MONTHS = _words("January February March April May June July August September October November December")
WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

CALLINGS = _lines(
    """
    a bridge engineer
    a clockmaker
    a collector of folk songs
    a country doctor
    a lens grinder
    a mapmaker
    a painter of ships
    a plant breeder
    a printer
    a schoolteacher
    a seed merchant
    a shipbuilder
    a student of dialects
    a surveyor
    a teacher of the deaf
    a weaver
    an amateur astronomer
    an architect of mills
    an astronomer
    an instrument maker
    an organ builder
    an architect of schools
    an expert on bees
    an engraver
    """
)
INVENTIONS = _lines(
    """
    a folding map of the stars
    a lamp that burned without smoke
    a pump for flooded cellars
    a loom that a child could mend
    a clock driven by the tide
    a catalogue of local birds
    a method of drying fruit
    a ladder for orchard work
    a bridge made of a single arch
    a balance for very small weights
    a school for evening pupils
    a dictionary of trade words
    a printing press for music
    a barometer for fishing boats
    a filter for drinking water
    a plough for stony fields
    a stove for railway cars
    a survey of all wells in the county
    a set of tuning forks
    a lock without a key
    a garden of medicinal plants
    a machine for sorting seed
    a boat that could be carried
    a lighthouse with a floating lens
    """
)
OBJECTS = _lines(
    """
    concertina
    barometer
    brass bell
    bread knife
    bundle of letters
    camera
    candlestick
    chess set
    copper kettle
    cracked mirror
    door handle
    fishing rod
    globe
    green suitcase
    zither
    lantern
    music box
    painted plate
    pair of skates
    pocket watch
    sewing machine
    ship in a bottle
    silver spoon
    telescope
    typewriter
    parasol
    violin case
    walking stick
    wax seal
    weathercock
    washboard
    wooden horse
    """
)
PLANS = _lines(
    """
    an allotment
    a bakery
    a boat
    a bookshop
    a camper van
    a choir
    a cinema
    a cottage
    a football team
    a garage
    a greenhouse
    a kiln
    a newspaper
    a puppet theatre
    a quiz evening
    a repair shop
    a sauna
    a tandem
    a tree house
    a vineyard
    a walking club
    a weather station
    a windmill
    a workshop
    """
)
VESSELS = _words("aquarium basin boiler cistern fountain lagoon millpond pond pool reservoir silo sump tank trough vat well")
PETS = _words(
    """canary dachshund ferret goldfish hamster kitten lizard mouse parrot pony rabbit tortoise beagle budgie corgi gecko goat
    goose hen llama newt pigeon poodle turtle bulldog cat chameleon cockatoo collie dog duck frog guinea-pig husky snail
    terrier"""
)
PRODUCE = _words(
    """apricots bananas carrots cherries figs grapefruits leeks lemons limes mangoes melons nectarines onions oranges peaches
    pears plums pomegranates potatoes pumpkins quinces radishes tomatoes turnips"""
)
STATIONERY = _lines(
    """
    ball pens
    binders
    boxes of chalk
    brushes
    calendars
    crayons
    envelopes
    erasers
    exercise books
    folders
    fountain pens
    glue sticks
    ink bottles
    labels
    maps
    notebooks
    paper rolls
    pencils
    picture frames
    postcards
    rulers
    pairs of scissors
    sketch pads
    staplers
    """
)
DEVICES = _lines(
    """
    aquarium pump
    bread oven
    coffee machine
    dehumidifier
    desk lamp
    electric heater
    fan
    film projector
    freezer
    games console
    hair dryer
    heating blanket
    kettle
    laser printer
    microwave
    old computer
    radio
    record player
    sewing machine
    slow cooker
    soldering iron
    terrarium lamp
    toaster
    washing machine
    """
)
WEATHER = _lines(
    """
    a thin rain was falling
    fog lay over the roofs
    the first snow had come
    it was hot and still
    the wind had dropped at last
    thunder rolled in the distance
    the frost had not yet gone
    the streets smelled of lime blossom
    the sky was the colour of slate
    leaves were blowing across the square
    the sun stood low and red
    the gutters were dripping
    the river was about to flood
    dust hung in the air
    a rainbow stood over the hill
    the moon was already up
    """
)
VERBS = _words("audit blend check collect combine count gather grade merge rank rate reduce score screen summarise tally weigh")
NOUNS = _words(
    """badges batches bids blocks bolts cards claims crates deltas errors events frames gains grants hops jobs labels layers
    levels marks orders parcels points pulses quotas rolls samples shifts stamps tickets tokens votes"""
)

ORTE = _combinations(
    "Ahorn Birken Buchen Eichen Erlen Eschen Falken Fichten Hasel Hirsch Krähen Linden Rehn Tannen Ulmen Weiden",
    "au bach berg brück burg feld furt grund hain hausen heim hof rode stein tal wald",
)
VILLES = _combinations(
    """Saint-Alban Saint-Aubert Saint-Benoît Saint-Clair Saint-Didier Saint-Fulbert Saint-Gilles Saint-Hilaire Saint-Josse
    Saint-Léger Saint-Maur Saint-Prosper""",
    """-sur-Arve -sur-Brenne -sur-Cère -sur-Dore -sur-Lisle -sur-Morge -sur-Orne -sur-Rance -des-Bois -des-Prés -la-Forêt
    -le-Vieux""",
)
PUEBLOS = tuple(
    name.replace("_", " ")
    for name in _combinations(
        "Aldea Arroyo Castillo Fuente Molino Puente Valle Villa",
        """_de_la_Sierra _de_la_Torre _de_las_Nieves _de_los_Olmos _del_Campo _del_Monte _del_Olivar _del_Rey _de_Abajo
        _de_Arriba _de_la_Encina _de_la_Loma _de_los_Álamos _de_San_Blas _de_Santa_Inés _del_Viento""",
    )
)
