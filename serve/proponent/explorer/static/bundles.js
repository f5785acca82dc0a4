/** Which bundle answered last, for each model: two replies of different bundles must not be shown as one. */

const digests = new Map();
const listeners = new Set();

/** @param {string} model @param {string} digest */
export function noteDigest(model, digest) {
  if (digests.get(model) === digest) return;
  digests.set(model, digest);
  listeners.forEach((listener) => listener());
}

/** @param {string} model @returns {string} "" where none has answered. */
export const lastDigest = (model) => digests.get(model) ?? "";

/** @param {() => void} listener @returns {() => void} Ends the subscription. */
export function onDigest(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
