/** One example: a picture and the mask painted on it. */

import { Mask } from "./mask.js";
import { blackAndWhite, maskSize, openPicture, TINT } from "./pictures.js";

const THUMB_SIDE = 152; // twice what it measures on the page

export class Example {
  #file = null; // { revision, blob }

  /** Open a picture file, with nothing painted. Throws an Error whose message is for people. */
  static async open(file) {
    const picture = await openPicture(file);
    const { width, height } = maskSize(picture);
    return new Example(picture, new Mask(width, height));
  }

  constructor(picture, mask) {
    this.picture = picture;
    this.mask = mask;
    this.thumb = document.createElement("canvas");
  }

  get isPainted() {
    return this.mask.data.includes(1);
  }

  /** The mask as a PNG; the same bytes as long as nothing is painted, so that the service recognises the example. */
  async maskFile() {
    const { width, height, data, revision } = this.mask;
    if (this.#file?.revision !== revision) {
      this.#file = { revision, blob: await blackAndWhite(width, height, data, (value) => value === 1) };
    }
    return this.#file.blob;
  }

  drawThumb() {
    const { width, height, data } = this.mask;
    const scale = Math.min(1, THUMB_SIDE / Math.max(width, height));
    this.thumb.width = Math.max(1, Math.floor(width * scale));
    this.thumb.height = Math.max(1, Math.floor(height * scale));
    const context = this.thumb.getContext("2d");
    const image = context.createImageData(this.thumb.width, this.thumb.height);
    for (let at = 0; at < image.width * image.height; at += 1) {
      const x = Math.floor((at % image.width) / scale);
      const y = Math.floor(Math.floor(at / image.width) / scale);
      if (data[y * width + x]) image.data.set([...TINT, 170], 4 * at);
    }
    context.putImageData(image, 0, 0);
  }
}
