/** A call as a part of a component: asked again when its key changes, given up when it leaves, retried by itself. */
import { useContext, useEffect, useRef, useState } from "./vendor/hooks.js";
import { App } from "./context.js";

const LONGEST_WAIT = 15;

/**
 * @template T
 * @typedef {object} Request
 * @property {T|null} data Of the last key that was answered: shown, dimmed, until the next answer is there.
 * @property {import("./api.js").ApiError|null} error
 * @property {boolean} loading
 * @property {number|null} retryAt When it is tried again by itself, in milliseconds since the epoch.
 * @property {() => void} retry
 */

/**
 * @template T
 * @param {string|null} key Names the call; null asks nothing.
 * @param {(signal: AbortSignal) => Promise<T>} run
 * @returns {Request<T>}
 */
export function useRequest(key, run) {
  const { generation } = useContext(App);
  const [state, setState] = useState({ key: null, data: null, error: null, retryAt: null });
  const [attempt, setAttempt] = useState(0);
  const failures = useRef(0);
  const asked = key === null ? null : `${generation} ${key}`;
  useEffect(() => {
    failures.current = 0;
  }, [asked]);
  useEffect(() => {
    if (asked === null) return undefined;
    const aborting = new AbortController();
    let timer;
    // A part of the page arrives even where it was given up.
    const show = (data, error = null, retryAt = null) =>
      aborting.signal.aborted || setState({ key: asked, data, error, retryAt });
    const fail = (error) => {
      if (aborting.signal.aborted) return;
      const wait = 1000 * retryDelay(error, (failures.current += 1));
      if (wait) timer = setTimeout(() => setAttempt((n) => n + 1), wait);
      show(null, error, wait ? Date.now() + wait : null);
    };
    run(aborting.signal).then((data) => show(data), fail);
    return () => {
      aborting.abort();
      clearTimeout(timer);
    };
  }, [asked, attempt]);
  const current = state.key === asked;
  return {
    data: asked === null ? null : state.data,
    error: current ? state.error : null,
    loading: asked !== null && !current,
    retryAt: current ? state.retryAt : null,
    retry: () => setAttempt((n) => n + 1),
  };
}

/**
 * Seconds until a call is tried again, more after each failure; null where only a person can help.
 * @param {{kind: string, retryAfter: number|null}} error
 * @param {number} failures How often the same call has failed, from 1.
 */
export function retryDelay(error, failures) {
  if (error.retryAfter === null && error.kind !== "not_ready") return null;
  return Math.max(error.retryAfter ?? 0, Math.min(2 ** failures, LONGEST_WAIT));
}
