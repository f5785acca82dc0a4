/** One explanation with all four lists, as the views show it. */
import { apiError, explain } from "./api.js";
import { allowedView } from "./disclosure.js";
import { loadInput } from "./input.js";
import { explainBody } from "./question.js";

/**
 * @typedef {object} Explanation
 * @property {import("./question.js").Question} question What was asked.
 * @property {Record<string, any>|null} record The row that was asked about, where it was one.
 * @property {string} text The text that was asked about, where it was one.
 * @property {any} reply ExplainResponse of the three measures.
 * @property {Record<string, any>} results MeasureResults by the measure's name, and DIVINE.
 * @property {Record<string, string>} errors Why a measure has no result.
 * @property {import("./sentences.js").Case} asked
 */

/**
 * @param {any} model @param {import("./question.js").Question} question @param {AbortSignal} signal
 * @returns {Promise<Explanation|"not carried">}
 */
export async function askExplanation(model, question, signal) {
  const { body } = await loadInput(model, question);
  if (body === null) return "not carried";
  const { explanations } = await explain(model.name, explainBody(body, question, allowedView(model)), signal);
  const [reply, divine] = explanations;
  if (reply.error) throw apiError(reply.error);
  return {
    question,
    record: body.record ?? null,
    text: body.text ?? "",
    reply,
    results: { ...Object.fromEntries(reply.results.map((each) => [each.measure, each])), DIVINE: divine.results?.[0] },
    errors: divine.error ? { DIVINE: divine.error.detail } : {},
    asked: caseOf(model, question, reply.prediction),
  };
}

/** @param {any} model @param {import("./question.js").Question} question @param {any} prediction */
export function caseOf(model, { target, against }, prediction) {
  const explained = target ?? prediction.class_id;
  return { names: model.class_names, predicted: prediction.class_id, target: explained, against: target === null ? null : against };
}
