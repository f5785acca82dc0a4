/** What is said of a removal in the view that is about it. Pure. */
import { count, figure } from "./format.js";

/** @param {number} size Of a group that is removed. */
export const groupName = (size) => (size === 1 ? "the marked example" : `the ${count(size)} marked examples`);

/** @param {import("./sentences.js").Case} asked @param {number} change Of the explained loss, in nats where the loss is a log-likelihood. */
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

/** @param {import("./question.js").Estimator} estimator @returns {string} As the API names it. */
export const estimatorName = (estimator) => `ESTIMATOR_${estimator.toUpperCase().replace("-", "_")}`;
