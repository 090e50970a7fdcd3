/** The playground's page: what a person does becomes a question, and the service's answers become overlays. */

import { models, registerPrompt, segment } from "./api.js";
import { curlLines } from "./curl.js";
import { Editor, percent } from "./editor.js";
import { Example } from "./examples.js";
import { download, stem, takeFiles } from "./files.js";
import { greyPixels } from "./pictures.js";
import { PromptList } from "./prompts.js";
import { openResults } from "./results.js";

const AT_ONCE = 4; // requests in flight: enough to fill a batch, few enough to be fair

const $ = (id) => document.getElementById(id);
const view = { threshold: 0.5, opacity: 0.55 };
let examples = [];
let current = null;
let results = [];
let running = null; // an AbortController

const editor = new Editor($("stage"), { changed: maskChanged, say });
const prompts = new PromptList(
  { list: $("prompts"), template: $("prompt-item"), more: $("more-prompts"), dialog: $("dialog") },
  { changed: questionChanged, say },
);

/** Tell the live region and the line under the button. */
function say(text, isBad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isBad);
}

// Examples.

async function addExample(file) {
  try {
    const example = await Example.open(file);
    examples.push(example);
    choose(example);
    say(`Paint over the thing in ${example.picture.name}.`);
  } catch (error) {
    say(error.message, true);
  }
}

async function addExamples(files) {
  for (const file of files) await addExample(file);
}

function choose(example) {
  current = example;
  editor.show(example?.picture ?? null, example?.mask ?? null);
  showExamples();
  maskChanged();
}

function removeExample(example) {
  const place = examples.indexOf(example);
  examples = examples.filter((one) => one !== example);
  URL.revokeObjectURL(example.picture.url);
  choose(examples[Math.min(place, examples.length - 1)] ?? null);
}

function showExamples() {
  const items = examples.map((example, index) => {
    const item = $("example-item").content.firstElementChild.cloneNode(true);
    const part = (name) => item.querySelector(`[data-part="${name}"]`);
    const button = part("choose");
    button.setAttribute("aria-pressed", String(example === current));
    button.setAttribute("aria-label", `Example ${index + 1}: ${example.picture.name}`);
    button.addEventListener("click", () => choose(example));
    part("picture").src = example.picture.url;
    part("remove").setAttribute("aria-label", `Remove example ${index + 1}`);
    part("remove").addEventListener("click", () => removeExample(example));
    button.append(example.thumb);
    return item;
  });
  $("examples").replaceChildren(...items, $("add-example"));
  $("workshop").classList.toggle("empty", !current);
  for (const example of examples) example.drawThumb();
}

function maskChanged() {
  if (current) {
    current.drawThumb();
    const share = current.mask.share();
    $("painted").textContent = share ? `${percent(share)} marked` : "Nothing marked yet";
    $("undo").disabled = !current.mask.canUndo;
    $("redo").disabled = !current.mask.canRedo;
    $("clear").disabled = $("save-mask").disabled = $("fill-outlines").disabled = !share;
  }
  questionChanged();
}

async function openMask(file) {
  try {
    const { grey } = await greyPixels(file, current.mask);
    editor.change((painted) => painted.replace(grey.map((value) => (value > 127 ? 1 : 0))));
  } catch {
    say(`${file.name} is not a picture that this browser can read`, true);
  }
}

// The question: what is asked of every input picture.

const usesSaved = () => $("source-saved").checked;
const painted = () => examples.filter((example) => example.isPainted);

/** Whatever changes the answers, as text: equal keys have equal answers. */
function questionKey() {
  const kind = $("kind").value;
  if (usesSaved()) return `prompt ${prompts.chosen?.id} ${$("label").value} ${kind}`;
  return `examples ${painted().map(({ picture, mask }) => `${picture.url} ${mask.revision}`)} ${kind}`;
}

/** What hinders asking, as a sentence, or "". */
function hindrance() {
  if (usesSaved() && !prompts.chosen) return "Choose a saved prompt first.";
  if (!usesSaved() && !examples.length) return "Add a picture and paint over the thing first.";
  if (!usesSaved() && !painted().length) return "Paint over the thing first.";
  return results.length ? "" : "Add pictures to search in.";
}

function questionChanged() {
  showLabels();
  const key = questionKey();
  for (const result of results) result.compare(key);
  $("segment").disabled = !running && hindrance() !== "";
  $("hint").textContent = running ? "" : hindrance();
  $("keep").disabled = !painted().length;
  $("prompt-count").textContent = prompts.count;
  $("no-prompts").hidden = prompts.count !== "0";
  $("paint-panel").hidden = usesSaved();
  $("saved-panel").hidden = !usesSaved();
  $("no-results").hidden = results.length > 0;
  $("results").hidden = results.length === 0;
  showCurl();
}

function showLabels() {
  const labels = usesSaved() ? (prompts.chosen?.labels ?? []) : [];
  const names = labels.length > 1 ? labels.map((label) => label.name) : [];
  const options = [...$("label").options].map((option) => option.value);
  $("label-field").hidden = !names.length;
  if (names.join("\n") !== options.join("\n")) $("label").replaceChildren(...names.map((name) => new Option(name)));
}

async function question() {
  const shared = { embedding_type: $("kind").value };
  if (usesSaved()) return { ...shared, prompt: prompts.chosen.id, label: $("label").value };
  return { ...shared, examples: await paintedFiles() };
}

function paintedFiles() {
  return Promise.all(
    painted().map(async (example) => ({ image: example.picture.file, mask: await example.maskFile() })),
  );
}

function showCurl() {
  const shown = { embedding_type: $("kind").value };
  if (usesSaved()) Object.assign(shown, { prompt: prompts.chosen?.id ?? "<id>", label: $("label").value });
  else {
    const some = painted().length ? painted() : [{ picture: { name: "example.jpg" } }];
    shown.examples = some.map(({ picture: { name } }) => ({ name, maskName: `${stem(name)}_mask.png` }));
  }
  const names = results.map(({ picture }) => picture.name);
  $("curl").textContent = curlLines(shown, names, view.threshold, new URL("v1/segment", document.baseURI).href);
}

// Answers.

async function addInputs(files) {
  const callbacks = { removed: removeResult, failed: (message) => say(message, true) };
  const added = await openResults(files, $("result-item"), view, callbacks);
  results.push(...added);
  $("results").append(...added.map(({ card }) => card));
  if (added.length) say(added.length === 1 ? `${added[0].picture.name} added.` : `${added.length} pictures added.`);
  questionChanged();
}

function removeResult(result) {
  results = results.filter((one) => one !== result);
  result.card.remove();
  URL.revokeObjectURL(result.picture.url);
  questionChanged();
}

async function run() {
  if (running) {
    running.abort();
    return;
  }
  if (hindrance()) {
    say(hindrance(), true);
    return;
  }
  const key = questionKey();
  const unanswered = results.filter((result) => result.key !== key);
  const asked = unanswered.length ? unanswered : [...results];
  const waiting = [...asked];
  running = new AbortController();
  const { signal } = running;
  document.body.classList.add("running");
  $("segment-text").textContent = "Stop";
  say(`Segmenting ${asked.length === 1 ? asked[0].picture.name : `${asked.length} pictures`}…`);
  asked[0].card.scrollIntoView({ block: "nearest", behavior: "smooth" });
  questionChanged();
  try {
    const asking = await question();
    const worker = async () => {
      for (let result = waiting.shift(); result && !signal.aborted; result = waiting.shift()) {
        await result.run(key, (onWait) => segment(result.picture.file, asking, { signal, onWait }));
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  } finally {
    const stopped = signal.aborted;
    running = null;
    document.body.classList.remove("running");
    $("segment-text").textContent = "Segment";
    const failed = asked.filter(({ state }) => state === "failed").length;
    const done = asked.filter(({ state }) => state === "done").length;
    if (stopped) say("Stopped.");
    else say(failed ? `${done} done, ${failed} failed: the reason is next to each picture.` : "Done.", failed > 0);
    questionChanged();
  }
}

async function keep(event) {
  event.preventDefault();
  const name = $("prompt-name").value.trim();
  $("keep").disabled = true;
  $("keep-error").textContent = "";
  try {
    const prompt = await registerPrompt(await paintedFiles(), name);
    $("prompt-name").value = "";
    await prompts.refresh();
    say(`Kept as “${prompt.name || prompt.id.slice(0, 12)}”. You find it under Saved.`);
  } catch (error) {
    $("keep-error").textContent = error.message;
  }
  questionChanged();
}

async function loadDemo() {
  const file = async (name, shown) => {
    const blob = await (await fetch(`static/${name}`)).blob();
    return new File([blob], shown, { type: blob.type });
  };
  try {
    const [picture, mask, input] = await Promise.all([
      file("demo-example.jpg", "monkey.jpg"),
      file("demo-mask.png", "monkey_mask.png"),
      file("demo-input.jpg", "mountain.jpg"),
    ]);
    $("source-paint").checked = true;
    await addExample(picture);
    await openMask(mask);
    await addInputs([input]);
    say("The monkey is marked on the left. Press Segment to find one in the other picture.");
  } catch {
    say("The example pictures cannot be loaded.", true);
  }
}

async function copyCurl() {
  const text = $("curl").textContent;
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    getSelection().selectAllChildren($("curl")); // without HTTPS browsers keep the clipboard shut
    say("The command is selected: copy it with your keyboard.");
  }
}

async function showModel() {
  try {
    const [model] = (await models()).models;
    const devices = [...new Set(model.workers.map(({ device }) => device))].join(", ");
    $("model").textContent = `${model.checkpoint.split("/").at(-1)} on ${devices}`;
    $("model").hidden = false;
  } catch {
    // only an ornament
  }
}

// Wiring.

function chooseTool(tool) {
  editor.setTool(tool);
  for (const name of ["brush", "erase", "fill"]) $(name).setAttribute("aria-pressed", String(name === tool));
}

function chooseSize(size) {
  $("size").value = size;
  $("size-text").textContent = $("size").value;
  editor.setSize(Number($("size").value));
}

const SHORTCUTS = {
  b: () => chooseTool("brush"),
  e: () => chooseTool("erase"),
  f: () => chooseTool("fill"),
  "[": () => chooseSize(editor.size - Math.max(2, Math.round(editor.size / 8))),
  "]": () => chooseSize(editor.size + Math.max(2, Math.round(editor.size / 8))),
};

function shortcut(event) {
  const isCommand = event.ctrlKey || event.metaKey;
  const isTyping = event.target.matches("input[type=text], select, textarea");
  const key = event.key.toLowerCase();
  let work;
  if ($("dialog").open) return;
  if (isCommand && key === "enter") work = run;
  else if (isTyping || event.altKey) return;
  else if (isCommand && key === "z") work = () => (event.shiftKey ? editor.redo() : editor.undo());
  else if (isCommand && key === "y") work = () => editor.redo();
  else if (!isCommand && !usesSaved()) work = SHORTCUTS[key];
  if (!work) return;
  event.preventDefault();
  work();
}

takeFiles({
  field: $("example-file"),
  button: $("add-example-button"),
  box: $("show"),
  take: addExamples,
  dropped: () => ($("source-paint").checked = true),
});
takeFiles({ field: $("mask-file"), button: $("open-mask"), take: ([file]) => file && openMask(file) });
takeFiles({ field: $("input-file"), button: $("add-inputs"), box: $("find"), take: addInputs });
$("first-example").addEventListener("click", () => $("example-file").click());
$("first-input").addEventListener("click", () => $("input-file").click());
for (const name of ["brush", "erase", "fill"]) $(name).addEventListener("click", () => chooseTool(name));
$("size").addEventListener("input", () => chooseSize($("size").value));
$("fill-outlines").addEventListener("click", () => {
  if (!editor.change((mask) => mask.fillOutlines())) say("No painted outline is closed yet.", true);
});
$("undo").addEventListener("click", () => editor.undo());
$("redo").addEventListener("click", () => editor.redo());
$("clear").addEventListener("click", () => editor.change((mask) => mask.clear()));
$("zoom-in").addEventListener("click", () => editor.zoom(1.5));
$("zoom-out").addEventListener("click", () => editor.zoom(1 / 1.5));
$("zoom-fit").addEventListener("click", () => editor.zoom(null));
$("save-mask").addEventListener("click", async () => {
  download(await current.maskFile(), `${stem(current.picture.name)}_mask.png`);
});
for (const name of ["source-paint", "source-saved", "kind", "label"]) $(name).addEventListener("change", questionChanged);
for (const name of ["threshold", "opacity"]) {
  $(name).addEventListener("input", () => {
    view[name] = Number($(name).value);
    $(`${name}-text`).textContent = view[name].toFixed(2);
    requestAnimationFrame(() => results.forEach((result) => result.paint()));
    if (name === "threshold") showCurl();
  });
}
$("segment").addEventListener("click", run);
$("keep-form").addEventListener("submit", keep);
$("copy").addEventListener("click", copyCurl);
for (const button of document.querySelectorAll(".demo")) button.addEventListener("click", loadDemo);
document.addEventListener("keydown", shortcut);
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) (examples.length || usesSaved() ? addInputs : addExamples)(files);
});
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());

chooseSize(editor.size);
showExamples();
questionChanged();
prompts.refresh();
showModel();
