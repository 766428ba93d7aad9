"""Says at the end of the demo what to look at next."""

import pytest

NEXT = """\
Above, under XFAILURES: what a failing gate says.
The tests are in examples/demo/test_demo.py.
Next: gate a model of your own (README.md, "Gate your own model"),
or ten minutes of docs/tutorial.md.
"""


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.config.option.xfail_tb:
        terminalreporter.section("what to look at next")
        terminalreporter.write(NEXT)
