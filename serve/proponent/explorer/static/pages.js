/** A list that comes page by page: what is loaded, and how to get more of it. */
import { useContext, useEffect, useState } from "./vendor/hooks.js";
import { App } from "./context.js";
import { useRequest } from "./request.js";

/** Rows that are kept at most: beyond them nobody scrolls, and filters find more. */
const MOST_ROWS = 10_000;

/**
 * @template Row
 * @typedef {{key: string, rows: Row[], total: number, next: string|null}} List
 *   Next: token of the page that follows, "" before the first, null after the last.
 */

/**
 * @template Row
 * @param {string} name Names the list; another one begins anew.
 * @param {(token: string, signal: AbortSignal) => Promise<{rows: Row[], total: number, next: string}>} load One page.
 * @returns {{list: List<Row>, request: import("./request.js").Request<any>, more: () => void, complete: boolean}}
 */
export function usePages(name, load) {
  const { generation } = useContext(App);
  const key = `${generation} ${name}`;
  const [kept, setKept] = useState(empty(key));
  const [wants, setWants] = useState(false);
  const list = kept.key === key ? kept : empty(key);
  const asks = list.next === "" || (wants && list.next !== null);
  const request = useRequest(asks ? `${name} ${list.next}` : null, async (signal) => ({ key, token: list.next, page: await load(list.next, signal) }));
  useEffect(() => {
    const { data } = request;
    if (data?.key !== key || data.token !== list.next) return;
    setKept(appended(list, data.page));
    setWants(false);
  }, [request.data]);
  useEffect(() => {
    // Another bundle answers by now: the list is another one.
    if (request.error?.reason === "PAGE_TOKEN_STALE") setKept(empty(key));
  }, [request.error]);
  return { list, request, more: () => setWants(true), complete: list.next === null };
}

const empty = (key) => ({ key, rows: [], total: 0, next: "" });

function appended(list, { rows, total, next }) {
  const all = [...list.rows, ...rows];
  return { ...list, rows: all, total, next: next && all.length < MOST_ROWS ? next : null };
}
