/** Calls of the public HTTP API. Each takes an AbortSignal last, and rejects with an ApiError or an AbortError. */
import { noteDigest } from "./bundles.js";
import { token } from "./session.js";

/**
 * What stands in the way, by what a person can do about it.
 * @typedef {"unauthenticated"|"forbidden"|"not_found"|"invalid"|"precondition"|"not_ready"|"overloaded"|"deadline"|"lost"|
 *   "internal"} Kind
 */

/** @type {Record<number, Kind>} */
const KINDS = {
  401: "unauthenticated",
  403: "forbidden",
  404: "not_found",
  409: "precondition",
  429: "overloaded",
  503: "not_ready",
  504: "deadline",
};

/** An error reply (problem+json), or a reply that never came. */
export class ApiError extends Error {
  /**
   * @param {Kind} kind
   * @param {string} message
   * @param {{status?: number, reason?: string, field?: string, retryAfter?: number|null}} [details]
   */
  constructor(kind, message, { status = 0, reason = "", field = "", retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { kind, status, reason, field, retryAfter });
  }
}

/**
 * @param {string} path Below the page's own address, already encoded.
 * @param {Record<string, unknown>} query Left out: what is null, undefined or empty. A list repeats its key.
 * @param {AbortSignal} [signal]
 */
export function get(path, query, signal) {
  const entries = Object.entries(query).flatMap(([key, value]) => [value].flat().map((each) => [key, each]));
  const given = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString();
  return send(text ? `${path}?${text}` : path, { signal });
}

/** @param {string} path @param {object} body @param {AbortSignal} [signal] */
export function post(path, body, signal) {
  const headers = { "content-type": "application/json" };
  return send(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** @param {string} model @param {string} [rest] What follows the model's name. */
export const modelPath = (model, rest = "") => `v1/models/${encodeURIComponent(model)}${rest}`;

/**
 * @param {string} id May be a path: its slashes stay, unless the browser would take a part of it for a step (./ or ../).
 * @returns {string}
 */
export function idPath(id) {
  const parts = id.split("/");
  return parts.map(encodeURIComponent).join(parts.some((part) => part === "." || part === "..") ? "%2F" : "/");
}

export async function listModels(signal) {
  const { models, ready } = await get("v1/models", {}, signal);
  return models.map((name) => ({ name, ready: ready[name] }));
}
export const getModel = (model, signal) => get(modelPath(model), {}, signal);
export const listSamples = (model, query, signal) => get(modelPath(model, "/samples"), query, signal);
export const getSample = (model, id, signal) => get(modelPath(model, `/samples/${idPath(id)}`), {}, signal);
export const explain = (model, body, signal) => post(modelPath(model, ":explain"), body, signal);
export const estimateRemoval = (model, body, signal) => post(modelPath(model, ":estimateRemoval"), body, signal);

async function send(path, options) {
  const authorization = token() ? { authorization: `Bearer ${token()}` } : {};
  const headers = { ...options.headers, ...authorization };
  const response = await reached(() => fetch(path, { ...options, headers, cache: "no-store" }));
  const content = await reached(() => response.text());
  if (!response.ok) throw problemError(response, content);
  const reply = JSON.parse(content);
  for (const { bundle_digest: digest } of [reply, ...(reply.explanations ?? [])]) {
    if (digest) noteDigest(modelOf(path), digest);
  }
  return reply;
}

/** A network that fails is a state of its own, unlike a call that the page itself gave up. */
async function reached(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("lost", "The service cannot be reached.", { retryAfter: 2 });
  }
}

/** @param {Response} response @param {string} content */
function problemError(response, content) {
  const typed = response.headers.get("content-type")?.startsWith("application/problem+json");
  const problem = typed ? JSON.parse(content) : { detail: `The service answered ${response.status} without saying why.` };
  const seconds = Number(response.headers.get("retry-after"));
  return apiError({ ...problem, status: response.status }, seconds > 0 ? seconds : null);
}

/**
 * An error from problem details: a whole reply, or what stands in the place of one instance's answer.
 * @param {{status: number, detail: string, reason?: string, field?: string}} problem
 * @param {number|null} [retryAfter]
 */
export function apiError({ status, detail, reason, field }, retryAfter = null) {
  const kind = KINDS[status] ?? (status < 500 ? "invalid" : "internal");
  return new ApiError(kind, detail, { status, reason, field, retryAfter });
}

const modelOf = (path) => decodeURIComponent(path.split("/")[2].split(/[:?]/)[0]);
