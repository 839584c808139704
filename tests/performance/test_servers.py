"""The measurements themselves: what they start must owe nothing to the developer."""

from pathlib import Path

import pytest

from tests.network import free_port
from tests.performance.servers import service
from tests.processes import ROOT


@pytest.mark.process
def test_a_service_is_not_started_where_the_developers_settings_are() -> None:
    with service("service", free_port(), 0) as running:
        folder = Path(running.process.cwd())
    assert ROOT not in {folder, *folder.parents}
