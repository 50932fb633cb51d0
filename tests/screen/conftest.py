"""A report, written once for all that read it."""

from __future__ import annotations

import pytest

from diptych.screen.groups import groups
from diptych.screen.keep import keep
from diptych.screen.report.write import write
from screen import delivered
from screen.browser import Browser


@pytest.fixture(scope="session")
def make_report():
    """Writes one into a folder, of what is delivered or of something else."""

    def make(folder, given=None, key=delivered.KEY, pictures=delivered.NO_PICTURES, **more):
        given = given or delivered.screening()
        found = groups(given)
        write(
            given,
            delivered.decision(given),
            found,
            keep(given, found),
            pictures,
            folder,
            key,
            **more,
        )
        return folder

    return make


@pytest.fixture(scope="session")
def report(make_report, tmp_path_factory):
    return make_report(tmp_path_factory.mktemp("report") / "report", pictures=delivered.PICTURES)


@pytest.fixture(scope="session")
def vendors(make_report, tmp_path_factory):
    return make_report(
        tmp_path_factory.mktemp("vendor") / "report", pictures=delivered.PICTURES, vendor_copy=True
    )


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    return Browser(tmp_path_factory.mktemp("browser"))
