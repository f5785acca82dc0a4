/** What the service discloses of training examples to whoever looks at the page. Pure but for the token. */
import { token } from "./session.js";

/** @param {any} model GetModelResponse. @returns {string} The most that may be asked for. */
export function allowedView({ allow_examples: examples, allow_thumbnails: thumbnails }) {
  if (thumbnails) return "thumbnail";
  return examples ? "metadata" : "id_only";
}

const LEVELS = ["LABELS", "RANKS", "ROUNDED", "FULL"];
const PREFIX = "DISCLOSURE_LEVEL_";

/** What is left out below the level of each. */
const WITHHELD = {
  LABELS: "This service tells you the labels of examples in their order, but neither which they are nor numbers.",
  RANKS: "This service tells you which examples argued and in which order, but no scores.",
  ROUNDED: "This service tells you rounded numbers, and no scores of the two RelatIF measures.",
};

const levelOf = ({ disclosure_level: level = "" }) => level.replace(PREFIX, "");

/** @param {any} model @param {"RANKS"|"ROUNDED"|"FULL"} level @returns {boolean} Whether the caller is told what begins at a level. */
export const tells = (model, level) => !LEVELS.includes(levelOf(model)) || LEVELS.indexOf(levelOf(model)) >= LEVELS.indexOf(level);

/** @param {any} model @returns {string} What the caller is not told; "" where it is all. */
export const withheldSentence = (model) => WITHHELD[levelOf(model)] ?? "";

/** @param {any} model @param {number[]} shares @returns {number[]} As they are told of a removal, so that the two compare. */
export const asTold = (model, shares) => (tells(model, "FULL") ? shares : shares.map((share) => Number(share.toPrecision(2))));

/** @param {any} model @returns {string} Why an example comes without a picture. */
export function missingReason(model) {
  if (!tells(model, "RANKS")) return "you are told labels only";
  if (model.allow_thumbnails) return "the index keeps none of it";
  const operator = "the service was started without --allow-thumbnails";
  return token() ? `${operator}, or your token lacks the scope “examples”` : operator;
}
