"use strict";

// What is known of the images: the index at once, pictures and comparisons when they are asked for.
// Files on disk cannot be fetched, so all of them are scripts that call open, chunk or pairs.
const gallery = (() => {
  const KEPT_CHUNKS = 64;
  const UNDEFINED = 65535;
  const arrived = { chunk: new Map(), pairs: new Map() };
  const chunks = new Map(); // name -> promise, the least recently used first
  const pairs = new Map();
  let index = null;

  // 16-bit whole numbers, the lower byte first, as shares; NaN where there is none.
  function shares(text) {
    const bytes = atob(text);
    const values = new Float32Array(bytes.length / 2);
    for (let k = 0; k < values.length; k++) {
      const value = bytes.charCodeAt(2 * k) + 256 * bytes.charCodeAt(2 * k + 1);
      values[k] = value === UNDEFINED ? NaN : value / 10000;
    }
    return values;
  }

  function load(file, inbox, name) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const done = (end) => () => {
        script.remove();
        end();
      };
      script.src = file;
      script.onload = done(() => {
        resolve(inbox.get(name));
        inbox.delete(name);
      });
      script.onerror = done(() => reject(new Error(`${file} is missing; copy the whole folder of the gallery`)));
      document.head.append(script);
    });
  }

  // Pictures and scores by label of image number `image` (in the order of the index).
  async function pictures(image) {
    const name = String(Math.floor(image / index.chunk)).padStart(5, "0");
    const wanted = chunks.get(name) ?? load(`files/chunks/${name}.js`, arrived.chunk, name);
    chunks.delete(name);
    chunks.set(name, wanted);
    if (chunks.size > KEPT_CHUNKS) chunks.delete(chunks.keys().next().value);
    wanted.catch(() => chunks.delete(name));
    return (await wanted)[image % index.chunk];
  }

  // Disagreement of two recipes, a share an image.
  async function disagreement(first, second) {
    const [low, high] = first < second ? [first, second] : [second, first];
    if (low === high) return new Float32Array(index.ids.length);
    if (!pairs.has(low)) {
      const loaded = load(`files/pairs/${low}.js`, arrived.pairs, low);
      loaded.catch(() => pairs.delete(low));
      pairs.set(low, loaded);
    }
    return shares((await pairs.get(low))[high]);
  }

  return {
    open(given) {
      index = { ...given, iou: given.iou.map(shares) };
      gallery.index = index;
      gallery.start();
    },
    chunk: (name, images) => arrived.chunk.set(name, images),
    pairs: (first, others) => arrived.pairs.set(first, others),
    pictures,
    disagreement,
  };
})();
