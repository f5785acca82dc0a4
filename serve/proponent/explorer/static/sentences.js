/** What the figures say, in words that need no knowledge of the method. Pure. */
import { count, figure, percent, percents } from "./format.js";

/**
 * @typedef {object} Case What is explained.
 * @property {string[]} names Class names.
 * @property {number} predicted
 * @property {number} target
 * @property {number|null} against
 */

/** @param {Case} asked @returns {string} E.g. "3" or "3 rather than 8". */
export function claim({ names, target, against }) {
  return against === null ? names[target] : `${names[target]} rather than ${names[against]}`;
}

/** @param {Case} asked @param {{proponents: any[], filtered: boolean}} found */
export function leadSentence(asked, { proponents, filtered }) {
  const which = filtered ? "Of the examples that the filter lets through, " : "";
  if (!proponents.length) return `${which || "No "}${which ? "none" : "training example"} argued for ${claim(asked)}.`;
  const what = proponents.length === 1 ? "this training example" : "these training examples";
  return `${which || what[0].toUpperCase()}${which ? what : what.slice(1)} argued for ${claim(asked)}.`;
}

/**
 * What a group's removal is predicted to do to the explained label.
 * @param {Case} asked
 * @param {string} group Of what, e.g. "the first".
 * @param {number[]} before Probabilities in class order.
 * @param {number[]} after
 */
export function removalSentence(asked, group, before, after) {
  const { names, predicted, target, against } = asked;
  const winner = after.indexOf(Math.max(...after));
  const [was, would] = percents(before[target], after[target]);
  if (against !== null) {
    const [otherWas, otherWould] = percents(before[against], after[against]);
    return `Without ${group}, ${names[target]} would get ${would} instead of ${was}, while ${names[against]} would get ${otherWould} instead of ${otherWas}.`;
  }
  if (winner !== predicted) {
    return `Without ${group}, the model would say ${names[winner]}: ${names[target]} would get ${would} instead of ${was}.`;
  }
  if (was === would) return `Without ${group}, ${names[target]} would get what it gets now: ${was}.`;
  const less = after[target] < before[target];
  if (target === predicted) return `Without ${group}, the model would be ${less ? "less sure" : "even surer"}: ${would} instead of ${was}.`;
  return `Without ${group}, ${names[target]} would be ${less ? "less" : "more"} likely: ${would} instead of ${was}.`;
}

/** @param {Case} asked @returns {{plus: string, minus: string}} What the sign of a score means. */
export const signSentences = (asked) => ({
  plus: `training on the example moved this prediction towards ${claim(asked)}`,
  minus: "away from it",
});

/**
 * The measures, in the order of the columns: what one of their scores says.
 * @type {{key: string, name: string, scale: (asked: Case, trainSize: number) => string}[]}
 */
export const MEASURES = [
  {
    key: "MEASURE_INFLUENCE",
    name: "Influence (IF)",
    scale: (asked, n) => `What moved this prediction most. Score ÷ ${count(n)}: about how much the loss for ${claim(asked)} rises without the example, where the others keep their weights.`,
  },
  {
    key: "MEASURE_THETA_RELATIF",
    name: "θ-RelatIF",
    scale: () => "Influence for how far the example moves the model as a whole: finds what speaks about this input in particular.",
  },
  {
    key: "MEASURE_L_RELATIF",
    name: "l-RelatIF",
    scale: () => "Influence for how much the example weighs on predictions at large: outliers that move everything step back.",
  },
  {
    key: "DIVINE",
    name: "DIVINE",
    scale: () => "Influence again, on the same scale, chosen so that the list does not repeat itself; it keeps the share of IF's influence that stands beside.",
  },
];

/** @param {any} outcome DiversityOutcome */
export function keptSentence({ influence_kept: kept, mean_similarity: similarity, plain_similarity: plain }) {
  return `Keeps ${percent(kept)} of the influence of IF's list; its examples are alike by ${figure(similarity, 2)} on average instead of ${figure(plain, 2)} (1: the same).`;
}
