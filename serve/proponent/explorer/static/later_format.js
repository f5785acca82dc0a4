/** Words for what only parts of the page show which are opened later; as in format.js. */
import { fixed } from "./format.js";

/** @param {string} seconds A duration as ProtoJSON writes it, e.g. "0.004s". */
export const milliseconds = (seconds) => fixed(Number.parseFloat(seconds) * 1000, 1);

/** @param {string} time RFC 3339 */
export const date = (time) => (time ? `${time.slice(0, 10)} ${time.slice(11, 16)} UTC` : "unknown");

/** @param {string} digest */
export const shortDigest = (digest) => digest.slice(0, 12);
