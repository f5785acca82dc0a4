/** Which words carry the influence: asked for by who reads, and marked in the texts of all lists. */
import { useContext, useEffect, useId } from "../vendor/hooks.js";
import { App } from "../context.js";
import { allowedView, tells } from "../disclosure.js";
import { score } from "../format.js";
import { html } from "../html.js";
import { highlightExamples } from "../later_api.js";
import { queryBody, questionKey } from "../question.js";
import { useRequest } from "../request.js";
import { visible } from "../rows.js";
import { claim } from "../sentences.js";
import { parts, strongest, together } from "../weights.js";
import { Answer } from "./problem.js";

/** Examples of one call. */
const MOST = 100;

/**
 * @param {{explanation: import("../explanation.js").Explanation, on: boolean,
 *   onDraw: (draw: ((example: any) => any)|null) => void}} props Draw: gives the marked text of an example, where there is one.
 */
export function WordWeights({ explanation, on, onDraw }) {
  const id = useId();
  const { model, update } = useContext(App);
  const ids = [...new Set(listed(explanation, ["proponents", "opponents"]))].slice(0, MOST);
  const request = useWeights(explanation, on ? ids : []);
  const data = on ? request.data : null;
  useEffect(() => onDraw(data && ((example) => drawn(example, data.get(example.example_id)))), [data]);
  const proponents = [...new Set(listed(explanation, ["proponents"]))];
  if (!ids.length || !tells(model, "ROUNDED")) return null;
  const toggle = ({ target }) => update({ words: target.checked ? "yes" : null }, { replace: true });
  return html`<section class="weights" aria-label="Words">
    <p><input type="checkbox" id=${id} checked=${on} onChange=${toggle} /> <label for=${id}>Mark the words that carry it</label></p>
    ${on && html`<${Answer} request=${request} what="Leaving out word by word">
      ${(data) => html`<p class="quiet small">A word that is marked <mark class="plus step3">so</mark> carries a positive influence, <mark class="minus step3">so</mark> a negative one: what the influence would lose if the text lacked the word, strongest where the colour is. In your text: for all that argued for ${claim(explanation.asked)}, together.</p>
        <${MarkedText} text=${explanation.text} words=${together(proponents.map((each) => data.get(each)?.asked ?? []))} />
        ${[...new Set([...data.values()].map((each) => each.unavailable))].filter(Boolean).map((why) => html`<p key=${why} class="quiet small">Some texts have no marks: ${why}.</p>`)}`}
    <//>`}
  </section>`;
}

const listed = ({ results }, sides) => Object.values(results).filter(Boolean).flatMap((each) => sides.flatMap((side) => each[side].map(({ example_id: id }) => id)));

/** @returns {import("../request.js").Request<Map<string, any>>} Highlights by the ids of the examples listed. */
function useWeights({ question, text }, ids) {
  const { model } = useContext(App);
  const key = ids.length ? JSON.stringify([model.name, questionKey(question), ids]) : null;
  return useRequest(key, async (signal) => {
    const query = { ...queryBody({ text }, question), view: allowedView(model) };
    const { highlights } = await highlightExamples(model.name, { query, example_ids: ids }, signal);
    return new Map(highlights.map((each) => [each.example_id, each]));
  });
}

const drawn = (example, found) => found?.text && html`<${MarkedText} text=${found.text} words=${found.example} />`;

/** @param {{text: string, words: import("../weights.js").Weight[]}} props */
export function MarkedText({ text, words }) {
  const said = strongest(text, words);
  const largest = Math.max(0, ...words.map(({ weight }) => Math.abs(weight)));
  return html`<div class="words"><p class="text" dir="auto">${parts(text, words).map(({ text: part, weight, step }, place) =>
    step ? html`<mark key=${place} class=${`${step > 0 ? "plus" : "minus"} step${Math.abs(step)}`} title=${score(weight, largest)}>${visible(part)}</mark>` : visible(part),
  )}</p>
  ${said.length > 0 && html`<p class="quiet small">Carried by ${said.map(({ text: word, weight }) => `“${visible(word)}” ${score(weight, largest)}`).join(", ")}</p>`}</div>`;
}
