"""A plugin of pytest that gives diagnoses all the time that they need: on a busy machine, they look for less."""

import pytest_pot.gates.verdict.diagnosing

pytest_pot.gates.verdict.diagnosing._LEAST_S = 3600.0
