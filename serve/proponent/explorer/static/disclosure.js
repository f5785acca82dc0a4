/** What the service discloses of training examples to whoever looks at the page. Pure but for the token. */
import { token } from "./session.js";

/** @param {any} model GetModelResponse. @returns {string} The most that may be asked for. */
export function allowedView({ allow_examples: examples, allow_thumbnails: thumbnails }) {
  if (thumbnails) return "thumbnail";
  return examples ? "metadata" : "id_only";
}

/** @param {any} model @returns {string} Why an example comes without a picture. */
export function missingReason({ allow_thumbnails: thumbnails }) {
  if (thumbnails) return "the index keeps none of it";
  const operator = "the service was started without --allow-thumbnails";
  return token() ? `${operator}, or your token lacks the scope “examples”` : operator;
}
