"""What pytest sees of pytest-pot: the ``pytest11`` entry point ``pot`` names this package.

Everything that touches pytest lives here, and nowhere else: hooks and fixtures, options and markers, and finding what a gate
compares (``inputs``) and what a run shows (``session``). Any folder may be imported here, and this one by none. Importing it
has to be cheap, because every pytest run of the environment pays for it.
"""

from pytest_pot.plugin.fixtures import (
    _pot_inputs,
    pot_candidate,
    pot_prompts,
    pot_reference,
    pot_result,
    pot_scorer,
    pot_tokenizer,
)
from pytest_pot.plugin.hooks import (
    pytest_addhooks,
    pytest_addoption,
    pytest_after_the_body,
    pytest_cmdline_main,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_pot_load_model,
    pytest_pycollect_makeitem,
    pytest_report_header,
    pytest_runtest_call,
    pytest_runtest_setup,
)

__all__ = [
    "_pot_inputs",
    "pot_candidate",
    "pot_prompts",
    "pot_reference",
    "pot_result",
    "pot_scorer",
    "pot_tokenizer",
    "pytest_addhooks",
    "pytest_addoption",
    "pytest_after_the_body",
    "pytest_cmdline_main",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_pot_load_model",
    "pytest_pycollect_makeitem",
    "pytest_report_header",
    "pytest_runtest_call",
    "pytest_runtest_setup",
]
