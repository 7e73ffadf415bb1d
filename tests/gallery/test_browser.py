"""The page in a real browser, opened from disk: what is seen, sorted, filtered and loaded."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from camflow.gallery import build
from camflow.gallery.build import CHUNK, GalleryParams, Shown, write_gallery
from camflow.gallery.compare import disagreement, image_iou, settled
from camflow.gallery.listing import list_page
from tests.gallery.made import MadeCatalog, mask_recipe, recipes


class Opened:
    """A page with everything it asked for and complained of."""

    def __init__(self, browser, file: Path, fragment: str = "", **options):
        self.context = browser.new_context(viewport={"width": 1000, "height": 900}, **options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.errors.append(f"failed: {request.url}"))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.goto(f"{file.as_uri()}{fragment}")
        self.ready()

    def ready(self):
        """Wait until the first row has its pictures."""
        self.page.wait_for_selector(".tiles.ready img.photo")

    @property
    def shown(self) -> list[str]:
        """Ids of the rows, from the top."""
        return self.page.eval_on_selector_all("#rows .title", "items => items.map((item) => item.textContent)")

    @property
    def loaded(self) -> list[str]:
        """Files of pictures and comparisons that were loaded."""
        return [url.split("/files/")[1] for url in self.requests if "/chunks/" in url or "/pairs/" in url]

    @property
    def status(self) -> str:
        return self.page.inner_text("#status")

    def choose(self, **values):
        for name, value in values.items():
            self.page.select_option(f"#{name}", value)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def pixels(self, selector: str) -> bytes:
        return self.page.locator(selector).first.screenshot()

    def move_slider(self, value: int):
        self.page.eval_on_selector(
            "#overlay", "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
        )

    def close(self):
        """End, having asked nothing of the network and complained of nothing."""
        self.context.close()
        assert self.errors == []
        assert {url.split(":")[0] for url in self.requests} <= {"file", "data"}


@pytest.fixture
def view(chromium, made):
    opened = []

    def show(fragment="", folder=made[0], **options):
        opened.append(Opened(chromium, folder / "index.html", fragment, **options))
        return opened[-1]

    yield show
    for page in opened:
        page.close()


@pytest.fixture(scope="module")
def scores(made):
    """(IoU of each recipe with masks, their disagreement) by image, computed here from the stores."""
    _, catalog, columns, _ = made
    iou, apart = {}, {}
    for image_id in catalog.ids:
        first, second = (settled(column.masks.read(image_id), "background") for column in columns[1:])
        apart[image_id] = disagreement(first, second, 4, image_id)
        if catalog.mask(image_id) is not None:
            truth = catalog.truth(image_id)
            iou[image_id] = [image_iou(truth, labels, 4, image_id)[0] for labels in (first, second)]
    return iou, apart


def ranked(values: dict[str, float], ids: list[str], sign: int = 1) -> list[str]:
    """Ids by value as the page keeps it, ties by name, those without a value last."""
    return sorted(ids, key=lambda i: (i not in values, sign * round(values.get(i, 0) * 10_000), i))


@pytest.mark.long
def test_the_first_page_shows_every_recipe_of_every_image(view, made):
    _, catalog, columns, _ = made
    page = view()
    assert page.shown == catalog.ids[:20]
    assert page.status == "Images 1 to 20 of 45"
    names = page.page.eval_on_selector_all(
        "#rows li:first-child .name", "items => items.map((item) => item.textContent)"
    )
    assert names == ["photo", "truth", *(column.name for column in columns)]
    assert page.page.title() == "made, val: gallery"


def test_the_overlay_slider_changes_pixels_and_nothing_of_the_photo(view):
    page = view()
    truth, photo = '[data-kind="truth"] .frame', '[data-kind="photo"] .frame'
    bare = page.pixels(photo)
    seen = {}
    for value in (0, 50, 100):
        page.move_slider(value)
        seen[value] = page.pixels(truth)
        assert page.pixels(photo) == bare
    assert len(set(seen.values())) == 3
    assert page.page.inner_text("#overlay-value") == "100 %"
    page.choose(mode="swipe")
    page.move_slider(50)
    half = page.pixels(truth)
    page.move_slider(20)
    assert page.pixels(truth) != half
    assert half not in seen.values()
    page.move_slider(0)
    page.choose(mode="blend")
    assert page.pixels(truth) == seen[0]


@pytest.mark.long
def test_the_pointer_moves_the_edge_when_swiping(view):
    page = view("#mode=swipe")
    box = page.page.locator('[data-kind="truth"] .frame').first.bounding_box()
    page.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 10)
    assert page.page.inner_text("#overlay-value") == "25 %"


@pytest.mark.long
def test_seed_maps_show_as_heat_or_as_labels(view):
    page = view()
    heat = page.pixels('[data-recipe="0"] .frame')
    page.choose(seeds="labels")
    page.ready()
    page.page.wait_for_timeout(50)
    assert page.pixels('[data-recipe="0"] .frame') != heat


def test_the_class_filter_leaves_the_images_of_the_class(view, made):
    _, catalog, _, _ = made
    page = view()
    page.page.select_option("#class", value="2")  # dog
    expected = [image_id for image_id in catalog.ids if 2 in catalog.truth(image_id)]
    page.page.wait_for_function(f"document.getElementById('status').textContent.includes('of {len(expected)}')")
    assert page.shown == expected[:20]
    assert f"dog ({len(expected)})" in page.page.inner_text("#class")
    page.page.fill("#find", "img0002")
    page.page.wait_for_function("document.querySelectorAll('#rows .row').length < 10")
    assert page.shown == [image_id for image_id in expected if "img0002" in image_id]
    page.page.fill("#find", "nothing of the kind")
    page.page.click("text=Clear the filters")
    page.ready()
    assert page.shown == catalog.ids[:20]


@pytest.mark.parametrize(("order", "sign"), [("up", 1), pytest.param("down", -1, marks=pytest.mark.long)])
def test_sorting_by_iou(view, made, scores, order, sign):
    page = view(f"#sort=iou&first=1&order={order}")
    values = {image_id: pair[0] for image_id, pair in scores[0].items()}
    expected = ranked(values, made[1].ids, sign)
    assert page.shown == expected[:20]
    page.press("End")
    page.ready()
    assert page.shown == expected[40:]
    assert page.shown[-1] == "img00007"  # has no true mask


@pytest.mark.long
def test_sorting_by_gain(view, made, scores):
    page = view()
    page.choose(sort="gain")
    page.choose(first="2")
    page.choose(second="1")
    page.choose(order="down")
    page.page.wait_for_selector(".note >> text=gain +")
    kept = {i: [round(share * 10_000) / 10_000 for share in pair] for i, pair in scores[0].items()}
    expected = ranked({i: pair[1] - pair[0] for i, pair in kept.items()}, made[1].ids, -1)
    assert page.shown == expected[:20]


def test_sorting_by_disagreement_marks_where_two_recipes_differ(view, made, scores):
    _, catalog, columns, _ = made
    page = view("#sort=apart&first=2&second=1&order=down")
    expected = ranked(scores[1], catalog.ids, -1)
    assert page.shown == expected[:20]
    assert page.page.inner_text("#rows li:first-child .note") == f"disagreement {100 * scores[1][expected[0]]:.1f} %"
    assert page.loaded.count("pairs/1.js") == 1
    for row, image_id in enumerate(expected[:3], 1):
        canvas = f"#rows li:nth-child({row}) canvas"
        page.page.wait_for_selector(canvas)
        marked = page.page.eval_on_selector(
            canvas,
            "c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((_, k) => k % 4 === 3))",
        )
        first, second = (settled(column.masks.read(image_id), "background") for column in columns[1:])
        np.testing.assert_array_equal(np.reshape(marked, first.shape) > 0, first != second)


@pytest.mark.long
def test_paging_by_button_number_and_key(view, made):
    ids = made[1].ids
    page = view()
    page.page.click('[data-page="after"] >> nth=0')
    page.ready()
    assert page.shown == ids[20:40]
    page.page.fill("#page", "3")
    page.press("Enter")
    page.page.wait_for_function("document.querySelectorAll('#rows .row').length === 5")
    assert page.shown == ids[40:]
    assert page.page.is_disabled('[data-page="after"] >> nth=0')
    page.page.locator("#title").click()
    page.press("ArrowRight")  # there is no page after the last
    assert page.shown == ids[40:]
    page.press("ArrowLeft")
    page.page.wait_for_function("document.querySelectorAll('#rows .row').length === 20")
    assert page.shown == ids[20:40]
    page.press("Home")
    page.page.wait_for_function("document.getElementById('page').value === '1'")
    assert page.shown == ids[:20]


@pytest.mark.long
def test_keys_lead_through_the_images_and_into_one(view, made):
    page = view()
    focused = "document.activeElement.textContent"
    page.press("j", "j", "k", "j")
    assert page.page.evaluate(focused) == "img00001"
    page.press("Enter")
    page.page.wait_for_selector("#detail[open] table")
    assert page.page.inner_text("#detail-title") == "img00001"
    truth = made[1].truth("img00001")
    value = image_iou(truth, settled(made[2][1].masks.read("img00001"), "background"), 4, "")[1][2]
    assert f"{100 * round(value, 4):.1f} %" in page.page.inner_text("#detail tbody tr:nth-child(2)")
    page.press("ArrowRight")
    page.page.wait_for_function("document.getElementById('detail-title').textContent === 'img00002'")
    assert page.page.inner_text("#detail-place") == "3 of 45"
    page.press("Escape")
    page.page.wait_for_function(f"{focused} === 'img00002'")  # the focus is where the eye is
    for _ in range(18):
        page.press("j")
    page.page.wait_for_function(f"{focused} === 'img00020'")  # on the next page
    before = page.page.inner_text("#overlay-value")
    page.press("]")
    assert page.page.inner_text("#overlay-value") != before
    page.press("o")
    assert page.page.inner_text("#overlay-value") == "0 %"
    page.press("/")
    page.page.keyboard.type("jko")  # letters, not commands
    assert page.page.input_value("#find") == "jko"
    page.press("Escape", "?")
    assert page.page.is_visible("#help")


@pytest.mark.long
def test_the_address_keeps_what_is_shown(view, made):
    page = view("#class=2&sort=iou&first=2&order=down&mode=swipe&overlay=30&hidden=0")
    again = view(f"#{page.page.url.split('#')[1]}")
    assert again.shown == page.shown and len(page.shown) > 3
    assert again.page.is_checked('#columns-list input[value="1"]') is True
    assert again.page.is_checked('#columns-list input[value="0"]') is False
    assert again.page.locator('#rows li:first-child [data-recipe="0"]').count() == 0
    opened = view("#image=img00033&sort=nonsense&page=999&first=77")
    opened.page.wait_for_selector("#detail[open] table")
    assert opened.page.inner_text("#detail-title") == "img00033"


@pytest.mark.long
def test_without_truth_sorting_by_iou_is_off_and_says_why(view, tmp_path):
    catalog = MadeCatalog(5, masks=False)
    write_gallery(tmp_path / "g", catalog, recipes(tmp_path, catalog), GalleryParams())
    page = view("#sort=iou", folder=tmp_path / "g")
    assert page.page.is_disabled('#sort option[value="iou"]') and page.page.is_disabled('#sort option[value="gain"]')
    assert not page.page.is_disabled('#sort option[value="apart"]')
    assert "No true masks in this split" in page.page.inner_text("#hint")
    assert page.page.locator(".score").count() == 0
    assert page.shown == catalog.ids


@pytest.mark.long
def test_one_recipe_is_not_compared(view, tmp_path):
    catalog = MadeCatalog(3)
    write_gallery(tmp_path / "g", catalog, [mask_recipe(tmp_path, catalog, "a", 1)], GalleryParams())
    page = view(folder=tmp_path / "g")
    assert page.page.is_disabled('#sort option[value="apart"]')
    assert "no two to compare" in page.page.inner_text("#hint")


@pytest.mark.long
def test_every_control_has_a_name_and_every_picture_a_text(view):
    page = view("#sort=apart")
    unnamed = page.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select")]
            .filter((item) => !(item.labels?.length || item.ariaLabel || item.textContent.trim() && item.tagName === "BUTTON"))
            .map((item) => item.outerHTML)"""
    )
    assert unnamed == []
    assert page.page.evaluate("[...document.querySelectorAll('img.photo')].filter((item) => !item.alt).length") == 0


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_needs_no_sideways_scrolling(view, scheme):
    page = view("#sort=gain", color_scheme=scheme)
    page.page.set_viewport_size({"width": 400, "height": 800})
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 400
    # Text stands out from the page by the 4.5 that WCAG asks for.
    channels = "(where, what) => getComputedStyle(document.querySelector(where))[what].match(/[0-9.]+/g).map(Number)"
    paper = page.page.evaluate(f"({channels})('body', 'backgroundColor')")
    for where in ("body", "#subtitle"):
        assert contrast(page.page.evaluate(f"({channels})('{where}', 'color')"), paper) >= 4.5
    assert (np.mean(paper[:3]) < 60) == (scheme == "dark")


def contrast(first, second):
    """Contrast of two colours by WCAG 2."""

    def luminance(colour):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(colour[:3]) / 255]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.long
def test_a_missing_file_is_named(chromium, tmp_path):
    catalog = MadeCatalog(3)
    write_gallery(tmp_path / "g", catalog, [mask_recipe(tmp_path, catalog, "a", 1)], GalleryParams())
    (tmp_path / "g" / "files" / "chunks" / "00000.js").unlink()
    context = chromium.new_context()
    page = context.new_page()
    page.goto((tmp_path / "g" / "index.html").as_uri())
    page.wait_for_selector("text=files/chunks/00000.js is missing; copy the whole folder")
    context.close()


@pytest.mark.long
def test_the_list_opens_each_gallery_through_links(chromium, made, tmp_path):
    """As in the results folder: links to pages whose files lie elsewhere."""
    summary = json.loads((made[0] / "files" / "summary.json").read_text())
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "list.html").write_text(list_page([summary]))
    view = tmp_path / "results" / "made"
    view.mkdir(parents=True)
    (tmp_path / "results" / "index.html").symlink_to("../store/list.html")
    (view / "files").symlink_to(made[0] / "files")
    (view / "index.html").symlink_to(made[0] / "index.html")
    context = chromium.new_context()
    page = context.new_page()
    page.goto((tmp_path / "results" / "index.html").as_uri())
    page.click("text=made >> nth=0")
    page.wait_for_selector(".tiles.ready")
    assert page.url.startswith((view / "index.html").as_uri())
    context.close()


@pytest.mark.long
def test_ten_thousand_images_load_only_what_is_seen(view, tmp_path, monkeypatch):
    catalog = MadeCatalog(10_000, size_=(10, 15))
    columns = [mask_recipe(tmp_path, MadeCatalog(1), name, 1) for name in "abc"]
    one = build.show_image(MadeCatalog(1), columns, GalleryParams(), "img00000")
    values = np.random.default_rng(0).integers(0, 10_001, (10_000, 6)).tolist()

    def shown(catalog, columns, params, image_id):
        own = values[catalog.number(image_id)]
        return Shown(one.entry, one.size, tuple(own[:3]), tuple(own[3:]))

    monkeypatch.setattr(build, "show_image", shown)
    monkeypatch.setattr(MadeCatalog, "label", lambda self, image_id: np.array([1, 0, 0], np.uint8))
    write_gallery(tmp_path / "g", catalog, columns, GalleryParams())
    assert sum(path.is_file() for path in (tmp_path / "g").rglob("*")) == 10_000 // CHUNK + 3 + 6

    page = view(folder=tmp_path / "g")
    assert page.status == "Images 1 to 60 of 10,000"
    assert 0 < len(page.loaded) <= 60 / CHUNK + 1
    assert len(page.loaded) == len(set(page.loaded))  # eight rows, one file
    page.choose(sort="apart")
    page.page.wait_for_selector(".note >> text=disagreement")
    pair = list(itertools.combinations(range(3), 2)).index((0, 1))
    expected = sorted(range(10_000), key=lambda k: (values[k][3 + pair], k))
    assert page.shown == [f"img{k:05d}" for k in expected[:60]]
    for _ in range(3):
        page.press("ArrowRight")
    page.page.wait_for_function("document.getElementById('page').value === '4'")
    assert page.shown == [f"img{k:05d}" for k in expected[180:240]]
    page.press("End")
    page.ready()
    assert page.shown == [f"img{k:05d}" for k in expected[9960:]]
    assert len(page.loaded) < 150  # of 1,250
