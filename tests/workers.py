"""A worker of pytest-xdist that dies ends the run, which then has failed.

Left to itself the other one goes on to the end of its file, and a death outside
of any test, as between two or in collecting them, is no failure at all.
"""

import pytest

dead = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
  if error:
    dead.append(node.gateway.id)


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report):
  pytest.exit(report.longrepr, 1)  # it names the test


def pytest_sessionfinish(session):
  if dead:
    session.exitstatus = 1  # not that of having run no test
