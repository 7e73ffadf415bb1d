"""Galleries made once, and the system's Chromium."""

from __future__ import annotations

import shutil

import pytest

from camflow.gallery.build import GalleryParams, write_gallery
from tests.gallery.made import MadeCatalog, recipes


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """(folder, catalog, recipes, params) of a gallery of 45 images, 20 a page, one without a true mask."""
    folder = tmp_path_factory.mktemp("gallery")
    catalog = MadeCatalog(45, unmasked=frozenset({"img00007"}))
    columns, params = recipes(folder, catalog), GalleryParams(page=20)
    write_gallery(folder / "gallery", catalog, columns, params)
    return folder / "gallery", catalog, columns, params


@pytest.fixture(scope="session")
def chromium():
    """A running headless Chromium; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium), so the page is not looked at")
    with sync_api.sync_playwright() as playwright:
        # A container has no user namespaces to make a sandbox of; the pages are this test's own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
