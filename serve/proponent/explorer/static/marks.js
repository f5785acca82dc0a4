/** Marked training examples as text for other tools. Pure. */

const COLUMNS = ["example_id", "class_id", "label", "predicted_class_id", "self_influence", "source"];

/**
 * @param {any[]} examples Each with its example_id, and what else is known of it.
 * @returns {string} CSV (RFC 4180) with a header; columns of which nothing is known are left out.
 */
export function toCsv(examples) {
  const columns = COLUMNS.filter((column) => examples.some((each) => (each[column] ?? "") !== ""));
  const lines = [columns, ...examples.map((each) => columns.map((column) => String(each[column] ?? "")))];
  return lines.map((cells) => `${cells.map(cell).join(",")}\r\n`).join("");
}

/** @param {string[]} ids @param {string} model @returns {string} A shell's line that forgets them. */
export const forgetCommand = (ids, model) => `proponent forget --model ${[model, "--", ...ids].map(word).join(" ")}`;

const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

const word = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
