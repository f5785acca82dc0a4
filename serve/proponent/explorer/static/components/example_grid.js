/** Training examples as a long table: only the rows in sight are in the document, with their pictures. */
import { useEffect, useState } from "../vendor/hooks.js";
import { figure } from "../format.js";
import { html } from "../html.js";
import { followLight } from "../lit.js";
import { isWorded, summary } from "../rows.js";
import { useVisible } from "../visible.js";
import { Thumbnail } from "./picture.js";

/**
 * @typedef {object} Shown
 * @property {string[]} names Class names.
 * @property {string} reason Why there are no pictures.
 * @property {Set<string>} marks
 * @property {(id: string, marked: boolean) => void} onMark
 */

/**
 * @param {{rows: any[], total: number, largest: number, shown: Shown, order: string,
 *   onOrder: ((order: string) => void)|null, onNearEnd: () => void}} props
 *   Largest: of all self-influences, the bars' full length. OnOrder: null where the order cannot be chosen.
 */
export function ExampleGrid({ rows, total, largest, shown, order, onOrder, onNearEnd }) {
  const { scroller, first, last, rowHeight, reveal } = useVisible(rows.length);
  const [active, setActive] = useState(0);
  const inSight = Math.min(Math.max(active, first), Math.max(first, last - 1));
  useEffect(() => {
    if (last >= rows.length - 10) onNearEnd();
  }, [last, rows.length]);
  const move = (event) => {
    const to = target(event.key, active, rows.length, Math.floor(scroller.current.clientHeight / rowHeight));
    if (to === null) return;
    event.preventDefault();
    setActive(to);
    reveal(to);
    requestAnimationFrame(() => requestAnimationFrame(() => scroller.current?.querySelector(`[data-row="${to}"] input`)?.focus({ preventScroll: true })));
  };
  const name = rows.some(isWorded) ? "grid worded" : "grid";
  return html`<div class=${name} role="grid" aria-label="Training examples" aria-rowcount=${total + 1} aria-colcount="6" onMouseOver=${followLight} onFocusIn=${followLight}>
    <${Head} order=${order} onOrder=${onOrder} />
    <div class="grid-body" role="rowgroup" ref=${scroller} onKeyDown=${move}>
      <div role="presentation" class="grid-space" style=${{ height: `${rows.length * rowHeight}px` }}>
        ${rows.slice(first, last).map((example, place) => {
          const row = first + place;
          return html`<${Row} key=${example.example_id} example=${example} row=${row} top=${row * rowHeight} largest=${largest} shown=${shown} reachable=${row === inSight} onActive=${setActive} />`;
        })}
      </div>
    </div>
  </div>`;
}

/** @returns {number|null} The row that a key leads to; null where it is not one of those that move. */
function target(key, active, count, page) {
  const moves = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: count - 1 };
  return key in moves ? Math.max(0, Math.min(count - 1, moves[key])) : null;
}

function Head({ order, onOrder }) {
  return html`<div role="rowgroup" class="grid-head"><div role="row" class="grid-row" aria-rowindex="1">
    <span role="columnheader" class="cell-mark"><span class="visually-hidden">Mark</span></span>
    <span role="columnheader" class="cell-picture"><span class="visually-hidden">What it is</span></span>
    <${Sort} class="cell-id" name="Example" orders=${["example-id"]} order=${order} onOrder=${onOrder} />
    <${Sort} class="cell-label" name="Given label" orders=${["class"]} order=${order} onOrder=${onOrder} />
    <span role="columnheader" class="cell-said">Suggested: the model’s</span>
    <${Sort} class="cell-size" name="Self-influence" orders=${["self-influence-descending", "self-influence-ascending"]} order=${order} onOrder=${onOrder} />
  </div></div>`;
}

/** A column that can be sorted by; a second press turns it around where that is possible. */
function Sort({ class: cell, name, orders, order, onOrder }) {
  const at = orders.indexOf(order);
  const sorted = at < 0 ? "none" : order.endsWith("descending") ? "descending" : "ascending";
  const arrow = { none: "", ascending: " ↑", descending: " ↓" }[sorted];
  if (!onOrder) return html`<span role="columnheader" class=${cell} aria-sort=${sorted}>${name}${arrow}</span>`;
  return html`<span role="columnheader" class=${cell} aria-sort=${sorted}><button type="button" class="sort" onClick=${() => onOrder(orders[(at + 1) % orders.length])}>${name}<span aria-hidden="true">${arrow}</span></button></span>`;
}

function Row({ example, row, top, largest, shown, reachable, onActive }) {
  const { example_id: id, self_influence: size } = example;
  const differs = example.predicted_class_id !== example.class_id;
  return html`<div role="row" class="grid-row example-row" data-example=${id} data-row=${row} aria-rowindex=${row + 2} style=${{ transform: `translateY(${top}px)` }}>
    <span role="gridcell" class="cell-mark"><input type="checkbox" tabindex=${reachable ? 0 : -1} aria-label=${`Mark ${id}`} checked=${shown.marks.has(id)} onFocus=${() => onActive(row)} onChange=${(event) => shown.onMark(id, event.target.checked)} /></span>
    <span role="gridcell" class="cell-picture">${isWorded(example) ? html`<span class="summary" title=${summary(example)}>${summary(example)}</span>` : html`<${Thumbnail} example=${example} reason=${shown.reason} class="small" />`}</span>
    <span role="gridcell" class="cell-id" title=${example.source || id}>${id}</span>
    <span role="gridcell" class="cell-label">${example.label}</span>
    <span role="gridcell" class="cell-said">${differs ? html`<span class="differs">${shown.names[example.predicted_class_id]}</span>` : html`<span class="quiet">the same</span>`}${example.is_label_issue && html` <span class="suspect">suspect</span>`}</span>
    <span role="gridcell" class="cell-size">${size === undefined ? html`<span class="quiet">not told</span>` : html`<span class="numeric">${figure(size)}</span><span class="bar" aria-hidden="true"><span style=${{ width: `${largest > 0 ? (100 * size) / largest : 0}%` }}></span></span>`}</span>
  </div>`;
}
