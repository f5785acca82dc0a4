/** Held-out inputs that the operator lets callers try. */
import { useContext, useState } from "../vendor/hooks.js";
import { listSamples } from "../api.js";
import { App } from "../context.js";
import { html } from "../html.js";
import { count } from "../format.js";
import { nounOf } from "../input.js";
import { isWorded, summary } from "../rows.js";
import { token } from "../session.js";
import { useRequest } from "../request.js";
import { Thumbnail } from "./picture.js";
import { Answer } from "./problem.js";

const PAGE = 16;

/** @param {{chosen: string, onChoose: (id: string) => void}} props */
export function Samples({ chosen, onChoose }) {
  const { model } = useContext(App);
  if (!model.allow_samples) return html`<p class="quiet small">${closedSentence()} ${OWN[nounOf(model)]}</p>`;
  if (!model.samples) return html`<p class="quiet small">This bundle keeps no held-out inputs to try. ${OWN[nounOf(model)]}</p>`;
  return html`<${Pages} model=${model} chosen=${chosen} onChoose=${onChoose} />`;
}

const OWN = { picture: "Drop a picture of your own.", text: "Write a text of your own.", row: "Fill in a row of your own." };

const closedSentence = () =>
  token()
    ? "Held-out inputs to try are not open to you: the service was started without --allow-samples, or your token lacks the scope “examples”."
    : "Held-out inputs to try are not open here: the service was started without --allow-samples.";

function Pages({ model, chosen, onChoose }) {
  const [tokens, setTokens] = useState([""]);
  const at = tokens[tokens.length - 1];
  const query = { page_size: PAGE, page_token: at, view: "thumbnail" };
  const page = useRequest(`samples ${model.name} ${at}`, (signal) => listSamples(model.name, query, signal));
  const first = (tokens.length - 1) * PAGE;
  return html`<${Answer} request=${page} what="Fetching samples">
    ${({ samples, total, next_page_token: next }) => html`
      <ul class=${samples.some(isWorded) ? "samples worded" : "samples"}>${samples.map((each) => html`<${Choice} key=${each.sample_id} sample=${each} names=${model.class_names} chosen=${each.sample_id === chosen} onChoose=${onChoose} />`)}</ul>
      <div class="row small pager">
        <button type="button" aria-label="Previous samples" disabled=${tokens.length === 1} onClick=${() => setTokens(tokens.slice(0, -1))}>←</button>
        <span class="numeric">${count(first + 1)}–${count(first + samples.length)} of ${count(total)} held-out inputs</span>
        <button type="button" aria-label="More samples" disabled=${!next} onClick=${() => setTokens([...tokens, next])}>→</button>
      </div>`}
  <//>`;
}

function Choice({ sample, names, chosen, onChoose }) {
  const wrong = sample.predicted_class_id !== sample.class_id;
  const said = wrong ? `Sample of ${sample.label}, taken for ${names[sample.predicted_class_id]}` : `Sample of ${sample.label}`;
  return html`<li><button type="button" class=${wrong ? "sample wrong" : "sample"} aria-pressed=${chosen} aria-label=${said} title=${`${said} (${sample.sample_id})`} onClick=${() => onChoose(sample.sample_id)}>
    ${isWorded(sample) ? html`<span class="summary">${summary(sample)}</span>` : html`<${Thumbnail} example=${sample} reason="the input is not a picture" class="small" />`}
  </button></li>`;
}
