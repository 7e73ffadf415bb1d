"use strict";

// The state of the page: what is filtered, sorted and shown, kept in the address; controls and keys that change it.
{
  const DEFAULTS = {
    class: "", find: "", sort: "name", first: 0, second: 1, order: "up", page: 1,
    overlay: 65, mode: "blend", seeds: "heat", hidden: "", image: "",
  };
  const state = { ...DEFAULTS };
  const $ = (id) => document.getElementById(id);
  const { element, percent } = gallery;
  const number = (value) => value.toLocaleString("en");
  let order = []; // images that the filters leave, sorted
  let by = []; // what they are sorted by
  let turn = 0; // of the last drawing: what is slower gives way
  let lastOverlay = 65;

  // --- state ---

  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const [key, value] of Object.entries(DEFAULTS)) {
      const text = given.get(key);
      state[key] = text === null ? value : typeof value === "number" ? Number(text) || 0 : text;
    }
    const count = gallery.index.recipes.length;
    for (const key of ["first", "second"]) state[key] = Math.min(Math.max(0, Math.trunc(state[key])), Math.max(0, count - 1));
    state.overlay = Math.min(100, Math.max(0, state.overlay));
    if ($("sort").querySelector(`option[value="${CSS.escape(state.sort)}"]:not(:disabled)`) === null) state.sort = "name";
  }

  function keep() {
    const changed = Object.entries(state).filter(([key, value]) => String(value) !== String(DEFAULTS[key]));
    const text = new URLSearchParams(changed.map(([key, value]) => [key, String(value)])).toString();
    try {
      history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    } catch {
      // Some browsers allow few changes of an address in a while; the next one says it all.
    }
  }

  const hidden = () => new Set(state.hidden.split(",").filter(Boolean).map(Number));

  function columns() {
    const away = hidden();
    const compared = state.sort === "gain" || state.sort === "apart";
    return {
      recipes: gallery.index.recipes.map((_, k) => k).filter((k) => !away.has(k)),
      differ: compared && state.first !== state.second ? [state.first, state.second] : null,
      seeds: state.seeds,
    };
  }

  // --- order ---

  async function values() {
    const { ids, iou } = gallery.index;
    const { sort, first, second } = state;
    if (sort === "iou") return iou[first];
    if (sort === "gain") return iou[first].map((value, k) => value - iou[second][k]);
    if (sort === "apart") return gallery.disagreement(first, second);
    return Float32Array.from(ids, (_, k) => k); // the index is sorted by name
  }

  async function arrange() {
    const { ids, shown } = gallery.index;
    const wanted = state.class === "" ? null : Number(state.class);
    const text = state.find.toLowerCase();
    const found = await values();
    const sign = state.order === "down" ? -1 : 1;
    by = found;
    order = ids
      .map((_, k) => k)
      .filter((k) => (wanted === null || shown[k].includes(wanted)) && (!text || ids[k].toLowerCase().includes(text)))
      .sort((a, b) => Number.isNaN(by[a]) - Number.isNaN(by[b]) || sign * (by[a] - by[b]) || a - b);
  }

  function note(image) {
    if (state.sort === "apart") return `disagreement ${percent(by[image])}`;
    if (state.sort !== "gain") return "";
    return Number.isNaN(by[image]) ? "" : `gain ${by[image] > 0 ? "+" : ""}${(100 * by[image]).toFixed(1)} points`;
  }

  // --- drawing ---

  const seen = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        seen.unobserve(target);
        show(target.querySelector(".tiles"), Number(target.dataset.image));
      }
    },
    { rootMargin: "500px" },
  );

  async function show(box, image) {
    try {
      gallery.fill(box, image, await gallery.pictures(image), columns());
      box.classList.add("ready");
    } catch (error) {
      box.replaceChildren(element("p", { className: "notice", textContent: error.message }));
    }
  }

  async function draw({ rearranged = true } = {}) {
    const own = ++turn;
    try {
      if (rearranged) await arrange();
    } catch (error) {
      $("status").textContent = error.message;
      return;
    }
    if (own !== turn) return;
    const size = gallery.index.page;
    const pages = Math.max(1, Math.ceil(order.length / size));
    state.page = Math.min(Math.max(1, Math.trunc(state.page) || 1), pages);
    const from = (state.page - 1) * size;
    const images = order.slice(from, from + size);
    seen.disconnect();
    const shown = columns();
    $("rows").start = from + 1;
    $("rows").replaceChildren(...images.map((image) => gallery.row(image, shown, note(image))));
    for (const item of $("rows").children) seen.observe(item);
    if (!images.length) $("rows").append(nothing());
    const all = gallery.index.ids.length;
    const left = order.length === all ? "" : ` (${number(all)} without the filters)`;
    $("status").textContent = `Images ${number(from + 1)} to ${number(from + images.length)} of ${number(order.length)}${left}`;
    if (!images.length) $("status").textContent = "No image fits";
    $("page").value = state.page;
    $("page").max = pages;
    $("pages").textContent = number(pages);
    for (const button of document.querySelectorAll("[data-page]")) {
      const back = ["first", "before"].includes(button.dataset.page);
      button.disabled = back ? state.page === 1 : state.page === pages;
    }
    lay();
    means();
    reflect();
    keep();
  }

  function nothing() {
    const clear = element("button", { type: "button", textContent: "Clear the filters" });
    clear.onclick = () => change({ class: "", find: "" });
    return element("li", { className: "empty" }, "No image fits. ", clear);
  }

  function means() {
    const { iou, recipes, truth } = gallery.index;
    for (const cell of document.querySelectorAll("[data-mean]")) {
      const k = Number(cell.dataset.mean);
      const known = order.map((image) => iou[k][image]).filter((value) => !Number.isNaN(value));
      const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
      cell.textContent = truth && recipes[k].labels ? percent(mean) : "";
    }
  }

  // As many pictures side by side as fit, the lines of a row equally long.
  function lay() {
    const gap = 11;
    const narrowest = window.innerWidth < 700 ? 130 : 165;
    const room = Math.max(1, Math.floor(($("rows").clientWidth - 30 + gap) / (narrowest + gap)));
    const tiles = $("rows").querySelector(".tiles")?.children.length ?? room;
    document.body.style.setProperty("--columns", Math.ceil(tiles / Math.ceil(tiles / room)));
  }

  // Show the state in the controls.
  function reflect() {
    for (const key of ["class", "find", "sort", "first", "second", "order", "overlay", "mode", "seeds"]) {
      if (document.activeElement !== $(key) || key !== "find") $(key).value = String(state[key]);
    }
    const compared = state.sort === "gain" || state.sort === "apart";
    $("first").hidden = state.sort === "name";
    $("second").hidden = $("between").hidden = !compared;
    $("between").textContent = state.sort === "gain" ? "over" : "and";
    $("overlay-value").textContent = `${state.overlay} %`;
    document.body.style.setProperty("--overlay", state.overlay / 100);
    document.body.classList.toggle("swipe", state.mode === "swipe");
    const away = hidden();
    for (const box of $("columns-list").querySelectorAll("input")) box.checked = !away.has(Number(box.value));
    const count = gallery.index.recipes.length;
    $("columns-count").textContent = away.size ? `${count - away.size} of ${count}` : `${count}`;
  }

  // --- one image ---

  async function open(image) {
    state.image = gallery.index.ids[image];
    const shown = columns();
    const box = gallery.tiles(image, shown);
    $("detail-title").textContent = state.image;
    const place = order.indexOf(image);
    $("detail-place").textContent = place < 0 ? "" : `${number(place + 1)} of ${number(order.length)}`;
    $("detail-before").disabled = place <= 0;
    $("detail-after").disabled = place < 0 || place === order.length - 1;
    $("detail-body").replaceChildren(box);
    if (!$("detail").open) $("detail").showModal();
    keep();
    await show(box, image);
    if (state.image !== gallery.index.ids[image] || !box.isConnected || !box.classList.contains("ready")) return;
    const entry = await gallery.pictures(image);
    const head = gallery.row(image, shown, note(image)).querySelector(".head");
    head.querySelector(".title").remove();
    $("detail-body").replaceChildren(head, box, gallery.table(entry, shown));
  }

  function beside(step) {
    const image = order[order.indexOf(gallery.index.ids.indexOf(state.image)) + step];
    if (image !== undefined) open(image);
  }

  // After the dialog, the focus is on the row of the image that was open, on its page.
  async function closed() {
    const image = gallery.index.ids.indexOf(state.image);
    state.image = "";
    const place = order.indexOf(image);
    const page = Math.floor(place / gallery.index.page) + 1;
    if (place >= 0 && page !== state.page) await change({ page });
    else keep();
    focus($("rows").querySelector(`[data-image="${image}"]`));
  }

  const focus = (item) => item?.querySelector(".title")?.focus();

  // --- changes ---

  function change(values, options) {
    const rearranged = Object.keys(values).some((key) => ["class", "find", "sort", "first", "second", "order"].includes(key));
    Object.assign(state, values);
    if (rearranged) state.page = 1;
    return draw({ rearranged, ...options });
  }

  function look(values) {
    Object.assign(state, values);
    reflect();
    keep();
  }

  async function turnTo(page) {
    await change({ page });
    window.scrollTo({ top: Math.min(window.scrollY, document.querySelector("main").offsetTop) });
  }

  const pages = () => Math.max(1, Math.ceil(order.length / gallery.index.page));
  const TURNS = { first: () => 1, before: () => state.page - 1, after: () => state.page + 1, last: pages };

  function step(direction) {
    const rows = [...$("rows").querySelectorAll(".row")];
    const at = rows.indexOf(document.activeElement?.closest?.(".row"));
    const next = at < 0 ? (direction > 0 ? 0 : rows.length - 1) : at + direction;
    if (rows[next]) focus(rows[next]);
    else if (direction > 0 && state.page < pages()) turnTo(state.page + 1).then(() => focus($("rows").firstChild));
    else if (direction < 0 && state.page > 1) turnTo(state.page - 1).then(() => focus($("rows").lastChild));
  }

  const toggleSeeds = () => {
    const seeds = state.seeds === "heat" ? "labels" : "heat";
    change({ seeds });
    if ($("detail").open) open(gallery.index.ids.indexOf(state.image));
  };
  const toggleOverlay = () => {
    if (state.overlay) lastOverlay = state.overlay;
    look({ overlay: state.overlay ? 0 : lastOverlay });
  };
  const shift = (by) => look({ overlay: Math.min(100, Math.max(0, state.overlay + by)) });
  const KEYS = {
    j: () => step(1),
    k: () => step(-1),
    ArrowLeft: () => ($("detail").open ? beside(-1) : TURNS.before() >= 1 && turnTo(TURNS.before())),
    ArrowRight: () => ($("detail").open ? beside(1) : TURNS.after() <= pages() && turnTo(TURNS.after())),
    Home: () => turnTo(1),
    End: () => turnTo(pages()),
    "[": () => shift(-5),
    "]": () => shift(5),
    o: toggleOverlay,
    s: () => look({ mode: state.mode === "blend" ? "swipe" : "blend" }),
    h: toggleSeeds,
    "/": () => $("find").focus(),
    "?": () => $("help").showModal(),
  };
  const IN_DETAIL = ["ArrowLeft", "ArrowRight", "[", "]", "o", "s", "h"];

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const typing = event.target.closest("input, select, textarea");
    if (typing && event.key !== "Escape") return;
    if (typing) typing.blur();
    const act = KEYS[event.key];
    if (!act || ($("detail").open && !IN_DETAIL.includes(event.key))) return;
    event.preventDefault();
    act();
  }

  // --- start ---

  function options(select, items) {
    select.replaceChildren(...items.map(([value, textContent]) => element("option", { value, textContent })));
  }

  function prepare() {
    const { classes, dataset, ids, recipes, shown, split, total, truth, undecided } = gallery.index;
    document.title = `${dataset}, ${split}: gallery`;
    $("title").textContent = dataset;
    const images = ids.length === total ? `${number(total)} images` : `a fixed sample of ${number(ids.length)} of ${number(total)} images`;
    $("subtitle").textContent = `${images} of ${split}, ${recipes.length} recipes`;
    const counts = new Map();
    for (const labels of shown) for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
    const found = [...counts].sort((a, b) => a[0] - b[0]);
    options($("class"), [["", "all classes"], ...found.map(([label, count]) => [label, `${classes[label].name} (${number(count)})`])]);
    for (const id of ["first", "second"]) options($(id), recipes.map((recipe, k) => [k, recipe.name]));
    const labelled = recipes.filter((recipe) => recipe.labels).length;
    const hints = [];
    const unable = (keys, why) => {
      for (const key of keys) $("sort").querySelector(`option[value="${key}"]`).disabled = true;
      hints.push(why);
    };
    if (!truth) unable(["iou", "gain"], "No true masks in this split, so there is no IoU to sort by.");
    if (recipes.length < 2) unable(["gain", "apart"], "One recipe, so there are no two to compare.");
    else if (labelled < 2) unable(["gain", "apart"], "Fewer than two recipes have label maps, so there are no two to compare.");
    $("hint").textContent = hints.join(" ");
    $("seeds").hidden = !recipes.some((recipe) => recipe.heat && recipe.labels);
    $("columns-list").replaceChildren(
      ...recipes.map((recipe, k) => {
        const mean = element("span", { className: "mean" });
        mean.dataset.mean = k;
        const box = element("input", { type: "checkbox", value: String(k) });
        return element("label", {}, box, element("span", { textContent: recipe.name, title: recipe.shows }), mean);
      }),
    );
    $("help-recipes").replaceChildren(
      ...recipes.flatMap(({ name, shows, threshold }) => {
        const cut = threshold === null ? "" : `, cut at the background score ${threshold.toFixed(2)} where labels are meant`;
        return [element("dt", { textContent: name }), element("dd", { textContent: shows + cut })];
      }),
    );
    $("help-undecided").textContent =
      undecided === "background" ? "undecided pixels of a prediction count as background." : "a prediction may leave none undecided.";
  }

  gallery.start = () => {
    prepare();
    read();
    for (const key of ["class", "sort", "order"]) $(key).onchange = () => change({ [key]: $(key).value });
    for (const key of ["first", "second"]) $(key).onchange = () => change({ [key]: Number($(key).value) });
    $("seeds").onchange = toggleSeeds;
    $("mode").onchange = () => look({ mode: $("mode").value });
    $("overlay").oninput = () => look({ overlay: Number($("overlay").value) });
    $("find").oninput = () => change({ find: $("find").value.trim() });
    $("page").onchange = () => turnTo(Number($("page").value));
    $("tools").onsubmit = (event) => event.preventDefault();
    $("columns-list").onchange = () => {
      const away = [...$("columns-list").querySelectorAll("input")].filter((box) => !box.checked);
      change({ hidden: away.map((box) => box.value).join(",") });
    };
    for (const button of document.querySelectorAll("[data-page]")) button.onclick = () => turnTo(TURNS[button.dataset.page]());
    $("rows").onclick = (event) => {
      if (event.target.closest(".title, .frame")) open(Number(event.target.closest(".row").dataset.image));
    };
    $("detail").onclose = closed;
    $("detail-close").onclick = () => $("detail").close();
    $("detail-before").onclick = () => beside(-1);
    $("detail-after").onclick = () => beside(1);
    $("open-help").onclick = () => $("help").showModal();
    $("help-close").onclick = () => $("help").close();
    // A mouse over a picture moves the edge of every picture; a finger there scrolls, and has the slider.
    document.addEventListener("pointermove", (event) => {
      const frame = state.mode === "swipe" && event.pointerType === "mouse" && event.target.closest(".frame");
      if (!frame) return;
      const { left, width } = frame.getBoundingClientRect();
      look({ overlay: Math.round(Math.min(1, Math.max(0, (event.clientX - left) / width)) * 100) });
    });
    document.addEventListener("pointerdown", (event) => {
      if (!event.target.closest("#columns")) $("columns").open = false;
    });
    document.addEventListener("keydown", pressed);
    window.addEventListener("resize", lay);
    window.addEventListener("hashchange", () => {
      read();
      draw();
    });
    const image = gallery.index.ids.indexOf(state.image);
    draw().then(() => image >= 0 && open(image));
  };
}
