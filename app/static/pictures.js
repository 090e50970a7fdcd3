/** Picture files to pixels and back. Pictures are shown upright (EXIF), as the service reads them. */

/** The colour of masks on pictures, RGB. */
export const TINT = [255, 45, 120];

const MASK_SIDE = 1600; // the network sees a few hundred pixels a side; more would only be slow to paint

/** Open a file for showing. Throws an Error whose message is for people. */
export async function openPicture(file) {
  const url = URL.createObjectURL(file);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new Error(`${file.name || "This file"} is not a picture that this browser can show`);
  }
  return { file, url, name: file.name || "picture.png", width: image.naturalWidth, height: image.naturalHeight };
}

/** The size of the mask of a picture: the picture's own, or smaller with the same aspect. */
export function maskSize({ width, height }) {
  return fitted(width, height, MASK_SIDE);
}

export function fitted(width, height, longest) {
  const scale = Math.min(1, longest / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/**
 * The grey values of a picture file, one byte per pixel: its red channel, which for grey files is the value itself.
 * Nearest when the size differs, as the service does it, and without colour management: values stay what they are.
 */
export async function greyPixels(blob, size) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = size ?? bitmap;
  const context = newCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const grey = new Uint8Array(width * height);
  for (let at = 0; at < grey.length; at += 1) grey[at] = data[4 * at];
  return { width, height, grey };
}

/** A black and white PNG: white where `isThing(value)`. */
export function blackAndWhite(width, height, values, isThing) {
  const canvas = newCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const [black, white] = new Uint32Array(new Uint8Array([0, 0, 0, 255, 255, 255, 255, 255]).buffer);
  for (let at = 0; at < pixels.length; at += 1) pixels[at] = isThing(values[at]) ? white : black;
  context.putImageData(image, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function newCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}
