/**
 * The stage on which masks are painted: mouse, touch, pen and keyboard to calls of `Mask`, and the mask to the screen.
 * Sizes of the brush are in CSS pixels, so that zooming in makes strokes finer; `#scale` is CSS pixels per mask pixel.
 */

import { TINT } from "./pictures.js";

const TINT_ALPHA = 140;
const MOST_ZOOM = 12;
const PEN_ERASER = 5; // PointerEvent.button
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Editor {
  tool = "brush"; // or "erase", "fill"
  size = 28;
  #stage;
  #sheet;
  #image;
  #context;
  #ring;
  #mask = null;
  #scale = 1;
  #zoom = 1;
  #cursor = { x: 0, y: 0 };
  #stroke = null; // { x, y, value } while one is being drawn
  #touches = new Map();
  #pinch = null;
  #changed;
  #say;

  /**
   * stage: the scrolling, focusable box with .sheet (the picture's box), img, canvas and .ring inside.
   * changed(): the mask has other pixels now. say(text): for the live region.
   */
  constructor(stage, { changed, say }) {
    this.#stage = stage;
    this.#sheet = stage.querySelector(".sheet");
    this.#image = stage.querySelector("img");
    this.#context = stage.querySelector("canvas").getContext("2d");
    this.#ring = stage.querySelector(".ring");
    this.#changed = changed;
    this.#say = say;
    new ResizeObserver(() => this.#layOut()).observe(stage);
    const canvas = this.#context.canvas;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => this.#up(event));
    canvas.addEventListener("pointerleave", () => this.#stroke || this.#showRing(false));
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("keydown", (event) => this.#key(event));
    stage.addEventListener("keyup", (event) => event.code === "Space" && this.#end());
    stage.addEventListener("focus", () => stage.matches(":focus-visible") && this.#mask && this.#showRing(true));
    stage.addEventListener("blur", () => {
      this.#end();
      this.#showRing(false);
    });
  }

  /** Show a picture and its mask; null shows nothing. */
  show(picture, mask) {
    this.#end();
    this.#mask = mask;
    this.#zoom = 1;
    this.#sheet.hidden = !mask;
    if (!mask) return;
    this.#image.src = picture.url;
    this.#image.alt = picture.name;
    this.#context.canvas.width = mask.width;
    this.#context.canvas.height = mask.height;
    this.#cursor = { x: mask.width / 2, y: mask.height / 2 };
    this.#layOut();
    this.#draw(0, 0, mask.width, mask.height);
  }

  /** One change of the whole mask, such as `mask.clear()`. Returns whether anything changed. */
  change(work) {
    if (!this.#mask) return false;
    this.#end();
    this.#mask.begin();
    work(this.#mask);
    const differs = this.#mask.commit();
    this.#refresh();
    if (differs) this.#changed();
    return differs;
  }

  undo() {
    return this.#history((mask) => mask.undo());
  }

  redo() {
    return this.#history((mask) => mask.redo());
  }

  setSize(size) {
    this.size = size;
    this.#placeRing();
  }

  setTool(tool) {
    this.#end();
    this.tool = tool;
    this.#ring.classList.toggle("filling", tool === "fill");
    this.#placeRing();
  }

  /** Zoom by a factor around the middle of the stage; null fits the picture into it. */
  zoom(factor) {
    const box = this.#stage.getBoundingClientRect();
    this.#zoomAt(factor, box.left + box.width / 2, box.top + box.height / 2);
  }

  #history(step) {
    if (!this.#mask) return false;
    this.#end();
    const differs = step(this.#mask);
    this.#refresh();
    if (differs) this.#changed();
    return differs;
  }

  // Where things are on the screen.

  #layOut() {
    const mask = this.#mask;
    if (!mask || !this.#stage.clientWidth) return;
    const { width, height } = this.#stage.getBoundingClientRect();
    this.#scale = Math.min((width - 2) / mask.width, (height - 2) / mask.height) * this.#zoom; // 2: the border
    this.#sheet.style.width = `${Math.floor(mask.width * this.#scale)}px`;
    this.#sheet.style.height = `${Math.floor(mask.height * this.#scale)}px`;
    this.#stage.classList.toggle("zoomed", this.#zoom > 1);
    this.#placeRing();
  }

  #zoomAt(factor, clientX, clientY) {
    if (!this.#mask) return;
    const [x, y] = this.#point({ clientX, clientY });
    this.#zoom = factor === null ? 1 : Math.min(MOST_ZOOM, Math.max(1, this.#zoom * factor));
    this.#layOut();
    const box = this.#context.canvas.getBoundingClientRect();
    this.#stage.scrollLeft += box.left + x * this.#scale - clientX;
    this.#stage.scrollTop += box.top + y * this.#scale - clientY;
  }

  #point({ clientX, clientY }) {
    const box = this.#context.canvas.getBoundingClientRect();
    return [((clientX - box.left) / box.width) * this.#mask.width, ((clientY - box.top) / box.height) * this.#mask.height];
  }

  #showRing(visible) {
    this.#ring.hidden = !visible;
    if (visible) this.#placeRing();
  }

  #placeRing() {
    const diameter = this.tool === "fill" ? 18 : this.size;
    this.#ring.style.width = this.#ring.style.height = `${diameter}px`;
    this.#ring.style.left = `${this.#cursor.x * this.#scale - diameter / 2}px`;
    this.#ring.style.top = `${this.#cursor.y * this.#scale - diameter / 2}px`;
  }

  // Strokes, whatever draws them.

  #begin(x, y, value) {
    if (this.tool === "fill" && value) {
      const differs = this.change((mask) => mask.flood(x, y));
      this.#say(differs ? `Filled. ${percent(this.#mask.share())} of the picture is marked.` : "Already painted here.");
      return;
    }
    this.#mask.begin();
    this.#stroke = { x, y, value };
    this.#extend(x, y);
  }

  #extend(x, y) {
    const stroke = this.#stroke;
    this.#mask.line(stroke.x, stroke.y, x, y, this.size / 2 / this.#scale, stroke.value);
    stroke.x = x;
    stroke.y = y;
    this.#refresh();
  }

  #end() {
    if (!this.#stroke) return;
    this.#stroke = null;
    if (this.#mask.commit()) this.#changed();
  }

  #giveUp() {
    if (!this.#stroke) return;
    this.#stroke = null;
    this.#mask.rollback();
    this.#refresh();
  }

  // Pointers.

  #down(event) {
    if (!this.#mask || (event.button !== 0 && event.button !== PEN_ERASER)) return;
    event.preventDefault();
    this.#stage.focus({ preventScroll: true });
    this.#context.canvas.setPointerCapture(event.pointerId);
    if (event.pointerType === "touch") {
      this.#touches.set(event.pointerId, event);
      if (this.#touches.size > 1) {
        this.#giveUp(); // the first finger meant to move the picture, not to paint
        this.#pinch = this.#fingers();
        return;
      }
    }
    const [x, y] = this.#point(event);
    this.#cursor = { x, y };
    this.#showRing(event.pointerType !== "touch");
    this.#begin(x, y, this.tool === "erase" || event.button === PEN_ERASER ? 0 : 1);
  }

  #move(event) {
    if (!this.#mask) return;
    if (this.#touches.has(event.pointerId)) this.#touches.set(event.pointerId, event);
    if (this.#pinch) {
      this.#pinchMove();
      return;
    }
    const [x, y] = this.#point(event);
    this.#cursor = { x, y };
    this.#showRing(event.pointerType !== "touch");
    if (!this.#stroke) return;
    const between = event.getCoalescedEvents?.() ?? [];
    for (const one of between.length ? between : [event]) this.#extend(...this.#point(one));
  }

  #up(event) {
    this.#touches.delete(event.pointerId);
    if (this.#pinch) {
      if (this.#touches.size === 0) this.#pinch = null;
      return;
    }
    if (event.type === "pointercancel") this.#giveUp();
    else this.#end();
  }

  #fingers() {
    const [one, other] = this.#touches.values();
    return {
      x: (one.clientX + other.clientX) / 2,
      y: (one.clientY + other.clientY) / 2,
      apart: Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1,
    };
  }

  #pinchMove() {
    if (this.#touches.size < 2) return;
    const old = this.#pinch;
    const now = this.#fingers();
    this.#stage.scrollLeft -= now.x - old.x;
    this.#stage.scrollTop -= now.y - old.y;
    this.#zoomAt(now.apart / old.apart, now.x, now.y);
    this.#pinch = now;
  }

  #wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return; // the page's own scrolling
    event.preventDefault();
    this.#zoomAt(Math.exp(-event.deltaY / 200), event.clientX, event.clientY);
  }

  // Keys, while the stage has the focus.

  #key(event) {
    if (!this.#mask || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.code === "Space") {
      event.preventDefault();
      if (event.repeat) return;
      this.#showRing(true);
      this.#begin(this.#cursor.x, this.#cursor.y, this.tool === "erase" ? 0 : 1);
    } else if (event.key in ARROWS) {
      event.preventDefault();
      this.#step(ARROWS[event.key], event.shiftKey ? 1 : Math.max(4, this.size / 2));
    } else if (event.key === "+" || event.key === "=") this.zoom(1.5);
    else if (event.key === "-") this.zoom(1 / 1.5);
    else if (event.key === "0") this.zoom(null);
  }

  #step([right, down], pixels) {
    const { width, height } = this.#mask;
    const x = Math.min(width, Math.max(0, this.#cursor.x + (right * pixels) / this.#scale));
    const y = Math.min(height, Math.max(0, this.#cursor.y + (down * pixels) / this.#scale));
    this.#cursor = { x, y };
    this.#showRing(true);
    this.#ring.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (this.#stroke) this.#extend(x, y);
    const at = Math.min(height - 1, Math.floor(y)) * width + Math.min(width - 1, Math.floor(x));
    const marked = this.#mask.data[at] ? "painted" : "not painted";
    this.#say(`${percent(x / width)} from the left, ${percent(y / height)} from the top, ${marked}.`);
  }

  // Pixels.

  #refresh() {
    const box = this.#mask.takeChanges();
    if (box) this.#draw(...box);
  }

  #draw(left, top, right, bottom) {
    const width = right - left;
    const height = bottom - top;
    if (width <= 0 || height <= 0) return;
    const part = this.#context.createImageData(width, height);
    const pixels = new Uint32Array(part.data.buffer);
    const [tint] = new Uint32Array(new Uint8Array([...TINT, TINT_ALPHA]).buffer);
    for (let y = 0; y < height; y += 1) {
      const row = (top + y) * this.#mask.width + left;
      for (let x = 0; x < width; x += 1) if (this.#mask.data[row + x]) pixels[y * width + x] = tint;
    }
    this.#context.putImageData(part, left, top);
  }
}

export function percent(share) {
  return `${share > 0 && share < 0.01 ? "under 1" : Math.round(share * 100)} %`;
}
