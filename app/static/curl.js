/** The same requests as a person would type them. */

import { stem } from "./files.js";

/**
 * One curl command for each input picture.
 *
 * question: as in api.js; images: file names; url: of the route.
 */
export function curlLines({ examples, prompt, label, embedding_type }, images, threshold, url) {
  const shown = images.length ? images : ["image.jpg"];
  return shown
    .map((image) => {
      const options = [file("image", image)];
      if (prompt) options.push(`-F ${quoted(`prompt=${prompt}`)}`);
      for (const example of examples ?? []) {
        options.push(`${file("prompt_image", example.name)} ${file("prompt_mask", example.maskName)}`);
      }
      if (label) options.push(`--form-string ${quoted(`label=${label}`)}`); // never read as a file, even if it is "@a"
      if (embedding_type !== "instance") options.push(`-F embedding_type=${embedding_type}`);
      if (threshold !== 0.5) options.push(`-F threshold=${threshold}`);
      options.push("-F upsampling=bilinear");
      options.push(`-o ${quoted(`${stem(image)}_mask.png`)}`);
      return [`curl ${quoted(url)}`, ...options].join(" \\\n  ");
    })
    .join("\n\n");
}

/** In curl's own quotes where a name has what separates fields for it. */
function file(field, name) {
  const path = /[;,"\\]/.test(name) ? `"${name.replaceAll(/["\\]/g, "\\$&")}"` : name;
  return `-F ${quoted(`${field}=@${path}`)}`;
}

/** As one word for a POSIX shell. */
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
