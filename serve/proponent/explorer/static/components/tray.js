/** The strip at the bottom: the example that is lit, and those that are marked. */
import { useEffect, useState } from "../vendor/hooks.js";
import { html } from "../html.js";
import { counted, figure, score } from "../format.js";
import { lit } from "../lit.js";
import { isWorded, summary } from "../rows.js";
import { MEASURES } from "../sentences.js";
import { Labels } from "./example_list.js";
import { Thumbnail } from "./picture.js";

/**
 * @param {{results: Record<string, any>, names: string[], reason: string, marks: string[], link: string, onClear: () => void}} props
 *   Results by the measure's key; link: to what if the marked examples were gone; "" where that is not told.
 */
export function Tray({ results, names, reason, marks, link, onClear }) {
  return html`<aside class="tray" aria-label="Example and marks">
    <${Lit} results=${results} names=${names} reason=${reason} />
    <div class="row marked-count" aria-live="polite">
      <span>${marks.length ? `${counted(marks.length, "example")} marked` : link && "Mark examples to see what would change without them."}</span>
      ${marks.length > 0 && html`${link && html`<a class="button primary" href=${link}>What if they were gone?</a> `}<button type="button" onClick=${onClear}>Unmark all</button>`}
    </div>
  </aside>`;
}

/** @returns {string} The id of the example that is lit; "" before the first. */
function useLit() {
  const [id, setId] = useState(lit.id);
  useEffect(() => {
    lit.listeners.add(setId);
    return () => lit.listeners.delete(setId);
  }, []);
  return id;
}

function Lit({ results, names, reason }) {
  const id = useLit();
  const places = placesOf(results, id);
  if (!places.length) return html`<p class="lit-example quiet small">Point at an example, or move to it by the keyboard, and it lights up in every list.</p>`;
  const { example } = places[0];
  return html`<div class="lit-example">
    ${isWorded(example) ? html`<p class="summary" title=${summary(example)}>${summary(example)}</p>` : html`<${Thumbnail} example=${example} reason=${reason} class="medium" />`}
    <p><strong>${id}</strong> labelled <${Labels} example=${example} names=${names} />${example.self_influence !== undefined && html`, self-influence <span class="numeric">${figure(example.self_influence)}</span>`}${example.source && html`, from <span class="source">${example.source}</span>`}</p>
    <ul class="places">${places.map(({ name, example: found }) => html`<li key=${name} class="numeric">${name} ${found.score !== undefined && html`<strong class=${found.score < 0 ? "against" : "for"}>${score(found.score, Math.abs(found.score))}</strong> `}<span class="quiet">rank ${found.rank}</span></li>`)}</ul>
  </div>`;
}

/** @param {Record<string, any>} results @param {string} id */
function placesOf(results, id) {
  return MEASURES.flatMap(({ key, name }) => {
    const { proponents = [], opponents = [] } = results[key] ?? {};
    const example = [...proponents, ...opponents].find((each) => each.example_id === id);
    return example ? [{ name, example }] : [];
  });
}
