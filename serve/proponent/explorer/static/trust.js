/** How far an answer can be trusted, in words. Pure. */
import { count, figure, percent } from "./format.js";

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
  const range = Number.isFinite(low) && Number.isFinite(high) ? `, between ${correlation(low)} and ${correlation(high)} with 95 % confidence` : "";
  return `Against ${count(lds.subsets)} models that were really retrained, predicted and real changes agree to ${correlation(lds.mean)} of 1${range}. ${possibleSentence(lds)}`;
}

function possibleSentence({ ceiling }) {
  if (!Number.isFinite(ceiling)) return "How high a score could be was not measured: that takes several trainings of each subset.";
  return `Trainings differ among themselves, so that no method would reach more than ${correlation(ceiling)}.`;
}

function coverageSentence({ covered_gradient_energy: covered }) {
  if (!Number.isFinite(covered) || covered > 0.9995) return "";
  return `The layers explained hold ${percent(covered)} of what moves in training; the rest is left out.`;
}

/** A correlation that is not quite 1 is not written as 1. */
export const correlation = (value) => (value > 0.9995 && value < 1 ? "over 0.999" : figure(Number(value.toFixed(3))));

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
