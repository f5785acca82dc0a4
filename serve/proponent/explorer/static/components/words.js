/** What shows a training example that is no picture: its text, or its row and in what it differs from the one asked about. */
import { createContext } from "../vendor/preact.js";
import { useContext } from "../vendor/hooks.js";
import { App } from "../context.js";
import { html } from "../html.js";
import { cells, visible } from "../rows.js";

const LONG = 300;

/** Draws a text, or gives nothing; null where texts are plain. */
export const Drawing = createContext(null);

/** @param {{example: any, asked?: Record<string, any>|null}} props Asked: the row that was asked about. */
export function Words({ example, asked = null }) {
  const { text, record } = example;
  const drawing = useContext(Drawing);
  const columns = useContext(App).model.input_signature.columns.map(({ name }) => name);
  const drawn = drawing?.(example);
  if (drawn) return drawn;
  if (text) return html`<p class="words" dir="auto" tabindex=${text.length > LONG ? 0 : null}>${visible(text)}</p>`;
  return html`<dl class="words">${cells(record, asked, columns).map(
    ({ column, value, was }) => html`<div key=${column} class=${was !== null && "changed"}><dt>${visible(column)}</dt><dd>${visible(value)}${was !== null && html` <s><span class="visually-hidden">not </span>${visible(was)}</s>`}</dd></div>`,
  )}</dl>`;
}
