import matplotlib.pyplot as plt
import pytest

from tests.localize.photos import seed_store


@pytest.fixture(autouse=True)
def closed():
    """Close all figures behind each test."""
    yield
    plt.close("all")


@pytest.fixture
def maps(tmp_path, catalog):
    """Seed maps of the test module's ``catalog``."""
    return seed_store(tmp_path / "maps.h5", catalog)
