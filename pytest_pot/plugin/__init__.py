"""What pytest sees of pytest-pot: the ``pytest11`` entry point ``pot`` names this package.

Everything that touches pytest lives here, and nowhere else: hooks and fixtures, options and markers, and finding what a gate
compares (``inputs``) and what a run shows (``session``). Any folder may be imported here, and this one by none. Importing it
has to be cheap, because every pytest run of the environment pays for it.
"""

from pytest_pot.plugin.fixtures import *
from pytest_pot.plugin.hooks import *
