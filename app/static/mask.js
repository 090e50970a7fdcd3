/**
 * A painted mask: which pixels of a picture show the thing, with undo. Knows pixels only: no DOM, no pointer.
 *
 * Coordinates are in pixels, (0, 0) is the upper left corner of the upper left pixel. A change is made between `begin`
 * and `commit`; what changed is kept as a patch, so that undoing costs what was painted and not the whole picture.
 */

const MOST_STEPS = 200;
const MOST_STEP_BYTES = 64 * 1024 * 1024;

export class Mask {
  /** Grows with every change; equal numbers mean equal pixels. */
  revision = 0;
  #before = null;
  #changed = null;
  #shown = null;
  #past = [];
  #future = [];

  constructor(width, height) {
    this.width = width;
    this.height = height;
    /** One byte per pixel, row by row: 1 is the thing. */
    this.data = new Uint8Array(width * height);
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  /** How much of the picture is marked, in [0, 1]. */
  share() {
    let count = 0;
    for (const value of this.data) count += value;
    return count / this.data.length;
  }

  begin() {
    this.#before = this.data.slice();
    this.#changed = null;
  }

  /** End a change and make it one step to undo. Returns whether any pixel differs. */
  commit() {
    const before = this.#before;
    const box = this.#changed;
    this.#before = null;
    if (!before || !box) return false;
    const step = { box, old: this.#cut(before, box), new: this.#cut(this.data, box) };
    if (step.old.every((value, at) => value === step.new[at])) return false;
    this.#past.push(step);
    this.#future = [];
    let bytes = this.#past.reduce((sum, one) => sum + 2 * one.old.length, 0);
    while (this.#past.length > MOST_STEPS || (bytes > MOST_STEP_BYTES && this.#past.length > 1)) {
      bytes -= 2 * this.#past.shift().old.length;
    }
    this.revision += 1;
    return true;
  }

  /** Give up the change that `begin` began. */
  rollback() {
    if (!this.#before) return;
    this.data.set(this.#before);
    this.#before = null;
    this.#touch(0, 0, this.width, this.height);
  }

  /** Paint (1) or erase (0) everything within `radius` of the line between two points. */
  line(fromX, fromY, toX, toY, radius, value) {
    const left = Math.max(0, Math.floor(Math.min(fromX, toX) - radius));
    const right = Math.min(this.width, Math.ceil(Math.max(fromX, toX) + radius));
    const top = Math.max(0, Math.floor(Math.min(fromY, toY) - radius));
    const bottom = Math.min(this.height, Math.ceil(Math.max(fromY, toY) + radius));
    if (left >= right || top >= bottom) return;
    const alongX = toX - fromX;
    const alongY = toY - fromY;
    const square = alongX * alongX + alongY * alongY || 1;
    const reach = Math.max(radius, 0.71) ** 2; // never thinner than the pixel under the point
    for (let y = top; y < bottom; y += 1) {
      for (let x = left; x < right; x += 1) {
        const awayX = x + 0.5 - fromX;
        const awayY = y + 0.5 - fromY;
        const part = Math.min(1, Math.max(0, (awayX * alongX + awayY * alongY) / square));
        if ((awayX - part * alongX) ** 2 + (awayY - part * alongY) ** 2 <= reach) {
          this.data[y * this.width + x] = value;
        }
      }
    }
    this.#touch(left, top, right, bottom);
  }

  /** Paint the unpainted area around a point, up to what is painted. */
  flood(x, y) {
    const column = Math.floor(x);
    const row = Math.floor(y);
    if (column < 0 || row < 0 || column >= this.width || row >= this.height) return;
    spread(this.data, this.width, this.height, [row * this.width + column]);
    this.#touch(0, 0, this.width, this.height);
  }

  /** Paint every area that painted outlines enclose: all that cannot be reached from the picture's edge. */
  fillOutlines() {
    const { width, height } = this;
    const reached = this.data.slice();
    const seeds = [];
    for (let x = 0; x < width; x += 1) seeds.push(x, (height - 1) * width + x);
    for (let y = 0; y < height; y += 1) seeds.push(y * width, y * width + width - 1);
    spread(reached, width, height, seeds);
    for (let at = 0; at < reached.length; at += 1) if (!reached[at]) this.data[at] = 1;
    this.#touch(0, 0, width, height);
  }

  clear() {
    this.data.fill(0);
    this.#touch(0, 0, this.width, this.height);
  }

  /** Take over other pixels (0, or anything else for the thing), of this mask's size. */
  replace(pixels) {
    for (let at = 0; at < this.data.length; at += 1) this.data[at] = pixels[at] ? 1 : 0;
    this.#touch(0, 0, this.width, this.height);
  }

  undo() {
    return this.#step(this.#past, this.#future, "old");
  }

  redo() {
    return this.#step(this.#future, this.#past, "new");
  }

  /** The box [left, top, right, bottom) that changed since this was last asked, or null. */
  takeChanges() {
    const box = this.#shown;
    this.#shown = null;
    return box;
  }

  #step(from, to, which) {
    const step = from.pop();
    if (!step) return false;
    to.push(step);
    const [left, top, right, bottom] = step.box;
    for (let y = top; y < bottom; y += 1) {
      const start = (y - top) * (right - left);
      this.data.set(step[which].subarray(start, start + right - left), y * this.width + left);
    }
    this.#touch(...step.box);
    this.revision += 1;
    return true;
  }

  #cut(data, [left, top, right, bottom]) {
    const part = new Uint8Array((right - left) * (bottom - top));
    for (let y = top; y < bottom; y += 1) {
      part.set(data.subarray(y * this.width + left, y * this.width + right), (y - top) * (right - left));
    }
    return part;
  }

  #touch(...box) {
    this.#changed = union(this.#changed, box);
    this.#shown = union(this.#shown, box);
  }
}

function union(one, other) {
  if (!one) return other;
  return [
    Math.min(one[0], other[0]),
    Math.min(one[1], other[1]),
    Math.max(one[2], other[2]),
    Math.max(one[3], other[3]),
  ];
}

/** Set to 1 every 0 that is connected (left, right, above, below) with a 0 at one of `seeds`. */
function spread(data, width, height, seeds) {
  const open = seeds.filter((at) => !data[at]);
  while (open.length) {
    const at = open.pop();
    if (data[at]) continue;
    const start = at - (at % width);
    let left = at;
    let right = at;
    while (left > start && !data[left - 1]) left -= 1;
    while (right < start + width - 1 && !data[right + 1]) right += 1;
    data.fill(1, left, right + 1);
    for (const row of [start - width, start + width]) {
      if (row < 0 || row >= width * height) continue;
      let inside = false;
      for (let place = row + (left - start); place <= row + (right - start); place += 1) {
        if (data[place]) inside = false;
        else if (!inside) {
          open.push(place);
          inside = true;
        }
      }
    }
  }
}
