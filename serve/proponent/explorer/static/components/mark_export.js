/** What can be done with marked examples outside of this page. */
import { useId, useState } from "../vendor/hooks.js";
import { html } from "../html.js";
import { forgetCommand, toCsv } from "../marks.js";

/** @param {{examples: any[], model: string}} props Examples: each with its example_id, and what else is known of it. */
export function MarkExport({ examples, model }) {
  const id = useId();
  const command = forgetCommand(examples.map((each) => each.example_id), model);
  return html`<div class="export">
    <div class="row"><button type="button" onClick=${() => download(`${model}-marked.csv`, toCsv(examples))}>Download as CSV</button><${Copy} what="ids" text=${examples.map((each) => each.example_id).join("\n")} /></div>
    <label for=${id} class="quiet small">Where the index is kept, this makes it forget them (what the model learned from them stays until it is retrained):</label>
    <div class="row command"><input id=${id} readonly class="mono" value=${command} onFocus=${(event) => event.target.select()} /><${Copy} what="command" text=${command} /></div>
  </div>`;
}

function Copy({ what, text }) {
  const [state, setState] = useState("");
  const copy = () => navigator.clipboard.writeText(text).then(() => setState("copied"), () => setState("the browser does not allow it"));
  if (!navigator.clipboard) return null;
  return html`<button type="button" onClick=${copy}>Copy ${what}</button><span class="quiet small" role="status">${state}</span>`;
}

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
