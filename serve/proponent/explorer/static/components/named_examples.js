/** Training examples that are named by their ids, with what they say about the input. */
import { useContext } from "../vendor/hooks.js";
import { scoreExamples } from "../later_api.js";
import { App } from "../context.js";
import { allowedView, missingReason } from "../disclosure.js";
import { caseOf } from "../explanation.js";
import { count } from "../format.js";
import { html } from "../html.js";
import { loadInput } from "../input.js";
import { followLight } from "../lit.js";
import { queryBody, questionKey } from "../question.js";
import { useRequest } from "../request.js";
import { claim } from "../sentences.js";
import { ExampleRow } from "./example_list.js";
import { Answer } from "./problem.js";

/**
 * @param {any} model @param {import("../question.js").Question} question @param {string[]} ids
 * @returns {import("../request.js").Request<{scores: any[], asked: import("../sentences.js").Case, record: Record<string, any>|null, trainSize: number}>}
 *   Scores: Influences in the order of the ids.
 */
export function useNamedExamples(model, question, ids) {
  const key = ids.length ? JSON.stringify([model.name, questionKey(question), ids]) : null;
  return useRequest(key, async (signal) => {
    const { body } = await loadInput(model, question);
    const query = { ...queryBody(body, question), measures: ["influence"], view: allowedView(model) };
    const { results, prediction, train_size: trainSize } = await scoreExamples(model.name, { query, example_ids: ids }, signal);
    return { scores: results[0].scores, asked: caseOf(model, question, prediction), record: body.record ?? null, trainSize };
  });
}

/** @param {{request: import("../request.js").Request<any>}} props */
export function NamedExamples({ request }) {
  const { model } = useContext(App);
  return html`<${Answer} request=${request} what="Fetching the examples">
    ${({ scores, asked, record, trainSize }) => {
      const shown = { names: model.class_names, reason: missingReason(model), asked: record };
      const largest = Math.max(...scores.map((each) => Math.abs(each.score)));
      return html`<p class="quiet small">Scores are influence: + argued for ${claim(asked)}, − against. Score ÷ ${count(trainSize)} is about how much the loss for it rises without the example, where the others keep their weights.</p>
        <ol class="named" onMouseOver=${followLight} onFocusIn=${followLight}>
        ${scores.map((each) => html`<${ExampleRow} key=${each.example_id} example=${each} largest=${largest} shown=${shown} />`)}
      </ol>`;
    }}
  <//>`;
}
