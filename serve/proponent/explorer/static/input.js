/** The input of a question, as it is sent and as it is shown. */
import { getSample } from "./api.js";
import { fromBase64, keptPicture, toBase64 } from "./pictures.js";
import { hasInput, questionKey } from "./question.js";
import { useRequest } from "./request.js";

/**
 * @typedef {object} Input
 * @property {object|null} body The request's field; null where the link speaks of a picture that it does not carry.
 * @property {Uint8Array|null} picture
 * @property {any} sample As GetSample gives it; null for a picture.
 */

const samples = new Map();

/**
 * @param {any} model GetModelResponse.
 * @param {import("./question.js").Question} question
 * @returns {Promise<Input>} A sample is asked for once for each bundle.
 */
export async function loadInput(model, { sample, image, upload, text, record }) {
  if (text) return ofWords({ text });
  if (record) return ofWords({ record: readRecord(record) });
  if (!sample) return ofPicture(image ? fromBase64(image) : keptPicture(upload));
  const key = JSON.stringify([model.name, model.bundle_digest, sample]);
  if (!samples.has(key)) samples.set(key, getSample(model.name, sample).then(ofSample));
  return samples.get(key).catch((error) => {
    samples.delete(key);
    throw error;
  });
}

/** @param {any} model @param {import("./question.js").Question} question @returns {import("./request.js").Request<Input>} */
export function useInput(model, question) {
  const key = hasInput(question) ? `input ${model.name} ${questionKey({ ...question, target: null, against: null })}` : null;
  return useRequest(key, () => loadInput(model, question));
}

function ofSample({ sample }) {
  const picture = fromBase64(sample.encoded_image || sample.thumbnail);
  const body = sample.encoded_image ? { image: sample.encoded_image } : Object.fromEntries(KINDS.filter((kind) => sample[kind]).map((kind) => [kind, sample[kind]]));
  return { body, picture: picture.length ? picture : null, sample };
}

const KINDS = ["tensor", "tensors", "text", "record"];
const ofWords = (body) => ({ body, picture: null, sample: null });

/** What an address says, which may be no row at all: the service then says so. */
function readRecord(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

/** @param {any} model @returns {"text"|"row"|"picture"} What its inputs are to people. */
export const nounOf = (model) => ({ INPUT_KIND_TEXT: "text", INPUT_KIND_RECORD: "row" })[model.input_signature?.kind] ?? "picture";

const ofPicture = (picture) => ({ body: picture && { image: toBase64(picture) }, picture, sample: null });
