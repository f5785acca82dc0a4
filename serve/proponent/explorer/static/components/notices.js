/** What the reader of an answer must know. */
import { html } from "../html.js";
import { noticeSentence } from "../sentences.js";

/** @param {{notices: any[], trainSize: number}} props */
export function Notices({ notices, trainSize }) {
  if (!notices.length) return null;
  return html`<ul class="notices">${notices.map((each) => html`<li key=${each.code}>${noticeSentence(each, trainSize)}</li>`)}</ul>`;
}
