/** Probabilities as bars, before and after where there is an after. */
import { html } from "../html.js";
import { counted, percent, points } from "../format.js";

const FIRST = 5;

/**
 * @param {{names: string[], before: number[], after?: number[]|null, marked?: number[]}} props
 *   Marked: classes that are always among the first rows.
 */
export function Probabilities({ names, before, after = null, marked = [] }) {
  const weight = (index) => (marked.includes(index) ? 2 : 0) + Math.max(before[index], after?.[index] ?? 0);
  const order = names.map((_, index) => index).sort((a, b) => weight(b) - weight(a));
  const row = (index) => html`<${Row} key=${index} name=${names[index]} before=${before[index]} after=${after?.[index]} marked=${marked.includes(index)} />`;
  const rest = order.slice(FIRST);
  return html`<div class="probabilities">
    ${after && html`<p class="quiet small">Grey: as it is now. <span class="for">Blue: predicted without them.</span> Last, the change in percentage points.</p>`}
    <ul>${order.slice(0, FIRST).map(row)}</ul>
    ${rest.length > 0 && html`<details><summary class="quiet small">The other ${counted(rest.length, "class", "classes")}</summary><ul class="scroll">${rest.map(row)}</ul></details>`}
  </div>`;
}

function Row({ name, before, after, marked }) {
  return html`<li class=${marked ? "probability marked" : "probability"}>
    <span class="name" title=${name}>${name}</span>
    <span class="bars" aria-hidden="true">
      <span class="bar"><span style=${{ width: `${before * 100}%` }}></span></span>
      ${after !== undefined && html`<span class="bar after"><span style=${{ width: `${after * 100}%` }}></span></span>`}
    </span>
    <span class="numeric value">${after === undefined ? percent(before) : html`${percent(before)} → <strong>${percent(after)}</strong>`}</span>
    ${after !== undefined && html`<span class="numeric value quiet">${points(after - before)}<span class="visually-hidden"> percentage points</span></span>`}
  </li>`;
}
