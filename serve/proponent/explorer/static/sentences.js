/** What the figures say, in words that need no knowledge of the method. Pure. */
import { count, counted, figure, percent, percents } from "./format.js";

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

/** @param {number} size Of a group that is removed. */
export const groupName = (size) => (size === 1 ? "the marked example" : `the ${count(size)} marked examples`);

/** @param {Case} asked @param {number} change Of the explained loss, in nats where the loss is a log-likelihood. */
export function lossSentence(asked, change) {
  const { names, target, against } = asked;
  const loss = against === null ? `The loss for ${names[target]}` : `The loss for ${names[target]} less that for ${names[against]}`;
  return change === 0 ? `${loss} would not change.` : `${loss} would ${change > 0 ? "rise" : "fall"} by ${figure(Math.abs(change))}.`;
}

/** What each estimator of a removal is good for. */
export const ESTIMATOR_WORDS = {
  "first-order": { name: "Straight line", words: "Adds up what each example does on its own. Fast, and right for a few examples." },
  "second-order": { name: "One Newton step", words: "Also counts what is left once the group is gone. Better for larger groups of examples that are alike; slower." },
  "influence-sum": { name: "Influence ÷ N", words: "As in the literature (Koh & Liang 2017): the others keep their weight. For single examples even the sign may be wrong when the mean loss is retrained." },
};

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
    scale: (asked, n) => `What moved this prediction most. Score ÷ ${count(n)}: about how much the loss for ${claim(asked)} rises without the example.`,
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

/**
 * How far the answer can be trusted, from what the bundle's audit measured.
 * @param {any} quality Quality of a reply.
 * @returns {string[]}
 */
export function trustSentences({ curvature, kept_energy: kept, audit = {} }) {
  return [computedSentence(curvature, kept), rankingSentence(audit), retrainedSentence(audit), coverageSentence(audit)].filter(Boolean);
}

function computedSentence(curvature, kept) {
  const how = curvature === "exact" ? "the exact curvature of the training loss" : `an approximation of the training loss's curvature (${curvature.toUpperCase()})`;
  return `The scores use ${how}; the index keeps ${percent(kept)} of what the training examples' gradients hold.`;
}

function rankingSentence({ spearman, queries, queries_from: origin }) {
  if (!Number.isFinite(spearman)) return "";
  const from = origin === "held-out set" ? "held-out inputs" : "training inputs";
  return `On ${count(queries)} ${from} the stored vectors rank training examples ${closeness(spearman)} (${correlation(spearman)} of 1).`;
}

function retrainedSentence({ lds }) {
  if (!Number.isFinite(lds?.mean)) return "It has not been compared with models that were really retrained (proponent audit does that).";
  const [low, high] = lds.interval_95 ?? [];
  const range = Number.isFinite(low) && Number.isFinite(high) ? `, between ${figure(low, 2)} and ${figure(high, 2)} with 95 % confidence` : "";
  return `Against ${count(lds.subsets)} models that were really retrained, predicted and real changes agree to ${figure(lds.mean, 2)} of 1${range}.`;
}

function coverageSentence({ covered_gradient_energy: covered }) {
  if (!Number.isFinite(covered) || covered > 0.9995) return "";
  return `The layers explained hold ${percent(covered)} of what moves in training; the rest is left out.`;
}

/** A correlation that is not quite 1 is not written as 1. */
const correlation = (value) => (value > 0.9995 && value < 1 ? "over 0.999" : figure(Number(value.toFixed(3))));

/** @param {number} correlation */
function closeness(correlation) {
  if (correlation > 0.9999) return "just as the full computation does";
  if (correlation > 0.98) return "almost as the full computation does";
  if (correlation > 0.9) return "much as the full computation does";
  if (correlation > 0.6) return "roughly as the full computation does";
  return "only loosely as the full computation does: take single ranks with care";
}

/** @param {any} model GetModelResponse */
export function dampingSentence({ damping, damping_relative: relative }) {
  if (damping === 0) return "Nothing was added to the curvature (no damping).";
  return `The curvature was damped by ${figure(damping)}${relative ? " of each layer's mean" : ""}: more damping makes scores steadier and less particular.`;
}

/** @param {{code: string, message: string, count: number}} notice */
export function noticeSentence({ code, message, count: number }, trainSize) {
  switch (code) {
    case "CODE_ZERO_INFLUENCE":
      return "No training example has any influence on this prediction: its loss is flat here (with hinge loss: the margin is kept), so that no small change of the model would move it.";
    case "CODE_NO_DIRECTION":
      return "The model is so sure of this input that its gradient vanishes: there is no direction in which training examples could be compared.";
    case "CODE_ROWS_OMITTED":
      return `${counted(number, "training example")} of ${count(trainSize)} pulled the model in no direction at all; the RelatIF lists leave them out.`;
    case "CODE_LAYERS_UNCOVERED":
      return "Part of what was trained in this model takes no part in the explanation.";
    case "CODE_PARAMETERS_FROZEN":
      return `${counted(number, "tensor")} of parameters were not trained (frozen) and take no part.`;
    case "CODE_K_CAPPED":
      return "There are fewer training examples to choose from than were asked for.";
    default:
      return message;
  }
}

/** @param {any} summary SummarizeExamplesResponse: what the model makes of the labels that it was trained on. */
export function suspectSentence({ classes, total, label_issues: issues }) {
  const disagreeing = classes.reduce((sum, each) => sum + each.disagreeing_count, 0);
  if (!disagreeing) return `The model agrees with the labels of all ${count(total)} training examples.`;
  const said = `Of ${counted(total, "training example")} the model disagrees with the label of ${count(disagreeing)}, although it was trained on them.`;
  if (!issues) return `${said} None of these leans on itself unusually much.`;
  return `${said} ${issues === disagreeing ? "All of these" : `${count(issues)} of these`} also lean on themselves more than nine in ten others: suspects of a wrong label, first in the list below.`;
}
