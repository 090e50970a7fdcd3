/** One input picture on the page: its overlay, what became of it, and what one can do with it. */

import { percent } from "./editor.js";
import { download, stem } from "./files.js";
import { blackAndWhite, fitted, greyPixels, openPicture, TINT } from "./pictures.js";

const SHOWN_SIDE = 1024; // of the overlay on the screen; downloads have the picture's own size

export class Result {
  /** "new", "waiting", "done" or "failed". */
  state = "new";
  /** Of the question that it answers; null when there is no answer. */
  key = null;
  #soft = null;
  #shown = null; // the soft mask at the overlay's size: { width, height, grey }
  #parts;
  #view;

  /** template: the card's <template>; view: { threshold, opacity }, shared and changed from outside. */
  constructor(picture, template, view, { removed }) {
    this.picture = picture;
    this.#view = view;
    const card = template.content.firstElementChild.cloneNode(true);
    const part = (name) => card.querySelector(`[data-part="${name}"]`);
    this.#parts = {
      overlay: part("overlay"),
      note: part("note"),
      error: part("error"),
      download: part("download"),
    };
    this.card = card;
    card.setAttribute("aria-label", picture.name);
    part("picture").src = picture.url;
    part("picture").alt = picture.name;
    part("frame").style.aspectRatio = `${picture.width} / ${picture.height}`;
    part("name").textContent = picture.name;
    part("name").title = picture.name;
    part("remove").setAttribute("aria-label", `Remove ${picture.name}`);
    part("remove").addEventListener("click", () => removed(this));
    this.#parts.download.setAttribute("aria-label", `Download the mask of ${picture.name}`);
    this.#parts.download.addEventListener("click", () => this.#download());
    this.#set("new", "");
  }

  /** Wait for the answer of `ask()`, a promise of the soft mask's PNG, and show what comes. */
  async run(key, ask) {
    const start = performance.now();
    this.#set("waiting", "Segmenting…");
    try {
      const soft = await ask((seconds) =>
        this.#set("waiting", `The service is busy; trying again in ${Math.ceil(seconds)} s`),
      );
      this.#shown = await greyPixels(soft, fitted(this.picture.width, this.picture.height, SHOWN_SIDE));
      this.#soft = soft;
      this.key = key;
      this.time = `${Math.round(performance.now() - start)} ms`;
      this.#set("done", "");
      this.paint();
    } catch (error) {
      if (error.name === "AbortError") this.#set(this.#soft ? "done" : "new", "Stopped");
      else {
        this.#soft = this.#shown = this.key = null;
        this.#set("failed", "");
        this.#parts.error.textContent = error.message;
      }
      this.paint();
    }
  }

  /** Say whether the answer belongs to another question than the one that is set now. */
  compare(key) {
    this.card.classList.toggle("outdated", this.state === "done" && this.key !== null && this.key !== key);
  }

  /** Draw the overlay anew for the threshold and opacity of now. */
  paint() {
    const canvas = this.#parts.overlay;
    if (!this.#shown) {
      canvas.width = canvas.height = 0;
      return;
    }
    const { width, height, grey } = this.#shown;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const area = tinted(image, grey, this.#view.threshold * 255, this.#view.opacity);
    context.putImageData(image, 0, 0);
    this.#parts.note.textContent = `${area ? `${percent(area / grey.length)} marked` : "Nothing marked"} · ${this.time}`;
  }

  #set(state, note) {
    this.state = state;
    this.card.dataset.state = state;
    this.card.setAttribute("aria-busy", String(state === "waiting"));
    this.#parts.note.textContent = note || (state === "new" ? `${this.picture.width} × ${this.picture.height}` : "");
    this.#parts.download.disabled = !this.#soft;
    this.#parts.error.textContent = "";
  }

  async #download() {
    const { width, height, grey } = await greyPixels(this.#soft);
    const limit = this.#view.threshold * 255;
    download(await blackAndWhite(width, height, grey, (value) => value > limit), `${stem(this.picture.name)}_mask.png`);
  }
}

/** Open files as results; those that are no pictures are told to `failed(message)`. */
export async function openResults(files, template, view, { removed, failed }) {
  const results = [];
  for (const file of files) {
    try {
      results.push(new Result(await openPicture(file), template, view, { removed }));
    } catch (error) {
      failed(error.message);
    }
  }
  return results;
}

/** Fill what is brighter than `limit` (as the service's threshold does) and outline it. Returns its pixels. */
function tinted(image, grey, limit, opacity) {
  const { width, height } = image;
  const pixels = new Uint32Array(image.data.buffer);
  const [fill, line] = new Uint32Array(new Uint8Array([...TINT, Math.round(opacity * 255), 255, 255, 255, 235]).buffer);
  const reach = Math.max(1, Math.round(Math.max(width, height) / 320));
  let area = 0;
  for (let y = 0; y < height; y += 1) {
    const up = Math.max(0, y - reach) * width;
    const down = Math.min(height - 1, y + reach) * width;
    for (let x = 0; x < width; x += 1) {
      const at = y * width + x;
      if (grey[at] <= limit) continue;
      area += 1;
      const isEdge =
        grey[y * width + Math.max(0, x - reach)] <= limit ||
        grey[y * width + Math.min(width - 1, x + reach)] <= limit ||
        grey[up + x] <= limit ||
        grey[down + x] <= limit;
      pixels[at] = isEdge ? line : fill;
    }
  }
  return area;
}
