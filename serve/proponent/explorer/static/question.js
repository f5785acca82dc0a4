/** What is asked, as it stands in the address. Pure. */

/**
 * @typedef {object} Question
 * @property {string} sample Id of a held-out sample; "" where the input is the caller's own.
 * @property {string} text A text; "" where the input is none.
 * @property {string} record A row as JSON; "" where the input is none.
 * @property {string} image A picture's bytes in URL-safe base64; "" where it is a sample or too large for a link.
 * @property {string} upload Fingerprint of a picture that is too large for a link.
 * @property {number} k Length of each list.
 * @property {number|null} target Class whose label is explained; null means the predicted one.
 * @property {number|null} against The class it is contrasted with.
 * @property {number[]} allow Only examples of these labels.
 * @property {number[]} deny No examples of these labels.
 * @property {Redundancy} term DIVINE's redundancy term.
 * @property {number} gamma Weight of the term.
 * @property {number|null} loss Largest share of influence that DIVINE may lose, instead of gamma.
 * @property {string[]} marks Ids of marked training examples.
 * @property {Estimator} estimator
 * @property {boolean} flip Whether a flip set is looked for.
 * @property {boolean} words Whether words are marked.
 */
/** @typedef {"sum"|"facility-location"|"mmd"} Redundancy */
/** @typedef {"first-order"|"second-order"|"influence-sum"} Estimator */

export const TERMS = ["sum", "facility-location", "mmd"];
export const ESTIMATORS = ["first-order", "second-order", "influence-sum"];
export const DEFAULT_K = 10;
export const DEFAULT_GAMMA = 1;

/** @param {URLSearchParams} params @returns {Question} What cannot be read counts as left out. */
export function readQuestion(params) {
  const target = whole(params.get("target"));
  return {
    sample: params.get("sample") ?? "",
    image: params.get("image") ?? "",
    upload: params.get("upload") ?? "",
    text: params.get("text") ?? "",
    record: params.get("record") ?? "",
    k: Math.max(1, whole(params.get("k")) ?? DEFAULT_K),
    target,
    against: target === null ? null : whole(params.get("against")),
    allow: wholes(params.getAll("allow")),
    deny: wholes(params.getAll("deny")),
    term: one(params.get("term"), TERMS),
    gamma: decimal(params.get("gamma"), Infinity) ?? DEFAULT_GAMMA,
    loss: decimal(params.get("loss"), 1),
    marks: [...new Set(params.getAll("mark"))],
    estimator: one(params.get("estimator"), ESTIMATORS),
    flip: params.has("flip"),
    words: params.has("words"),
  };
}

/** @param {Question} question @returns {boolean} */
export const hasInput = (question) => inputOf(question).some(Boolean);

const inputOf = ({ sample, image, upload, text, record }) => [sample, image, upload, text, record];

/** @param {Question} question @returns {string} Names the input and the label that is explained. */
export const questionKey = (question) => JSON.stringify([...inputOf(question), question.target, question.against]);

/** One Explain call, of the three measures and DIVINE. @param {object} input @param {Question} question @param {string} view */
export function explainBody(input, question, view) {
  const filter = { allow_class_ids: question.allow, deny_class_ids: question.deny };
  const strength = question.loss === null ? { gamma: question.gamma } : { max_influence_loss: question.loss };
  return {
    ...queryBody(input, question),
    top_k: question.k,
    filter,
    view,
    instances: [
      { measures: ["influence", "theta-relatif", "l-relatif"] },
      { measures: ["influence"], diversity: { redundancy: question.term, ...strength } },
    ],
  };
}

/** @param {object} input @param {Question} question The input and the label that is explained. */
export function queryBody(input, { target, against }) {
  if (target === null) return { ...input };
  if (against === null) return { ...input, target: { class_id: target } };
  return { ...input, target: { contrast: { for_class_id: target, against_class_id: against } } };
}

const whole = (text) => (/^\d+$/.test(text ?? "") ? Number(text) : null);
const wholes = (texts) => texts.map(whole).filter((value) => value !== null);
const one = (text, known) => (known.includes(text) ? text : known[0]);

function decimal(text, most) {
  const value = text ? Number(text) : NaN;
  return value >= 0 && value <= most && Number.isFinite(value) ? value : null;
}
