/** The service's routes, as functions. Paths are relative, so that the page works behind a prefix too. */

const MOST_ATTEMPTS = 8;
const BUSY = new Set([429, 503]);

/** An answer of problem+json, or none at all; `message` is for people. */
export class Problem extends Error {
  constructor(status, title, detail) {
    super(detail || title);
    this.status = status;
    this.title = title;
  }
}

/**
 * Segment one picture; the answer is a soft mask as a PNG.
 *
 * question: { examples: [{ image, mask }] } or { prompt, label }, and embedding_type.
 * onWait(seconds, problem): told before each wait for a busy service.
 */
export async function segment(image, question, { signal, onWait }) {
  const form = new FormData();
  form.append("image", image, image.name);
  appendExamples(form, question.examples ?? []);
  if (question.prompt) form.append("prompt", question.prompt);
  if (question.label) form.append("label", question.label);
  form.append("embedding_type", question.embedding_type);
  form.append("output", "soft");
  form.append("upsampling", "bilinear");
  const options = { method: "POST", body: form, headers: { Accept: "image/png" }, signal };
  return (await call("v1/segment", options, onWait)).blob();
}

/** Register examples; returns the prompt as the service keeps it. */
export async function registerPrompt(examples, name) {
  const form = new FormData();
  appendExamples(form, examples);
  if (name) form.append("name", name);
  return (await call("v1/prompts", { method: "POST", body: form })).json();
}

/** One page of registered prompts: { prompts, next }. */
export async function listPrompts(after) {
  const query = new URLSearchParams({ limit: "50" });
  if (after) query.set("after", after);
  return (await call(`v1/prompts?${query}`)).json();
}

export async function renamePrompt(id, name) {
  const options = {
    method: "PATCH",
    body: JSON.stringify({ name: name || null }),
    headers: { "Content-Type": "application/json" },
  };
  return (await call(promptPath(id), options)).json();
}

export async function deletePrompt(id) {
  await call(promptPath(id), { method: "DELETE" });
}

export function previewUrl(id) {
  return `${promptPath(id)}/preview`;
}

export async function models() {
  return (await call("v1/models")).json();
}

function promptPath(id) {
  return `v1/prompts/${encodeURIComponent(id)}`;
}

function appendExamples(form, examples) {
  for (const { image, mask } of examples) {
    form.append("prompt_image", image, image.name);
    form.append("prompt_mask", mask, "mask.png");
  }
}

async function call(path, options = {}, onWait = () => {}) {
  for (let attempt = 1; ; attempt += 1) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Problem(0, "No answer", "The service did not answer. Is it running, and is the network up?");
    }
    if (answer.ok) return answer;
    const problem = await readProblem(answer);
    if (!BUSY.has(answer.status) || attempt === MOST_ATTEMPTS) throw problem;
    const seconds = retryAfter(answer.headers.get("Retry-After"), attempt);
    onWait(seconds, problem);
    await pause(seconds, options.signal);
  }
}

async function readProblem(answer) {
  try {
    const body = await answer.json();
    return new Problem(answer.status, body.title ?? answer.statusText, body.detail);
  } catch {
    return new Problem(answer.status, `HTTP ${answer.status}`, `The service answered HTTP ${answer.status}.`);
  }
}

/** Seconds to wait: what the header says (a number or a date), else twice as long each time. */
function retryAfter(header, attempt) {
  const told = header === null ? NaN : Number(header);
  if (Number.isFinite(told)) return Math.max(0.2, told);
  const date = header === null ? NaN : Date.parse(header);
  if (Number.isFinite(date)) return Math.max(0.2, (date - Date.now()) / 1000);
  return Math.min(10, 0.5 * 2 ** (attempt - 1));
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
