/** The measures side by side. */
import { html } from "../html.js";
import { MEASURES } from "../sentences.js";
import { followLight } from "../lit.js";
import { ExampleList } from "./example_list.js";

/**
 * @param {{results: Record<string, any>, errors: Record<string, string>, asked: import("../sentences.js").Case,
 *   trainSize: number, shown: Omit<import("./example_list.js").Shown, "lists"|"columns">}} props
 *   Results and errors by the measure's key.
 */
export function MeasureColumns({ results, errors, asked, trainSize, shown }) {
  const found = MEASURES.filter(({ key }) => results[key]);
  const all = { ...shown, lists: listCounts(found.map(({ key }) => results[key])), columns: found.length };
  const sizes = Object.fromEntries(found.map(({ key }) => [key, largestScore(results[key])]));
  // DIVINE chooses from the examples that IF ranks: the scores are the same, and so is their scale.
  const shared = Math.max(sizes.MEASURE_INFLUENCE ?? 0, sizes.DIVINE ?? 0);
  const largest = (key) => (key === "DIVINE" || key === "MEASURE_INFLUENCE" ? shared : sizes[key]);
  return html`<div class="columns" onMouseOver=${followLight} onFocusIn=${followLight}>
    ${MEASURES.map(
      (measure) => html`<section class="column" key=${measure.key} aria-label=${measure.name}>
        <div class="about"><h3>${measure.name}</h3><p class="quiet small">${measure.scale(asked, trainSize)}</p></div>
        ${errors[measure.key] && html`<p class="failed small" role="alert">${errors[measure.key]}</p>`}
        ${results[measure.key] && html`<${Both} result=${results[measure.key]} largest=${largest(measure.key)} shown=${all} />`}
      </section>`,
    )}
  </div>`;
}

function Both({ result, largest, shown }) {
  const { proponents, opponents } = result;
  return html`
    <${ExampleList} title="Argued for" side="for" examples=${proponents} largest=${largest} shown=${shown} outcome=${result.proponents_diversity} />
    <${ExampleList} title="Argued against" side="against" examples=${opponents} largest=${largest} shown=${shown} outcome=${result.opponents_diversity} />`;
}

/** @param {any[]} results @returns {Map<string, number>} In how many of the results each example stands, on either side. */
export function listCounts(results) {
  const counts = new Map();
  for (const { proponents, opponents } of results) {
    const ids = new Set([...proponents, ...opponents].map((each) => each.example_id));
    for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1);
  }
  return counts;
}

function largestScore({ proponents, opponents }) {
  return Math.max(0, ...[...proponents, ...opponents].map((each) => Math.abs(each.score ?? 0)));
}
