/** The training examples of one measure, on one scale for both sides. */
import { html } from "../html.js";
import { headAndTail, percent, score } from "../format.js";
import { isWorded } from "../rows.js";
import { keptSentence } from "../sentences.js";
import { Mark } from "./mark.js";
import { Thumbnail } from "./picture.js";
import { Words } from "./words.js";

/**
 * @typedef {object} Shown How the examples of all lists are shown.
 * @property {string[]} names Class names.
 * @property {string} reason Why examples are not shown.
 * @property {Record<string, any>|null} [asked] The row that was asked about.
 * @property {Map<string, number>} [lists] In how many columns an example stands, where there are several.
 * @property {number} [columns]
 */

/** @param {{title: string, side: "for"|"against", examples: any[], largest: number, shown: Shown, outcome?: any}} props */
export function ExampleList({ title, side, examples, largest, shown, outcome }) {
  return html`<section class="list">
    <h4><span class=${side}>${title}</span>${outcome && html`<span class="quiet small numeric" title=${keptSentence(outcome)}>keeps ${percent(outcome.influence_kept)}</span>`}</h4>
    ${examples.length === 0 && html`<p class="quiet small">No training example did.</p>`}
    <ol>${examples.map((each) => html`<${ExampleRow} key=${each.example_id || each.rank} example=${each} largest=${largest} shown=${shown} />`)}</ol>
  </section>`;
}

/** @param {{example: any, largest: number, shown: Shown}} props */
export function ExampleRow({ example, largest, shown }) {
  const { example_id: id } = example;
  const worded = isWorded(example);
  return html`<li class=${worded ? "example worded" : "example"} data-example=${id || null}>
    ${id && html`<${Mark} id=${id} />`}
    ${worded ? html`<${Words} example=${example} asked=${shown.asked} />` : html`<${Thumbnail} example=${example} reason=${shown.reason} class="small" />`}
    <span class="title"><${Id} id=${id} />${id && shown.lists && html`<${ListCount} number=${shown.lists.get(id)} of=${shown.columns} />`}</span>
    <span class="score numeric">${example.score === undefined ? html`<span class="quiet">rank ${example.rank}</span>` : score(example.score, largest)}</span>
    <span class="labels"><${Labels} example=${example} names=${shown.names} /></span>
    ${example.score !== undefined && html`<${ScoreBar} value=${example.score} largest=${largest} />`}
  </li>`;
}

/** An id that is too long is cut in its middle: ids often begin alike. */
function Id({ id }) {
  const [head, tail] = headAndTail(id);
  return html`<span class="id" title=${id}>${head && html`<span class="cut">${head}</span>`}<span class="tail">${tail}</span></span>`;
}

function ListCount({ number, of }) {
  const said = `In ${number} of ${of} lists`;
  return html`<span class="lists quiet numeric" title=${said}><span aria-hidden="true">${number}/${of}</span><span class="visually-hidden">${said}</span></span>`;
}

/** @param {{example: any, names: string[]}} props Its label, and the model's own where that differs. */
export function Labels({ example, names }) {
  const predicted = names[example.predicted_class_id];
  if (example.predicted_class_id === example.class_id) return html`<span class="cut" title=${`${example.label}; the model says the same`}>${example.label}</span>`;
  return html`<span class="cut" title=${example.label}>${example.label}</span> <span class="differs cut" title=${`Labelled ${example.label}, but the model says ${predicted}`}>model: ${predicted}</span>`;
}

/** A bar that starts in the middle: to the right for, to the left against. */
function ScoreBar({ value, largest }) {
  const width = largest ? (Math.abs(value) / largest) * 50 : 0;
  return html`<span class="signed" aria-hidden="true"><span class=${value < 0 ? "against" : "for"} style=${{ width: `${width}%` }}></span></span>`;
}
