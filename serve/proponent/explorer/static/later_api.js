/** The calls of the API that only parts of the page make which are opened later; as in api.js. */
import { get, modelPath, post } from "./api.js";

export const listExamples = (model, query, signal) => get(modelPath(model, "/examples"), query, signal);
export const listSuspects = (model, query, signal) => get(modelPath(model, "/suspects"), query, signal);
export const summarizeExamples = (model, query, signal) => get(modelPath(model, "/examples:summary"), query, signal);
export const listFrequentExamples = (model, query, signal) => get(modelPath(model, "/frequentExamples"), query, signal);
export const listBundles = (model, signal) => get(modelPath(model, "/bundles"), {}, signal);
export const diffBundles = (model, query, signal) => get(modelPath(model, "/bundles:diff"), query, signal);
export const scoreExamples = (model, body, signal) => post(modelPath(model, ":scoreExamples"), body, signal);
export const highlightExamples = (model, body, signal) => post(modelPath(model, ":highlightExamples"), body, signal);
export const findFlipSet = (model, body, signal) => post(modelPath(model, ":findFlipSet"), body, signal);
