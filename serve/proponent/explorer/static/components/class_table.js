/** What is known of the training examples of each class. */
import { count, figure } from "../format.js";
import { html } from "../html.js";

/** @param {{classes: any[], onClass: ((id: number) => void)|null}} props OnClass: its examples are to be listed; null where they cannot be. */
export function ClassTable({ classes, onClass }) {
  const largest = Math.max(...classes.map((each) => Math.max(each.count, each.predicted_count)));
  return html`<div class="scroll classes" tabindex="0" role="region" aria-label="Counts by class"><table class="wide">
    <thead><tr><th scope="col">class</th><th scope="col" class="number">labelled</th><td></td><th scope="col" class="number">model says</th><th scope="col" class="number">disagree</th><th scope="col" class="number">suspects</th><th scope="col" class="number">median self-influence</th></tr></thead>
    <tbody>${classes.map((each) => html`<${ClassRow} key=${each.class_id} summary=${each} largest=${largest} onClass=${onClass} />`)}</tbody>
  </table></div>`;
}

function ClassRow({ summary, largest, onClass }) {
  const { class_id: id, label } = summary;
  return html`<tr class="numeric">
    <th scope="row" title=${label}>${onClass ? html`<button type="button" class="chip" title=${`List the examples labelled ${label}`} onClick=${() => onClass(id)}>${label}</button>` : label}</th>
    <td class="number">${count(summary.count)}</td>
    <td class="bar-cell" aria-hidden="true"><span class="bar"><span style=${{ width: `${largest ? (100 * summary.count) / largest : 0}%` }}></span></span></td>
    <td class="number">${count(summary.predicted_count)}</td>
    <td class="number">${count(summary.disagreeing_count)}</td>
    <td class="number">${count(summary.label_issues)}</td>
    <td class="number">${summary.median_self_influence === undefined ? html`<span class="quiet">not told</span>` : figure(summary.median_self_influence)}</td>
  </tr>`;
}
