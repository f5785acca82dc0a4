/** Marked training examples as text for other tools. Pure. */

const COLUMNS = ["example_id", "class_id", "label", "predicted_class_id", "self_influence", "source", "text"];

/**
 * @param {any[]} examples Each with its example_id, and what else is known of it.
 * @returns {string} CSV (RFC 4180) with a header; columns of which nothing is known are left out. Text that a
 *   spreadsheet would compute (=, +, -, @ in front) begins with an apostrophe.
 */
export function toCsv(examples) {
  const columns = COLUMNS.filter((column) => examples.some((each) => (each[column] ?? "") !== ""));
  const lines = [columns, ...examples.map((each) => columns.map((column) => String(each[column] ?? "")))];
  return lines.map((cells) => `${cells.map(cell).join(",")}\r\n`).join("");
}

/** @param {string[]} ids @param {string} model @returns {string} A shell's line that forgets them. */
export const forgetCommand = (ids, model) => `proponent forget --model ${[model, "--", ...ids].map(word).join(" ")}`;

const cell = (text) => quoted(/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text);

const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function word(text) {
  if (/^[\w@%+:,./-][\w@%+=:,./-]*$/.test(text)) return text;
  if (/[\x00-\x1f\x7f]/.test(text)) return ansiQuoted(text);
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Control characters would act on the terminal, or be lost in a field of one line: bash and zsh read them as escapes. */
function ansiQuoted(text) {
  const escaped = text.replace(/[\\'\x00-\x1f\x7f]/g, (each) => (each < " " || each === "\x7f" ? hex(each) : `\\${each}`));
  return `$'${escaped}'`;
}

const hex = (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
