/** Files in and out: fields, drops, downloads. */

/**
 * Take files from a field that opens when its button is pressed, and from drops onto a box.
 *
 * button and box may be null; take(files) gets an array, dropped() is called before a drop is taken.
 */
export function takeFiles({ field, button, box, take, dropped = () => {} }) {
  button?.addEventListener("click", () => field.click());
  field.addEventListener("change", async () => {
    await take([...field.files]);
    field.value = ""; // so that the same file can be chosen again
  });
  box?.addEventListener("dragover", (event) => {
    event.preventDefault();
    box.classList.add("over");
  });
  box?.addEventListener("dragleave", (event) => box.contains(event.relatedTarget) || box.classList.remove("over"));
  box?.addEventListener("drop", (event) => {
    event.preventDefault();
    box.classList.remove("over");
    dropped();
    take([...event.dataTransfer.files]);
  });
}

/** Hand a blob to the person as a file. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** "holiday.jpg" as "holiday". */
export function stem(name) {
  return name.replace(/\.[^.]+$/, "") || "picture";
}
