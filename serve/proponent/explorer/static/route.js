/** The address is the whole state of a view: `#/VIEW?KEY=VALUE&...`. */
import { useEffect, useState } from "./vendor/hooks.js";

/** @typedef {{view: string, params: URLSearchParams}} Route */

/** @param {string} hash @returns {Route} */
export function parseHash(hash) {
  const [path, query = ""] = hash.replace(/^#?\/?/, "").split(/\?(.*)/s);
  return { view: path || "explain", params: new URLSearchParams(query) };
}

/** @param {Route} route @returns {string} */
export function formatHash({ view, params }) {
  const query = params.toString();
  return query ? `#/${view}?${query}` : `#/${view}`;
}

/**
 * @param {URLSearchParams} params
 * @param {Record<string, string|string[]|null|undefined>} changes Null, undefined, "" and [] take a key out.
 * @returns {URLSearchParams}
 */
export function withChanges(params, changes) {
  const changed = new URLSearchParams(params);
  for (const [key, value] of Object.entries(changes)) {
    changed.delete(key);
    for (const each of [value ?? []].flat()) if (each !== "") changed.append(key, each);
  }
  return changed;
}

/**
 * Goes to another address of this page.
 * @param {Route} route
 * @param {{replace?: boolean}} [options] Replace: without a step of its own in the browser's history.
 */
export function go(route, { replace = false } = {}) {
  const hash = formatHash(route);
  if (hash === location.hash) return;
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  dispatchEvent(new Event("hashchange"));
}

/** @returns {Route} The present address, as it changes. */
export function useRoute() {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const follow = () => setHash(location.hash);
    addEventListener("hashchange", follow);
    addEventListener("popstate", follow);
    return () => {
      removeEventListener("hashchange", follow);
      removeEventListener("popstate", follow);
    };
  }, []);
  return parseHash(hash);
}
