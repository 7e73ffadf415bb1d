"use strict";

// Elements of an image: its row, its pictures, and the scores under them.
{
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const percent = (share) => (Number.isNaN(share) ? "–" : `${(100 * share).toFixed(1)} %`);
  const UNDECIDED = 0xffc0e0e0; // cream, the bytes of a pixel as one number
  const MARK = 0xffff30e8;
  const png = (text) => `data:image/png;base64,${text}`;

  function chip(label) {
    const { name, colour } = gallery.index.classes[label];
    const square = element("i");
    square.style.background = colour;
    return element("span", { className: "chip" }, square, name);
  }

  function head(image, note) {
    const { ids, shown } = gallery.index;
    const title = element("button", { type: "button", className: "title", textContent: ids[image] });
    title.setAttribute("aria-haspopup", "dialog");
    const chips = element("span", { className: "chips" }, ...shown[image].map(chip));
    return element("div", { className: "head" }, title, chips, element("span", { className: "note", textContent: note }));
  }

  // A row without pictures, of the height it will have. `note` says by what it is sorted.
  function row(image, columns, note) {
    const item = element("li", { className: "row" }, head(image, note), tiles(image, columns));
    item.dataset.image = image;
    return item;
  }

  // Empty frames with captions for the photo, the truth, recipes, and where two differ.
  function tiles(image, columns) {
    const { ids, iou, recipes, sizes, truth } = gallery.index;
    const [width, height] = sizes[image];
    const best = Math.max(...columns.recipes.map((k) => iou[k][image]).filter((value) => !Number.isNaN(value)));
    const box = element("div", { className: "tiles" });
    const add = (kind, caption, ...score) => {
      const frame = element("div", { className: "frame" });
      frame.style.aspectRatio = `${width} / ${height}`;
      const figure = element("figure", { className: "tile" }, frame, element("figcaption", {}, caption, ...score));
      figure.dataset.kind = kind;
      box.append(figure);
      return figure;
    };
    // A long name breaks after a slash.
    const name = (text) => element("span", { className: "name" }, ...text.split(/(?<=[/])/).flatMap((part) => [part, element("wbr")]));
    add("photo", name("photo"));
    if (truth) add("truth", name("truth"));
    for (const k of columns.recipes) {
      const value = iou[k][image];
      const figure = add(`recipe-${k}`, name(recipes[k].name), ...(truth && recipes[k].labels ? score(value, value === best) : []));
      figure.dataset.recipe = k;
      if (columns.recipes.length > 1 && value === best) figure.classList.add("best");
    }
    if (columns.differ) add("differ", name("where they differ"));
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", ids[image]);
    return box;
  }

  function score(value, best) {
    const bar = element("span", { className: "meter" }, element("i"));
    bar.firstChild.style.width = Number.isNaN(value) ? "0" : `${100 * value}%`;
    bar.setAttribute("aria-hidden", "true");
    const text = element("span", { className: "score", textContent: percent(value) });
    text.setAttribute("aria-label", `IoU ${percent(value)}${best ? ", the best" : ""}`);
    return [bar, text];
  }

  function picture(source, className, alt) {
    return element("img", { src: source, className, alt, decoding: "async", draggable: false });
  }

  // Put the pictures into the frames of `tiles`.
  function fill(box, image, entry, columns) {
    const { ids, recipes } = gallery.index;
    const photo = `data:image/jpeg;base64,${entry.photo}`;
    for (const figure of box.children) {
      const frame = figure.firstChild;
      const kind = figure.dataset.kind;
      const layer = kind === "truth" ? { labels: entry.truth } : (entry.layers[figure.dataset.recipe] ?? {});
      const heat = layer.heat && (columns.seeds === "heat" || !layer.labels);
      const over = heat ? layer.heat : layer.labels;
      const what = kind === "photo" ? "photo" : kind === "truth" ? "truth" : recipes[figure.dataset.recipe]?.name;
      frame.replaceChildren(picture(photo, "photo", `${ids[image]}, ${what ?? "where they differ"}`));
      frame.classList.toggle("heat", Boolean(heat));
      if (over) frame.append(picture(png(over), "over", ""));
      else if (kind === "truth") frame.append(element("span", { className: "none", textContent: "no true mask" }));
    }
    const differ = box.querySelector('[data-kind="differ"] .frame');
    if (differ) differences(differ, columns.differ.map((k) => entry.layers[k].labels));
  }

  // Mark the pixels where two label maps have different colours; undecided ones are background, as in the numbers.
  async function differences(frame, sources) {
    if (sources.some((source) => !source)) return;
    const images = sources.map((source) => picture(png(source), "", ""));
    await Promise.all(images.map((image) => image.decode()));
    const { naturalWidth: width, naturalHeight: height } = images[0];
    const canvas = element("canvas", { width, height, className: "over" });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const [first, second] = images.map((image) => {
      context.clearRect(0, 0, width, height);
      context.drawImage(image, 0, 0);
      const colours = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
      return colours.map((colour) => (colour === UNDECIDED ? 0 : colour));
    });
    const marked = context.createImageData(width, height);
    const pixels = new Uint32Array(marked.data.buffer);
    for (let k = 0; k < pixels.length; k++) if (first[k] !== second[k]) pixels[k] = MARK;
    context.putImageData(marked, 0, 0);
    frame.append(canvas);
  }

  // IoU by label: rows are labels, columns are recipes.
  function table(entry, columns) {
    const { classes, recipes } = gallery.index;
    const scored = columns.recipes.filter((k) => entry.layers[k].iou);
    const labels = [...new Set(scored.flatMap((k) => Object.keys(entry.layers[k].iou).map(Number)))].sort((a, b) => a - b);
    if (!labels.length) return element("p", { className: "hint", textContent: "No true mask, so no IoU." });
    const column = (text) => Object.assign(element("th", { textContent: text }), { scope: "col" });
    const cells = (label) =>
      scored.map((k) => element("td", { textContent: percent(entry.layers[k].iou[label] ?? NaN) }));
    const line = (label) =>
      element("tr", {}, Object.assign(element("th", {}, label ? chip(label) : classes[0].name), { scope: "row" }), ...cells(label));
    return element(
      "div",
      { className: "scroll", tabIndex: 0 },
      element(
        "table",
        {},
        element("caption", { textContent: "IoU by label" }),
        element("thead", {}, element("tr", {}, column("Label"), ...scored.map((k) => column(recipes[k].name)))),
        element("tbody", {}, ...labels.map(line)),
      ),
    );
  }

  Object.assign(gallery, { element, percent, row, tiles, fill, table });
}
