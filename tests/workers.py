"""How tests are shared by the workers of pytest-xdist.

Files go to them in the order of collection, the long ones first.

A worker that dies ends the run, which then has failed. Left to itself the other
one goes on to the end of its file, and a death outside of any test, as between
two or in collecting them, is no failure at all.
"""

import pytest

dead = []
# Files of few and long tests. Begun last, one of them would go on alone.
LONG = (
  'test_damage',
  'test_notebooks',
  'test_hosts',
  'test_zoo',
  'test_export',
  'test_experiment',
  'test_readme',
  'test_store',
)


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: item.path.stem not in LONG)


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
