/** The list of registered prompts: choose, rename, delete. */

import { deletePrompt, listPrompts, previewUrl, renamePrompt } from "./api.js";

export class PromptList {
  /** The chosen prompt as the service describes it, or null. */
  chosen = null;
  #prompts = [];
  #next = null;
  #list;
  #template;
  #more;
  #dialog;
  #changed;
  #say;

  /**
   * list, template, more, dialog: elements; more loads the next page, dialog asks before anything is changed.
   * changed(): another choice or another list. say(text): for the live region.
   */
  constructor({ list, template, more, dialog }, { changed, say }) {
    this.#list = list;
    this.#template = template;
    this.#more = more;
    this.#dialog = dialog;
    this.#changed = changed;
    this.#say = say;
    more.addEventListener("click", () => this.#load(this.#next));
  }

  get count() {
    return this.#next ? `${this.#prompts.length}+` : String(this.#prompts.length);
  }

  /** Read the list anew. */
  async refresh() {
    await this.#load(null);
  }

  async #load(after) {
    let page;
    try {
      page = await listPrompts(after);
    } catch (error) {
      this.#say(`The saved prompts cannot be listed: ${error.message}`, true);
      return;
    }
    this.#prompts = after ? [...this.#prompts, ...page.prompts] : page.prompts;
    this.#next = page.next;
    const id = this.chosen?.id;
    this.chosen = this.#prompts.find((prompt) => prompt.id === id && prompt.state === "ok") ?? null;
    this.#show();
  }

  #show() {
    this.#list.replaceChildren(...this.#prompts.map((prompt) => this.#item(prompt)));
    this.#more.hidden = !this.#next;
    this.#changed();
  }

  #item(prompt) {
    const item = this.#template.content.firstElementChild.cloneNode(true);
    const part = (name) => item.querySelector(`[data-part="${name}"]`);
    const title = titleOf(prompt);
    const radio = part("choose");
    radio.value = prompt.id;
    radio.checked = prompt.id === this.chosen?.id;
    radio.disabled = prompt.state !== "ok";
    radio.addEventListener("change", () => {
      this.chosen = prompt;
      this.#say(`“${title}” is used now.`);
      this.#changed();
    });
    item.dataset.id = prompt.id;
    part("name").textContent = title;
    part("about").textContent = about(prompt);
    const preview = part("preview");
    if (prompt.state === "ok") preview.src = previewUrl(prompt.id);
    else preview.remove();
    part("rename").setAttribute("aria-label", `Rename ${title}`);
    part("rename").addEventListener("click", () => this.#rename(prompt));
    part("delete").setAttribute("aria-label", `Delete ${title}`);
    part("delete").addEventListener("click", () => this.#delete(prompt));
    return item;
  }

  #rename(prompt) {
    this.#ask({ title: "Rename this prompt", name: prompt.name ?? "", action: "Rename" }, async (name) => {
      await renamePrompt(prompt.id, name.trim());
      this.#say(name.trim() ? `Renamed to “${name.trim()}”.` : "The name is gone; its id stays.");
    });
  }

  #delete(prompt) {
    const title = `Delete “${titleOf(prompt)}”?`;
    const text = "Programs that use it by its name or id will no longer find it.";
    this.#ask({ title, text, action: "Delete", danger: true }, async () => {
      await deletePrompt(prompt.id);
      this.#say(`“${titleOf(prompt)}” is deleted.`);
    });
  }

  /** Ask in the dialog, do `work(name)` when confirmed, and show in it what went wrong. */
  #ask({ title, text = "", name, action, danger = false }, work) {
    const part = (which) => this.#dialog.querySelector(`[data-part="${which}"]`);
    const input = part("input");
    part("title").textContent = title;
    part("text").textContent = text;
    part("error").textContent = "";
    part("confirm").textContent = action;
    part("confirm").classList.toggle("danger", danger);
    part("field").hidden = name === undefined;
    input.value = name ?? "";
    part("form").onsubmit = async (event) => {
      event.preventDefault();
      try {
        await work(input.value);
        this.#dialog.close();
        await this.refresh();
      } catch (error) {
        part("error").textContent = error.message;
      }
    };
    part("cancel").onclick = () => this.#dialog.close();
    this.#dialog.showModal();
    (name === undefined ? part("cancel") : input).focus();
    input.select();
  }
}

function titleOf(prompt) {
  return prompt.name || prompt.id.slice(0, 12);
}

function about(prompt) {
  if (prompt.state !== "ok") return "damaged; delete it and keep it anew";
  const examples = `${prompt.examples} ${prompt.examples === 1 ? "example" : "examples"}`;
  const classes = prompt.labels.length > 1 ? prompt.labels.map((label) => label.name).join(", ") : "";
  return [examples, classes, new Date(prompt.created_at).toLocaleDateString()].filter(Boolean).join(" · ");
}
